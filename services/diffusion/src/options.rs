//! What an operator can set.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use models::ops::precision::Precision;
use models::ops::simd::Isa;
use runtime::options::{ArtefactOptions, CHECKOUT, CacheOptions, NamedFolder};

use crate::remote::RemoteOptions;

/// Options of the diffusion service.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Diffusion")]
pub struct Options {
    /// Folder with `models/nano/`; what is there is served as `builtin:...`.
    #[arg(long, env = "DIPTYCH_ASSETS", default_value = CHECKOUT, value_name = "DIR")]
    pub assets: Option<PathBuf>,
    /// Who paints. `openai-images` serves the one model of --llm-url and --llm-model, and none of --model.
    #[arg(
        long,
        env = "DIPTYCH_DIFFUSION_BACKEND",
        value_enum,
        default_value_t = Backend::Candle
    )]
    pub backend: Backend,
    /// Checkpoint in diffusers' layout to serve, with LoRA files to merge into it, each times its scale
    /// [default: 1]; repeat it for more. The first is the default.
    #[arg(long = "model", value_name = "NAME=DIR[+LORA[:SCALE]]...")]
    pub models: Vec<NamedFolder>,
    /// Memory that the weights of all --model together may take, in bytes, or as 6GiB or 500MiB; four
    /// bytes count for each number of a checkpoint. Its safety checker stays in memory and does not
    /// count; equal ones are there once. The model used longest ago leaves for another, and
    /// is loaded again when it is asked for [default: no bound; all stay in memory].
    #[arg(long, env = "DIPTYCH_MODEL_MEMORY_BYTES", value_parser = bytes, value_name = "BYTES")]
    pub model_memory_bytes: Option<u64>,
    /// Ask every model for a small picture before the first call is let in: what is built on first use
    /// is there then, and a model that gives none is refused.
    #[arg(long, env = "DIPTYCH_WARM_UP", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub warm_up: bool,
    /// CLIP or SigLIP in transformers' layout that scores images; repeat it for more. The first is the
    /// default.
    #[arg(long = "scoring-model", value_name = "NAME=DIR")]
    pub scoring_models: Vec<NamedFolder>,
    /// Model that tells unsafe images: diffusers' safety checker, or a ViT classifier in transformers'
    /// layout [default: the folder safety_checker/ of the first --model, where it has one].
    #[arg(long, env = "DIPTYCH_SAFETY_MODEL", value_parser = named_or_plain, value_name = "[NAME=]DIR")]
    pub safety_model: Option<NamedFolder>,
    /// Label of a classifier that means unsafe; repeat it for more [default: those of nsfw, unsafe,
    /// porn, hentai, sexy, explicit and sexual that it has].
    #[arg(
        long = "unsafe-label",
        env = "DIPTYCH_UNSAFE_LABELS",
        value_delimiter = ',',
        value_name = "LABEL"
    )]
    pub unsafe_labels: Vec<String>,
    /// Probability of these labels together from which on a classifier calls an image unsafe, over 0
    /// to 1. A safety checker has thresholds of its own.
    #[arg(long, env = "DIPTYCH_UNSAFE_THRESHOLD", default_value_t = UNSAFE_THRESHOLD, value_parser = threshold, value_name = "PROBABILITY")]
    pub unsafe_threshold: f32,
    /// What becomes of pictures that the safety checker of their own checkpoint flags.
    #[arg(
        long,
        env = "DIPTYCH_UNSAFE_PICTURES",
        value_enum,
        default_value_t,
        value_name = "RULE"
    )]
    pub unsafe_pictures: UnsafePictures,
    /// Pictures that may wait for the device; the next request is refused.
    #[arg(long, env = "DIPTYCH_DIFFUSION_QUEUE_CAPACITY", default_value_t = QUEUE_CAPACITY, value_name = "COUNT")]
    pub queue_capacity: usize,
    /// Pictures on the device at a time, of their models' own sizes; larger ones count as several.
    #[arg(long, env = "DIPTYCH_DIFFUSION_MAX_BATCH", default_value_t = MAX_BATCH, value_name = "COUNT")]
    pub max_batch: usize,
    /// How long a device with nothing to do waits for a full batch, in milliseconds, from the moment
    /// that the first picture came; one that works takes pictures in between its steps, without a wait.
    #[arg(long, env = "DIPTYCH_DIFFUSION_BATCH_WAIT_MS", default_value_t = BATCH_WAIT_MS, value_parser = clap::value_parser!(u64).range(..=MAX_BATCH_WAIT_MS), value_name = "MS")]
    pub batch_wait_ms: u64,
    /// Pictures that one request may ask for.
    #[arg(long, env = "DIPTYCH_DIFFUSION_MAX_ITEMS", default_value_t = MAX_ITEMS, value_name = "COUNT")]
    pub max_items: usize,
    /// Instruction set to render with, so that two machines give the same bytes: avx512, avx2 or
    /// portable [default: the best of this processor]. CLIP scores use the processor's best, and may
    /// differ in their last bits.
    #[arg(long, env = "DIPTYCH_ISA", value_name = "SET")]
    pub isa: Option<Isa>,
    /// Numbers that the denoiser multiplies: f32, or bf16 for about twice the speed and pictures that are
    /// near those of f32 and not the same; the model then has a hash of its own. bf16 needs a processor
    /// with AVX512_BF16.
    #[arg(
        long,
        env = "DIPTYCH_DIFFUSION_PRECISION",
        default_value = "f32",
        value_name = "PRECISION"
    )]
    pub precision: Precision,
    /// What the server of the back-end `openai-images` offers.
    #[command(flatten)]
    pub remote: RemoteOptions,
    /// Where that server is, and every bound on it.
    #[command(flatten)]
    pub llm: llm::Options,
    /// Where images that are given by reference lie.
    #[command(flatten)]
    pub artefacts: ArtefactOptions,
    /// Where embeddings are kept.
    #[command(flatten)]
    pub cache: CacheOptions,
}

