//! What the operator decides.

use clap::{Args, Parser, ValueEnum};
use runtime::options::{ListenOptions, TelemetryOptions, under_assets};
use std::path::PathBuf;

/// The command line of the service.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "dialogue",
    version,
    about = "Writes conversations about images and checks them",
    after_help = "Examples:
  dialogue --abilities ./abilities --listen 127.0.0.1:50053
  dialogue --backend openai --vision --llm-url http://127.0.0.1:8000/v1 --llm-model qwen3-vl-8b --journal dialogues.jsonl
  dialogue --backend local --language-model models/qwen3-4b-q4_k_m.gguf"
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
    /// Who writes the conversations.
    #[arg(long = "backend", env = "DIPTYCH_DIALOGUE_BACKEND", value_enum, default_value_t = Backend::Grammar)]
    pub backend: Backend,
    /// Most conversations that one request may ask for.
    #[arg(long, env = "DIPTYCH_DIALOGUE_MAX_ITEMS", default_value_t = MAX_ITEMS, value_name = "COUNT")]
    pub max_items: usize,
    /// Show the pictures to the language model, which must be one that sees. Requests must then bring
    /// them, inline.
    #[arg(long, env = "DIPTYCH_DIALOGUE_VISION")]
    pub vision: bool,
    /// Journal of the language model's answers: what is in there is never asked, or paid, again. One
    /// process at a time. Without it, every request asks anew.
    #[arg(long, env = "DIPTYCH_DIALOGUE_JOURNAL", value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// The language model of the back-end `openai`.
    #[command(flatten)]
    pub llm: llm::Options,
    /// The language model of the back-end `local`.
    #[command(flatten)]
    pub local: llm::LocalOptions,
    /// Largest message that this service's methods take or give, in bytes.
    #[arg(skip = MAX_MESSAGE_BYTES)]
    pub max_message_bytes: usize,
}

/// Who writes the conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The ability's templates, filled from the facts.
    Grammar,
    /// A language model behind any OpenAI-compatible server; see --llm-url and --llm-model.
    Openai,
    /// A language model in this process; see --language-model.
    Local,
}

const MAX_ITEMS: usize = 4096;
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
            max_items: MAX_ITEMS,
            vision: false,
            journal: None,
            llm: llm::Options::default(),
            local: llm::LocalOptions::default(),
            max_message_bytes: MAX_MESSAGE_BYTES,
        }
    }
}
