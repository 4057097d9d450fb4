//! A training specification after it was checked: no optional field that is never absent, no zero
//! that means a default, every path resolved and under a root.

use std::path::PathBuf;

use models::conversation::Template;
use models::llava::{Aspect, Trained};
use models::optim::{AdamwSettings, Schedule, ScheduleShape};
use proto::dataset::v1::Artefact;
use proto::trainer::v1 as pb;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::places::Places;

/// What to train, on what, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The specification as it came, encoded, in hexadecimal: what a caller is shown again.
    pub request: String,
    /// Name of the model to start from, for the card.
    pub base_name: String,
    /// Its folder.
    pub base: PathBuf,
    /// At least one.
    pub stages: Vec<Stage>,
    /// Seed of the data order.
    pub seed: u64,
    /// Where everything is written.
    pub output: PathBuf,
    /// Steps between checkpoints; a checkpoint also ends every stage.
    pub checkpoint_every: Option<u64>,
    /// Checkpoints kept.
    pub checkpoints_kept: usize,
    /// Whether pictures are padded rather than cropped.
    pub pads_images: bool,
    /// Longest sample in positions.
    pub max_tokens: usize,
}

/// One stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stage {
    /// For logs.
    pub name: String,
    /// What is trained.
    pub kind: StageKind,
    /// At least one.
    pub sources: Vec<Source>,
    /// Optimizer steps, at least 1.
    pub step_count: u64,
    /// Samples per step, at least 1.
    pub batch_size: usize,
    /// Micro-batches per step; divides `batch_size`.
    pub micro_batches: usize,
    /// Whether losses are averaged per micro-batch first.
    pub averages_micro_batches: bool,
    /// AdamW and its schedule.
    pub optimizer: Optimizer,
}

/// What a stage trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StageKind {
    /// The projector, on captions.
    Alignment,
    /// Projector and language model, on conversations.
    Instruction,
}

/// Where samples come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    /// For logs.
    pub name: String,
    /// The data.
    pub location: Location,
    /// Relative share; 0 in all sources means in proportion to their sizes.
    pub weight: f64,
}

/// A data set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Location {
    /// LLaVA JSON and the folder that its image paths are relative to.
    Llava {
        /// The JSON file.
        json: PathBuf,
        /// The folder.
        images: PathBuf,
    },
    /// A dataset folder in our own store.
    Dataset(PathBuf),
}

/// AdamW with warm-up and a schedule.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Optimizer {
    /// Peak rate of the language model.
    pub learning_rate: f64,
    /// Peak rate of the projector.
    pub projector_learning_rate: f64,
    /// Decoupled decay of matrices.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub epsilon: f64,
    /// Bound of the gradient's norm.
    pub max_gradient_norm: Option<f64>,
    /// Share of the steps that warm up.
    pub warmup_ratio: f64,
    /// What follows.
    pub shape: Shape,
}

/// What follows warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// Half a cosine to 0.
    Cosine,
    /// A line to 0.
    Linear,
    /// The peak.
    Constant,
}

const MAX_STAGES: usize = 8;
const MAX_SOURCES: usize = 64;
const MAX_STEPS: u32 = 10_000_000;
const MAX_BATCH: u32 = 4096;
const UNKNOWN: &str = "is not a known value";
const DEFAULT_MAX_TOKENS: usize = 2048;
const DEFAULT_KEPT: usize = 2;

impl Plan {
    /// Checks a specification.
    ///
    /// # Errors
    /// Names the field that breaks a rule, the model that does not exist, the place that is closed.
    pub fn parse(spec: &pb::TrainingSpec, places: &Places) -> Result<Self, Error> {
        if spec.stages.is_empty() || spec.stages.len() > MAX_STAGES {
            return Err(Error::field(
                "spec.stages",
                format!("must hold 1 to {MAX_STAGES} stages"),
            ));
        }
        let (base_name, base) = match &spec.base {
            None => {
                return Err(Error::field(
                    "spec.base_model",
                    "a model to start from is missing",
                ));
            }
            Some(pb::training_spec::Base::BaseModel(name)) => (name.clone(), places.model(name)?),
            Some(pb::training_spec::Base::BaseCheckpoint(at)) => {
                (at.uri.clone(), places.existing("spec.base_checkpoint", at)?)
            }
        };
        let stages = spec.stages.iter().enumerate();
        let stages = stages
            .map(|(index, stage)| Stage::parse(index, stage, places))
            .collect::<Result<_, _>>()?;
        let every = u64::from(spec.checkpoint_every_steps);
        let request = encoded(spec);
        let aspect = pb::ImageAspect::try_from(spec.image_aspect)
            .map_err(|_| Error::field("spec.image_aspect", UNKNOWN))?;
        models::llava::Llava::inspect(&base)?;
        Ok(Self {
            base_name,
            base,
            stages,
            seed: spec.seed,
            // Last of all that may refuse: it makes folders.
            output: places.output(spec.output.as_ref(), &request)?,
            checkpoint_every: (every > 0).then_some(every),
            checkpoints_kept: or_default(spec.checkpoints_kept as usize, DEFAULT_KEPT),
            pads_images: aspect != pb::ImageAspect::Square,
            max_tokens: or_default(spec.max_token_count as usize, DEFAULT_MAX_TOKENS),
            request,
        })
    }