/// What becomes of pictures that a checkpoint's own safety checker flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum UnsafePictures {
    /// Withheld, unless the request asks for them.
    #[default]
    OnRequest,
    /// Delivered with the verdict.
    Deliver,
    /// Withheld always; a request that asks for them is refused.
    Withhold,
}

/// Who paints the pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// Models of --model, in this process.
    Candle,
    /// A model behind a server that speaks OpenAI's images API.
    OpenaiImages,
}

const UNSAFE_THRESHOLD: f32 = 0.5;
const QUEUE_CAPACITY: usize = 1024;
const MAX_BATCH: usize = 8;
const BATCH_WAIT_MS: u64 = 2;
const MAX_BATCH_WAIT_MS: u64 = 60_000;
const MAX_ITEMS: usize = 256;

impl Default for Options {
    fn default() -> Self {
        Self {
            assets: None,
            backend: Backend::Candle,
            models: Vec::new(),
            model_memory_bytes: None,
            warm_up: true,
            scoring_models: Vec::new(),
            safety_model: None,
            unsafe_labels: Vec::new(),
            unsafe_threshold: UNSAFE_THRESHOLD,
            unsafe_pictures: UnsafePictures::default(),
            queue_capacity: QUEUE_CAPACITY,
            max_batch: MAX_BATCH,
            batch_wait_ms: BATCH_WAIT_MS,
            max_items: MAX_ITEMS,
            isa: None,
            precision: Precision::default(),
            remote: RemoteOptions::default(),
            llm: llm::Options::default(),
            artefacts: ArtefactOptions::default(),
            cache: CacheOptions::default(),
        }
    }
}

/// A folder under a name, or under itself.
fn named_or_plain(text: &str) -> Result<NamedFolder, String> {
    match text.contains('=') {
        true => text.parse(),
        false => Ok(NamedFolder {
            name: text.to_owned(),
            folder: text.into(),
        }),
    }
}

/// A number of bytes, or of the binary multiples that people think in.
fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
    let read = units.iter().find_map(|(unit, shift)| {
        let count: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        count.checked_mul(1 << shift)
    });
    read.filter(|count| *count > 0)
        .ok_or_else(|| "give a number of bytes, or one with KiB, MiB or GiB".to_owned())
}

fn threshold(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|&p: &f32| p > 0. && p <= 1.);
    value.ok_or_else(|| "give a number over 0, and at most 1".to_owned())
}
