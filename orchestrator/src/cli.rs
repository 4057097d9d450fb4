//! The command line: a contract that scripts rely on. Arguments that one command alone has stand beside
//! it in `commands`; those of the others are here.

mod generate;

use std::{net::SocketAddr, path::PathBuf};

use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    builder::NonEmptyStringValueParser,
};
use dataset::store::Location;
use runtime::options::{
    ArtefactOptions, CacheOptions, ClientOptions, ListenOptions, TelemetryOptions,
};

pub use self::generate::PictureArgs;
pub use crate::commands::{
    AuditArgs, BenchmarkArg, ExportArgs, ExportFormat, ImportArgs, ImportFormat, PlanArgs,
    PreviewArgs, RunArgs, ScoreArgs, ScoreMode, StageArg, SynthArgs, TrainArgs,
};
use crate::{conformance::Subject, recipe::PromptSyntax};

/// Makes image–dialogue pairs and shows what they are worth.
#[derive(Debug, Parser)]
#[command(name = "diptych", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

impl Cli {
    /// Reads the command line of this process, or ends it with what is wrong: exit code 2.
    ///
    /// A negative number is a value and no option, so that `--seed -1` is told what a seed is.
    pub fn read() -> Self {
        let matches = taking_negative_numbers(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

fn taking_negative_numbers(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| argument.allow_negative_numbers(true))
        .mut_subcommands(taking_negative_numbers)
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print the result as JSON on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// Folder with abilities/, models/ and recipes/ [default: the checkout this was built from].
    #[arg(long, global = true, env = "DIPTYCH_ASSETS", value_name = "DIR")]
    pub assets: Option<PathBuf>,
    /// Services to use, as name=URL: `--endpoints diffusion=http://host:50052`. Services that
    /// are not named are started in this process. Images are scored at `scoring` and texts
    /// embedded at `embedding`; without them at `diffusion` and `promptgen`, where these offer it,
    /// else in this process.
    #[arg(
        long,
        global = true,
        env = "DIPTYCH_ENDPOINTS",
        value_delimiter = ',',
        value_name = "NAME=URL"
    )]
    pub endpoints: Vec<String>,
    /// Language model of the back-end `local` in services started in this process: a folder in the
    /// layout of transformers, or a .gguf file.
    #[arg(
        long,
        global = true,
        env = "DIPTYCH_LANGUAGE_MODEL",
        value_name = "PATH"
    )]
    pub language_model: Option<PathBuf>,
    /// How services are reached.
    #[command(flatten)]
    pub client: ClientOptions,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryOptions,
    /// The cache of services started in this process.
    #[command(flatten)]
    pub cache: CacheOptions,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start all five services in one process, on five ports from --listen on
    #[command(
        after_help = "Example:\n  diptych up --listen 127.0.0.1:50051 --artefact-root runs\n\nThen, elsewhere:\n  diptych synth recipes/tiny.toml --out runs/tiny --endpoints promptgen=http://127.0.0.1:50051,diffusion=http://127.0.0.1:50052,dialogue=http://127.0.0.1:50053"
    )]
    Up(UpArgs),
    /// Run a whole experiment; run it again to continue it
    #[command(
        after_help = "Example:\n  diptych run recipes/demo.toml --out runs/demo\n\nPaths in a recipe start from the folder in which the command runs, as those of the command line do."
    )]
    Run(RunArgs),
    /// Say what a run will take, from a short timed probe; nothing is kept
    #[command(after_help = "Example:\n  diptych plan recipes/demo.toml")]
    Plan(PlanArgs),
    /// Make the first samples of a recipe and show them in a page; nothing else is kept
    #[command(after_help = "Example:\n  diptych preview recipes/demo.toml -n 9 --out preview.html")]
    Preview(PreviewArgs),
    /// Synthesize a dataset; run it again to continue it
    #[command(
        after_help = "Example:\n  diptych synth recipes/tiny.toml --out runs/tiny\n\nPaths in a recipe start from the folder in which the command runs, as those of the command line do."
    )]
    Synth(SynthArgs),
    /// Train a LLaVA model
    #[command(
        after_help = "Examples:\n  diptych train --model builtin:nano-llava --data data.json --image-folder images --steps 100 --out runs/tuned\n  diptych train spec.toml --out runs/tuned"
    )]
    Train(TrainArgs),
    /// Evaluate models on benchmarks
    #[command(
        after_help = "Example:\n  diptych eval spec.toml --out runs/eval\n\nspec.toml:\n  [candidates]\n  tuned = \"runs/tuned/model\"\n  [benchmarks]\n  real = \"builtin:nano-real\"\n\nBefore the tables, where wanted: questions_per_ability (0: all), resamples of the bootstrap (0: 10000), seed. Each candidate is held against every one before it."
    )]
    Eval(EvalArgs),
    /// Write the report of a run as one HTML file
    #[command(after_help = "Example:\n  diptych report runs/demo --out report.html")]
    Report(ReportArgs),
    /// Export a dataset
    #[command(
        after_help = "Examples:\n  diptych export runs/demo/dataset --format llava --out exported\n  diptych export runs/demo/dataset --format webdataset --max-file-mib 256 --out shards\n\nA dataset that is not finished is refused, or exported as it is with --allow-partial."
    )]
    Export(ExportArgs),
    /// Make a dataset of LLaVA's JSON, or of the rows that the authors of StableLLaVA released
    #[command(
        after_help = "Examples:\n  diptych import --format llava --in data.json --image-folder images --out imported\n  diptych import --format stablellava --in StableLLAVA/dataset --out released\n\nThe release of StableLLaVA has no pictures; its prompts and dialogues are kept."
    )]
    Import(ImportArgs),
    /// Say what is wrong with a dataset: duplicates, cut texts, quotas, subjects, leakage
    #[command(
        after_help = "Examples:\n  diptych audit runs/demo/dataset --against builtin:nano-real --out audit.html\n  diptych audit StableLLAVA/dataset --json\n  diptych audit data.json --image-folder images --fail-on repeated_prompt=0.01\n  diptych audit runs/demo/dataset --sample 15c768cb6969a3be4153dc81e815e1ec"
    )]
    Audit(AuditArgs),
    /// Keep or drop candidates for an ability's examples, in a page; kept ones enter its file
    #[command(
        after_help = "Examples:\n  diptych curate animal --pictures\n  diptych curate animal --backend openai -n 40\n  diptych curate animal --backend local --language-model models/qwen3-4b-q4_k_m.gguf\n  diptych curate animal --from runs/demo/dataset\n\nWithout a browser:\n  diptych curate animal --json > candidates.json\n  diptych curate animal --keep ids.txt\n\nDecisions are written down at once in --out; run it again to go on. Candidates are drawn from the training part: what benchmarks hold out is never shown to a language model."
    )]
    Curate(CurateArgs),
    /// Render one picture
    #[command(
        after_help = "Example:\n  diptych generate --model builtin:nano-sd --prompt \"fox, snow\" --seed 1 --out fox.png\n  diptych generate --prompt \"fox, beach\" --init-image fox.png --strength 0.6 --out beach.png\n  diptych generate --prompt \"red fox\" --init-image fox.png --mask where.png --num-images 4 --out red.png"
    )]
    Generate(GenerateArgs),
    /// Ask a model about a picture
    #[command(
        after_help = "Example:\n  diptych chat --model builtin:nano-llava --image fox.png --question \"What animal is it?\"\n\nbuiltin:nano-llava has seen no picture yet: ask a model that `diptych run` or `diptych train` has trained, such as runs/demo/train/synthetic/model."
    )]
    Chat(ChatArgs),
    /// Score answers that are there already; no model is asked
    #[command(
        after_help = "Examples:\n  diptych score --benchmark diptych --reference builtin:nano-real --answers answers.jsonl\n  diptych score --benchmark pope --reference coco_pope_random.json --answers llava.jsonl --mode official"
    )]
    Score(ScoreArgs),
    /// Say what works and what to do about the rest
    #[command(after_help = "Example:\n  diptych doctor")]
    Doctor,
    /// Hold a service of anybody's making against its contract, rule by rule
    #[command(
        after_help = "Examples:\n  diptych conformance --service diffusion --endpoint http://127.0.0.1:9000\n  diptych conformance --service trainer --endpoint http://127.0.0.1:50054 --folder runs\n\nExit code 0: every MUST that could be judged holds; 1: one is broken; 2: nobody is there. A broken SHOULD is told, and fails nothing."
    )]
    Conformance(ConformanceArgs),
}

