//! What the operator decides.

use clap::{Args, Parser, ValueEnum};
use runtime::options::{CHECKOUT, CacheOptions, ListenOptions, TelemetryOptions, under_assets};
use std::path::PathBuf;

/// The command line of the service.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "promptgen",
    version,
    about = "Writes text-to-image prompts for an ability",
    after_help = "Examples:
  promptgen --abilities ./abilities --listen 127.0.0.1:50051
  promptgen --backend openai --llm-url http://127.0.0.1:8000/v1 --llm-model qwen3-8b --journal prompts.jsonl
  promptgen --backend local --language-model models/qwen3-4b-q4_k_m.gguf"
)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Where to listen.
    #[command(flatten)]
    pub listen: ListenOptions,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryOptions,
}

/// What decides the service's answers and bounds.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Folder of ability files.
    #[arg(long, env = "DIPTYCH_ABILITIES", default_value_os_t = under_assets("abilities"), value_name = "DIR")]
    pub abilities: PathBuf,
    /// Who writes the prompts.
    #[arg(long = "backend", env = "DIPTYCH_PROMPTGEN_BACKEND", value_enum, default_value_t = Backend::Grammar)]
    pub backend: Backend,
    /// Model that embeds texts: builtin:nano-clip, or a folder with a CLIP or SigLIP in transformers'
    /// layout, or of sentence-transformers over BERT. With an empty name, TextEmbeddingService is not offered.
    #[arg(long, env = "DIPTYCH_EMBEDDING_MODEL", default_value = EMBEDDING_MODEL, value_name = "MODEL")]
    pub embedding_model: String,
    /// Folder that `builtin:` models and abilities are found under.
    #[arg(long, env = "DIPTYCH_ASSETS", default_value = CHECKOUT, value_name = "DIR")]
    pub assets: PathBuf,
    /// Most prompts that one request may ask for.
    #[arg(long, env = "DIPTYCH_PROMPTGEN_MAX_ITEMS", default_value_t = MAX_ITEMS, value_name = "COUNT")]
    pub max_items: usize,
    /// Largest message that this service's methods take or give, in bytes.
    #[arg(skip = MAX_MESSAGE_BYTES)]
    pub max_message_bytes: usize,
    /// Journal of the language model's answers: what is in there is never asked, or paid, again. One
    /// process at a time. Without it, a restart asks again what the cache has lost.
    #[arg(long, env = "DIPTYCH_PROMPTGEN_JOURNAL", value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Keywords that an ability should have; the language model is asked once per recipe seed for what
    /// its file lacks; a remote one needs --journal for that. 0 means those of the file.
    #[arg(long, env = "DIPTYCH_PROMPTGEN_KEYWORD_COUNT", default_value_t = 0, value_parser = keyword_count, value_name = "COUNT")]
    pub keyword_count: usize,
    /// The language model of the back-end `openai`.
    #[command(flatten)]
    pub llm: llm::Options,
    /// The language model of the back-end `local`.
    #[command(flatten)]
    pub local: llm::LocalOptions,
    /// The cache of prompts and embeddings.
    #[command(flatten)]
    pub cache: CacheOptions,
}

/// Who writes the prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The ability's file, by its seeded order.
    Grammar,
    /// A language model behind any OpenAI-compatible server; see --llm-url and --llm-model.
    Openai,
    /// A language model in this process; see --language-model.
    Local,
}

const EMBEDDING_MODEL: &str = "builtin:nano-clip";
const MAX_ITEMS: usize = 4096;
/// Most keywords of an ability.
const MAX_KEYWORD_COUNT: usize = 500;
const MAX_MESSAGE_BYTES: usize = 16 << 20;

impl Arguments {
    /// The service's options, with the listener's message bound.
    pub fn service(&self) -> Options {
        Options {
            max_message_bytes: self.listen.max_message_bytes,
            ..self.options.clone()
        }
    }
}

impl Options {
    /// Options for the assets under a folder, everything else at its default.
    pub fn for_assets(assets: PathBuf) -> Self {
        Self {
            abilities: assets.join("abilities"),
            backend: Backend::Grammar,
            embedding_model: EMBEDDING_MODEL.to_owned(),
            assets,
            max_items: MAX_ITEMS,
            max_message_bytes: MAX_MESSAGE_BYTES,
            journal: None,
            keyword_count: 0,
            llm: llm::Options::default(),
            local: llm::LocalOptions::default(),
            cache: CacheOptions::default(),
        }
    }

    /// Name and folder of the embedding model, where one is wanted. The default one may be absent
    /// from a folder of assets; one that was asked for may not.
    pub(crate) fn embedding_folder(&self) -> Option<(String, PathBuf)> {
        let name = self.embedding_model.clone();
        if name.is_empty() {
            return None;
        }
        let folder = match name.strip_prefix("builtin:") {
            Some(builtin) => self.assets.join("models/nano").join(builtin),
            None => PathBuf::from(&name),
        };
        let is_there = name != EMBEDDING_MODEL || folder.is_dir();
        is_there.then_some((name, folder))
    }
}

fn keyword_count(text: &str) -> Result<usize, String> {
    let count = text
        .parse()
        .ok()
        .filter(|&count| count <= MAX_KEYWORD_COUNT);
    count.ok_or_else(|| format!("give 0 to {MAX_KEYWORD_COUNT}"))
}
