//! What an operator can set.

use std::path::PathBuf;

use clap::Args;
use runtime::options::{ArtefactOptions, CHECKOUT};

/// Options of the trainer.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Training")]
pub struct Options {
    /// Folder with `models/`; what is there is served as `builtin:...`.
    #[arg(long, env = "DIPTYCH_ASSETS", default_value = CHECKOUT, value_name = "DIR")]
    pub assets: PathBuf,
    /// Where models and data are read and runs are written. Jobs are kept under the first root.
    #[command(flatten)]
    pub artefacts: ArtefactOptions,
    /// Jobs that may wait; the next is refused.
    #[arg(long, env = "DIPTYCH_TRAINER_QUEUE_CAPACITY", default_value_t = QUEUE_CAPACITY, value_name = "COUNT")]
    pub queue_capacity: usize,
    /// Ended jobs that are remembered.
    #[arg(long, env = "DIPTYCH_TRAINER_KEPT_JOBS", default_value_t = KEPT_JOBS, value_name = "COUNT")]
    pub kept_jobs: usize,
    /// Memory for image features, kept between jobs, in bytes.
    #[arg(long, env = "DIPTYCH_TRAINER_FEATURE_CACHE_BYTES", default_value_t = FEATURE_CACHE_BYTES, value_name = "BYTES")]
    pub feature_cache_bytes: usize,
}

const QUEUE_CAPACITY: usize = 8;
const KEPT_JOBS: usize = 100;
const FEATURE_CACHE_BYTES: usize = 512 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            assets: PathBuf::from(CHECKOUT),
            artefacts: ArtefactOptions::default(),
            queue_capacity: QUEUE_CAPACITY,
            kept_jobs: KEPT_JOBS,
            feature_cache_bytes: FEATURE_CACHE_BYTES,
        }
    }
}