/// Arguments of `conformance`.
#[derive(Debug, Args)]
pub struct ConformanceArgs {
    /// Whose contract it is.
    #[arg(long, value_enum, value_name = "S")]
    pub service: Subject,
    /// Where the service listens.
    #[arg(long, value_name = "URL")]
    pub endpoint: String,
    /// Longest time that one rule may take, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
    /// Folder of this machine that a trainer or an evaluator may read and write (under one of its
    /// roots), for jobs on small files; they are deleted afterwards.
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Listening; the five services take five ports from the given one on.
    #[command(flatten)]
    pub listen: ListenOptions,
    /// Where artefacts may lie; without a root, in the folder `runs`.
    #[command(flatten)]
    pub artefacts: ArtefactOptions,
}

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Evaluation spec: `[candidates]` and `[benchmarks]` by name.
    pub spec: PathBuf,
    /// Folder for answers and results.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folder of the run.
    pub run: PathBuf,
    /// HTML file to write.
    #[arg(long, value_name = "FILE.html")]
    pub out: PathBuf,
}

/// Arguments of `curate`.
#[derive(Debug, Args)]
pub struct CurateArgs {
    /// Ability whose file grows: its name, such as `animal`, in abilities/ of --assets.
    pub ability: String,
    /// Candidates that wait for a decision when the page opens.
    #[arg(short = 'n', long = "count", default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    pub count: u32,
    /// What is curated.
    #[arg(long, value_enum, default_value_t = CurateKind::Both)]
    pub kind: CurateKind,
    /// Take candidates from this dataset, with its pictures, instead of asking the services.
    #[arg(long, value_name = "DATASET", conflicts_with_all = ["pictures", "backend", "seed"])]
    pub from: Option<Location>,
    /// Render a picture for each candidate.
    #[arg(long)]
    pub pictures: bool,
    /// Model of the pictures: a folder in diffusers layout, or a built-in name.
    #[arg(long, default_value = "builtin:nano-sd", value_name = "M")]
    pub model: String,
    /// Back-end that promptgen and dialogue must have: `grammar`, `openai` or `local` [default: what
    /// an endpoint has, and the grammar in this process].
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Seed of the candidates.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder of candidates and decisions [default: runs/curate/ABILITY].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Keep the candidates whose ids stand in this file, one per line, enter them and end; no page.
    #[arg(long, value_name = "FILE")]
    pub keep: Option<PathBuf>,
    /// Address of the page; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Serve the page beyond this machine, in plaintext: whoever learns its address may write.
    #[arg(long)]
    pub insecure: bool,
}