    /// Whether this is the plan of exactly that specification.
    pub(crate) fn is_of(&self, spec: &pb::TrainingSpec) -> bool {
        self.request == encoded(spec)
    }

    /// The specification as it came.
    pub fn to_request(&self) -> pb::TrainingSpec {
        let byte = |pair: &[u8]| {
            std::str::from_utf8(pair)
                .ok()
                .and_then(|p| u8::from_str_radix(p, 16).ok())
        };
        let bytes: Option<Vec<u8>> = self.request.as_bytes().chunks(2).map(byte).collect();
        prost::Message::decode(bytes.unwrap_or_default().as_slice()).unwrap_or_default()
    }

    /// How pictures become square.
    pub fn aspect(&self) -> Aspect {
        if self.pads_images {
            Aspect::Pad
        } else {
            Aspect::Square
        }
    }

    /// Steps of all stages.
    pub fn step_count(&self) -> u64 {
        self.stages.iter().map(|stage| stage.step_count).sum()
    }
}

impl Stage {
    fn parse(index: usize, stage: &pb::TrainingStage, places: &Places) -> Result<Self, Error> {
        let at = |leaf: &str| format!("spec.stages[{index}].{leaf}");
        let kind = match stage.kind() {
            pb::StageKind::Alignment => StageKind::Alignment,
            pb::StageKind::Instruction => StageKind::Instruction,
            pb::StageKind::Unspecified => return Err(Error::field(at("kind"), "must be stated")),
        };
        if stage.lora.is_some() {
            return Err(Error::Unsupported {
                field: at("lora"),
                what: "low-rank adaptation",
            });
        }
        if stage.step_count == 0 || stage.step_count > MAX_STEPS {
            return Err(Error::field(
                at("step_count"),
                format!("must be 1 to {MAX_STEPS}"),
            ));
        }
        if stage.batch_size == 0 || stage.batch_size > MAX_BATCH {
            return Err(Error::field(
                at("batch_size"),
                format!("must be 1 to {MAX_BATCH}"),
            ));
        }
        let micro_batches = stage.accumulation_count.max(1);
        if !stage.batch_size.is_multiple_of(micro_batches) {
            return Err(Error::field(
                at("accumulation_count"),
                "must divide batch_size",
            ));
        }
        if stage.data.is_empty() || stage.data.len() > MAX_SOURCES {
            return Err(Error::field(
                at("data"),
                format!("must hold 1 to {MAX_SOURCES} sources"),
            ));
        }
        let source = |(number, source): (usize, &pb::DataSource)| {
            Source::parse(&at(&format!("data[{number}]")), source, places)
        };
        let sources: Vec<Source> = stage
            .data
            .iter()
            .enumerate()
            .map(source)
            .collect::<Result<_, _>>()?;
        if sources.iter().any(|s| s.weight > 0.0) && sources.iter().any(|s| s.weight == 0.0) {
            return Err(Error::field(
                at("data"),
                "either every source has a weight or none",
            ));
        }
        let name = if stage.name.is_empty() {
            format!("stage-{}", index + 1)
        } else {
            stage.name.clone()
        };
        Ok(Self {
            name,
            kind,
            sources,
            step_count: u64::from(stage.step_count),
            batch_size: stage.batch_size as usize,
            micro_batches: micro_batches as usize,
            averages_micro_batches: match pb::LossReduction::try_from(stage.loss_reduction) {
                Ok(reduction) => reduction == pb::LossReduction::MicrobatchMean,
                Err(_) => return Err(Error::field(at("loss_reduction"), UNKNOWN)),
            },
            optimizer: Optimizer::parse(&at("optimizer"), stage.optimizer.as_ref())?,
        })
    }

    /// How conversations are written.
    pub fn template(&self) -> Template {
        match self.kind {
            StageKind::Alignment => Template::Plain,
            StageKind::Instruction => Template::VicunaV1,
        }
    }

    /// What is trained.
    pub fn trained(&self) -> Trained {
        match self.kind {
            StageKind::Alignment => Trained::Projector,
            StageKind::Instruction => Trained::ProjectorAndLanguage,
        }
    }

