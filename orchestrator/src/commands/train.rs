//! `diptych train`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use dataset::llava;
use proto::{
    dataset::v1::Artefact,
    trainer::v1::{
        DataSource, OptimizerSettings, StageKind, TrainingSpec, TrainingStage, data_source,
        training_spec,
    },
};
use serde::{Deserialize, Serialize};

use super::{BadInput, Session, make_folder};
use crate::{
    jobs::{self, Errand, artefact},
    progress::Progress,
    suite::{Needs, ServiceName},
    toml_file,
};

/// `spec.toml`: the stages of one training run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    model: String,
    #[serde(default = "default_seed")]
    seed: u64,
    #[serde(default)]
    checkpoint_every: u32,
    stage: Vec<StageFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StageFile {
    name: Option<String>,
    kind: String,
    data: Vec<DataFile>,
    steps: u32,
    #[serde(default = "default_batch_size")]
    batch_size: u32,
    learning_rate: f64,
    #[serde(default)]
    weight_decay: f64,
    #[serde(default = "default_warmup")]
    warmup_ratio: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DataFile {
    source: String,
    image_folder: Option<PathBuf>,
    #[serde(default)]
    weight: f32,
}

#[derive(Debug, Serialize)]
struct Outcome {
    model: String,
    model_sha256: String,
    final_loss: f64,
    skipped_samples: u64,
}

/// Arguments of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Training spec, in place of --data and the options below: `model`, `seed`, `checkpoint_every`
    /// and one `[[stage]]` per stage with `kind`, `data`, `steps`, `batch_size`, `learning_rate`.
    pub spec: Option<PathBuf>,
    /// Folder for checkpoints, logs and the model.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Model to start from: a folder or a built-in name.
    #[arg(
        long,
        conflicts_with = "spec",
        default_value = "builtin:nano-llava",
        value_name = "DIR"
    )]
    pub model: String,
    /// LLaVA JSON file, dataset folder, or built-in name.
    #[arg(
        long,
        conflicts_with = "spec",
        required_unless_present = "spec",
        value_name = "LLAVA.json"
    )]
    pub data: Option<String>,
    /// Folder that the JSON's image paths start from [default: the JSON's own, or `images` in it].
    #[arg(long, conflicts_with = "spec", value_name = "DIR")]
    pub image_folder: Option<PathBuf>,
    /// Stage: projector alignment, or instruction tuning.
    #[arg(long, conflicts_with = "spec", value_enum, default_value_t = StageArg::Instruction)]
    pub stage: StageArg,
    /// Optimizer steps.
    #[arg(long, conflicts_with = "spec", default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Samples per step.
    #[arg(long, conflicts_with = "spec", default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: u32,
    /// Peak learning rate.
    #[arg(
        long,
        conflicts_with = "spec",
        default_value_t = 1e-3,
        value_name = "RATE"
    )]
    pub learning_rate: f64,
    /// Seed of the data order.
    #[arg(long, conflicts_with = "spec", default_value_t = 1)]
    pub seed: u64,
    /// Steps between checkpoints; 0: only at the end of each stage.
    #[arg(long, conflicts_with = "spec", default_value_t = 0, value_name = "N")]
    pub checkpoint_every: u32,
}

/// Stage of training.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum StageArg {
    /// Projector only, on captions.
    Alignment,
    /// Projector and language model, on dialogues.
    Instruction,
}

pub(super) async fn execute(args: TrainArgs, session: &Session) -> Result<()> {
    let out = args.out.clone();
    let (spec, inputs) = build(args).map_err(|error| error.context(BadInput))?;
    make_folder(&out)?;
    let errand = Errand {
        name: "train".to_owned(),
        leaves: out.join("outcome.json"),
        inputs: inputs.files,
    };
    // The service keeps its records under the first root.
    let roots = [
        std::path::absolute(&out)?,
        session.assets.root().to_path_buf(),
    ];
    let roots = roots.into_iter().chain(inputs.roots).collect();
    let needs = Needs {
        artefact_roots: roots,
        ..Needs::services(&[ServiceName::Trainer])
    };
    let suite = session.open(&needs).await?;
    let progress = Progress::start("training", 0);
    let trained = jobs::train(&suite, &errand, spec, |step| {
        let message = format!(
            "loss {:.3}, {:.0} tokens/s",
            step.loss, step.tokens_per_second
        );
        progress.set(step.done_step_count.into(), step.step_count.into(), message);
    })
    .await;
    suite.close().await?;
    let trained = trained?;
    progress.finish(&format!("last loss {:.3}", trained.final_loss));
    let model = trained.model.unwrap_or_default();
    let outcome = Outcome {
        model: model.uri,
        model_sha256: model.sha256,
        final_loss: trained.final_loss,
        skipped_samples: trained.skipped_sample_count,
    };
    session.say(&outcome, &format!("model: {}", outcome.model))
}