/// What `curate` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CurateKind {
    /// Image prompts.
    Prompts,
    /// Questions with their answers.
    Dialogues,
    /// Both.
    Both,
}

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Model: a folder in diffusers layout, or a built-in name.
    #[arg(long, default_value = "builtin:nano-sd", value_name = "M")]
    pub model: String,
    /// LoRA file to merge into the model, times its scale [default: 1]; repeat it for more. A recipe
    /// writes the same as `model = "M+FILE:SCALE"`.
    #[arg(long, value_name = "FILE[:SCALE]")]
    pub lora: Vec<String>,
    /// What to see; an empty text leaves it to the model.
    #[arg(long, value_name = "T")]
    pub prompt: String,
    /// What not to see.
    #[arg(
        long,
        visible_alias = "negative-prompt",
        default_value = "",
        value_name = "T"
    )]
    pub negative: String,
    /// Seed of the noise, as `torch.Generator("cpu").manual_seed` takes it.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Denoising steps.
    #[arg(long, default_value_t = 25, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: u32,
    /// Classifier-free guidance scale.
    #[arg(long, default_value_t = 3.0, value_name = "F")]
    pub guidance: f32,
    /// Scheduler [default: the checkpoint's own].
    #[arg(long, value_enum, value_name = "S")]
    pub scheduler: Option<SchedulerArg>,
    /// Width in pixels [default: the model's own].
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u32).range(1..))]
    pub width: Option<u32>,
    /// Height in pixels [default: the model's own].
    #[arg(long, value_name = "H", value_parser = clap::value_parser!(u32).range(1..))]
    pub height: Option<u32>,
    /// How emphasis is read.
    #[arg(long, value_enum, default_value_t = PromptSyntax::Plain)]
    pub prompt_syntax: PromptSyntax,
    /// What to go on from, and how many.
    #[command(flatten)]
    pub pictures: PictureArgs,
    /// Picture to write.
    #[arg(long, value_name = "FILE.png")]
    pub out: PathBuf,
}

/// Samplers.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum SchedulerArg {
    /// DDIM.
    Ddim,
    /// DDPM.
    Ddpm,
    /// PNDM.
    Pndm,
    /// Euler.
    Euler,
    /// Euler ancestral.
    EulerA,
    /// Heun.
    Heun,
    /// DPM-Solver++ 2M with Karras' noise levels.
    #[value(name = "dpmpp_2m")]
    Dpmpp2m,
    /// DPM-Solver++ 2M, SDE form, with Karras' noise levels.
    #[value(name = "dpmpp_2m_sde")]
    Dpmpp2mSde,
    /// UniPC.
    #[value(name = "unipc")]
    UniPc,
    /// Latent consistency.
    Lcm,
    /// Flow-matching Euler.
    FlowEuler,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Model: a folder in LLaVA layout, or a built-in name.
    #[arg(long, default_value = "builtin:nano-llava", value_name = "M")]
    pub model: String,
    /// Picture, PNG or JPEG.
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// Question.
    #[arg(long, value_name = "T", value_parser = NonEmptyStringValueParser::new())]
    pub question: String,
    /// Longest answer, in tokens.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub max_new_tokens: u32,
}