    /// How a rate with this peak goes.
    pub fn schedule(&self, peak: f64) -> Schedule {
        let shape = match self.optimizer.shape {
            Shape::Cosine => ScheduleShape::Cosine,
            Shape::Linear => ScheduleShape::Linear,
            Shape::Constant => ScheduleShape::Constant,
        };
        // transformers rounds up too.
        let warmup_steps = (self.step_count as f64 * self.optimizer.warmup_ratio).ceil() as u64;
        Schedule {
            peak,
            warmup_steps,
            total_steps: self.step_count,
            shape,
        }
    }
}

impl Source {
    fn parse(at: &str, source: &pb::DataSource, places: &Places) -> Result<Self, Error> {
        use pb::data_source::Location as From;
        if !(source.weight.is_finite() && source.weight >= 0.0) {
            return Err(Error::field(format!("{at}.weight"), "must be 0 or more"));
        }
        let location = match &source.location {
            None => {
                return Err(Error::field(
                    format!("{at}.dataset"),
                    "a location is missing",
                ));
            }
            Some(From::Dataset(folder)) => {
                Location::Dataset(places.existing(&format!("{at}.dataset"), folder)?)
            }
            Some(From::LlavaJson(json)) => {
                let json = places.existing(&format!("{at}.llava_json"), json)?;
                let images = match &source.image_folder {
                    Some(folder) => places.existing(&format!("{at}.image_folder"), folder)?,
                    None => json.parent().map(PathBuf::from).unwrap_or_default(),
                };
                Location::Llava { json, images }
            }
            Some(From::Builtin(name)) => places.data(&format!("{at}.builtin"), name)?,
        };
        Ok(Self {
            name: source.name.clone(),
            location,
            weight: f64::from(source.weight),
        })
    }
}

impl Optimizer {
    fn parse(at: &str, settings: Option<&pb::OptimizerSettings>) -> Result<Self, Error> {
        let Some(s) = settings else {
            return Err(Error::field(at, "must be stated"));
        };
        let within =
            |leaf: &str, value: f64, low: f64, high: f64| match (low..=high).contains(&value) {
                true => Ok(value),
                false => Err(Error::field(
                    format!("{at}.{leaf}"),
                    format!("must be {low} to {high}"),
                )),
            };
        if s.learning_rate <= 0.0 {
            return Err(Error::field(
                format!("{at}.learning_rate"),
                "must be over 0",
            ));
        }
        let learning_rate = within("learning_rate", s.learning_rate, 0.0, 10.0)?;
        let projector = within(
            "projector_learning_rate",
            s.projector_learning_rate,
            0.0,
            10.0,
        )?;
        let defaults = AdamwSettings::default();
        let max_norm = within("max_gradient_norm", s.max_gradient_norm, f64::MIN, f64::MAX)?;
        Ok(Self {
            learning_rate,
            projector_learning_rate: if projector > 0.0 {
                projector
            } else {
                learning_rate
            },
            weight_decay: within("weight_decay", s.weight_decay, 0.0, 10.0)?,
            beta1: or(within("beta1", s.beta1, 0.0, 0.999_999)?, defaults.beta1),
            beta2: or(within("beta2", s.beta2, 0.0, 0.999_999)?, defaults.beta2),
            epsilon: or(within("epsilon", s.epsilon, 0.0, 1.0)?, defaults.epsilon),
            max_gradient_norm: (max_norm >= 0.0).then_some(or(max_norm, 1.0)),
            warmup_ratio: within("warmup_ratio", s.warmup_ratio, 0.0, 1.0)?,
            shape: match pb::LearningRateSchedule::try_from(s.schedule) {
                Ok(pb::LearningRateSchedule::Unspecified | pb::LearningRateSchedule::Cosine) => {
                    Shape::Cosine
                }
                Ok(pb::LearningRateSchedule::Linear) => Shape::Linear,
                Ok(pb::LearningRateSchedule::Constant) => Shape::Constant,
                Err(_) => return Err(Error::field(format!("{at}.schedule"), UNKNOWN)),
            },
        })
    }

    /// The optimizer's settings.
    pub fn adamw(&self) -> AdamwSettings {
        AdamwSettings {
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
        }
    }
}

fn encoded(spec: &pb::TrainingSpec) -> String {
    models::weights::hex(&prost::Message::encode_to_vec(spec))
}

fn or(value: f64, default: f64) -> f64 {
    if value == 0.0 { default } else { value }
}

fn or_default(value: usize, default: usize) -> usize {
    if value == 0 { default } else { value }
}

/// Whether a reference names nothing.
pub(crate) fn is_absent(artefact: Option<&Artefact>) -> bool {
    artefact.is_none_or(|artefact| artefact.uri.is_empty())
}