/// What a training reads of this machine.
#[derive(Debug, Default)]
struct Inputs {
    files: Vec<PathBuf>,
    /// Folders under which they lie.
    roots: Vec<PathBuf>,
}

impl Inputs {
    fn folder(&mut self, path: &Path) -> Result<Artefact> {
        ensure!(path.is_dir(), "there is no folder {}", path.display());
        self.files.push(path.to_owned());
        self.roots.push(std::path::absolute(path)?);
        artefact(path, true)
    }

    fn file(&mut self, path: &Path) -> Result<Artefact> {
        ensure!(path.is_file(), "there is no file {}", path.display());
        self.files.push(path.to_owned());
        let absolute = std::path::absolute(path)?;
        self.roots.extend(absolute.parent().map(Path::to_path_buf));
        artefact(path, false)
    }
}

fn build(args: TrainArgs) -> Result<(TrainingSpec, Inputs)> {
    let mut inputs = Inputs::default();
    let output = Some(artefact(&args.out, true)?);
    let file = match &args.spec {
        Some(path) => toml_file::read(path, "training spec")?,
        None => from_arguments(args)?,
    };
    let stages = file
        .stage
        .into_iter()
        .enumerate()
        .map(|(index, stage)| stage_of(index, stage, &mut inputs));
    let stages = stages.collect::<Result<Vec<_>>>()?;
    let base = match file.model.strip_prefix("builtin:") {
        Some(_) => training_spec::Base::BaseModel(file.model),
        None => training_spec::Base::BaseCheckpoint(inputs.folder(Path::new(&file.model))?),
    };
    let spec = TrainingSpec {
        base: Some(base),
        stages,
        seed: file.seed,
        output,
        checkpoint_every_steps: file.checkpoint_every,
        ..TrainingSpec::default()
    };
    Ok((spec, inputs))
}

fn from_arguments(args: TrainArgs) -> Result<SpecFile> {
    let TrainArgs {
        model,
        data,
        image_folder,
        stage,
        steps,
        batch_size,
        learning_rate,
        seed,
        checkpoint_every,
        ..
    } = args;
    let source = data.context("--data is missing")?;
    let kind = match stage {
        StageArg::Alignment => "alignment",
        StageArg::Instruction => "instruction",
    };
    let stage = StageFile {
        name: None,
        kind: kind.to_owned(),
        data: vec![DataFile {
            source,
            image_folder,
            weight: 0.0,
        }],
        steps,
        batch_size,
        learning_rate,
        weight_decay: 0.0,
        warmup_ratio: default_warmup(),
    };
    Ok(SpecFile {
        model,
        seed,
        checkpoint_every,
        stage: vec![stage],
    })
}

fn stage_of(index: usize, stage: StageFile, inputs: &mut Inputs) -> Result<TrainingStage> {
    let kind = match stage.kind.as_str() {
        "alignment" => StageKind::Alignment,
        "instruction" => StageKind::Instruction,
        other => bail!("`stage.kind` is `{other}`; it must be `alignment` or `instruction`"),
    };
    let data = stage
        .data
        .into_iter()
        .map(|data| source(data, inputs))
        .collect::<Result<Vec<_>>>()?;
    Ok(TrainingStage {
        name: stage
            .name
            .unwrap_or_else(|| format!("{}-{}", index + 1, stage.kind)),
        kind: kind.into(),
        data,
        step_count: stage.steps,
        batch_size: stage.batch_size,
        optimizer: Some(OptimizerSettings {
            learning_rate: stage.learning_rate,
            weight_decay: stage.weight_decay,
            warmup_ratio: stage.warmup_ratio,
            ..OptimizerSettings::default()
        }),
        ..TrainingStage::default()
    })
}

/// A built-in name, a dataset folder of our own, or a LLaVA JSON file.
fn source(data: DataFile, inputs: &mut Inputs) -> Result<DataSource> {
    use data_source::Location;
    let path = Path::new(&data.source);
    let location = match data.source.strip_prefix("builtin:") {
        Some(_) => Location::Builtin(data.source.clone()),
        None if path.is_dir() => Location::Dataset(inputs.folder(path)?),
        None => Location::LlavaJson(inputs.file(path)?),
    };
    let image_folder = match location {
        Location::LlavaJson(_) => data
            .image_folder
            .or_else(|| Some(llava::image_folder(path))),
        _ => data.image_folder,
    };
    let image_folder = image_folder.map(|path| inputs.folder(&path)).transpose()?;
    Ok(DataSource {
        name: data.source,
        location: Some(location),
        image_folder,
        weight: data.weight,
    })
}

fn default_seed() -> u64 {
    1
}

fn default_batch_size() -> u32 {
    16
}

fn default_warmup() -> f64 {
    0.03
}
