//! What an operator can set.

use std::path::PathBuf;

use clap::Args;
use runtime::options::{ArtefactOptions, CHECKOUT, CacheOptions, NamedFolder};

/// Options of the evaluation service.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Folder with `abilities/` and `models/`; what is there is served as `builtin:...`.
    #[arg(long, env = "DIPTYCH_ASSETS", default_value = CHECKOUT, value_name = "DIR")]
    pub assets: Option<PathBuf>,
    /// Another model to serve; repeat it for more.
    #[arg(long = "model", value_name = "NAME=DIR")]
    pub models: Vec<NamedFolder>,
    /// Another benchmark to serve; repeat it for more.
    #[arg(long = "benchmark", value_name = "NAME=DIR")]
    pub benchmarks: Vec<NamedFolder>,
    /// Where artefacts lie. Jobs are kept under the first root; without one there are none.
    #[command(flatten)]
    pub artefacts: ArtefactOptions,
    /// Where answers are kept.
    #[command(flatten)]
    pub cache: CacheOptions,
    /// Jobs of each kind that may wait; the next is refused.
    #[arg(long, env = "DIPTYCH_EVAL_QUEUE_CAPACITY", default_value_t = QUEUE_CAPACITY, value_name = "COUNT")]
    pub queue_capacity: usize,
    /// Ended jobs of each kind that are remembered.
    #[arg(long, env = "DIPTYCH_EVAL_KEPT_JOBS", default_value_t = KEPT_JOBS, value_name = "COUNT")]
    pub kept_jobs: usize,
    /// Streams of answers at a time; the next is refused.
    #[arg(long, env = "DIPTYCH_EVAL_MAX_STREAMS", default_value_t = MAX_STREAMS, value_name = "COUNT")]
    pub max_streams: usize,
    /// Questions that one request may hold.
    #[arg(long, env = "DIPTYCH_EVAL_MAX_ITEMS", default_value_t = MAX_ITEMS, value_name = "COUNT")]
    pub max_items: u32,
    /// Models kept in memory for the next call.
    #[arg(long, env = "DIPTYCH_EVAL_KEPT_MODELS", default_value_t = KEPT_MODELS, value_name = "COUNT")]
    pub kept_models: usize,
}

const QUEUE_CAPACITY: usize = 8;
const KEPT_JOBS: usize = 100;
const MAX_STREAMS: usize = 16;
const MAX_ITEMS: u32 = 1024;
const KEPT_MODELS: usize = 2;

impl Default for Options {
    fn default() -> Self {
        Self {
            assets: None,
            models: Vec::new(),
            benchmarks: Vec::new(),
            artefacts: ArtefactOptions::default(),
            cache: CacheOptions::default(),
            queue_capacity: QUEUE_CAPACITY,
            kept_jobs: KEPT_JOBS,
            max_streams: MAX_STREAMS,
            max_items: MAX_ITEMS,
            kept_models: KEPT_MODELS,
        }
    }
}
