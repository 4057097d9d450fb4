//! Why there is no picture, or no score.

use std::sync::Arc;
use std::time::Duration;

use runtime::{Kind, ServiceError};

/// Errors of the service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request breaks a rule.
    #[error("{field}: {rule}")]
    Invalid {
        /// Path of the field in the request.
        field: String,
        /// What is wrong, as a sentence to act on.
        rule: String,
    },
    /// A prompt that no encoder would take.
    #[error("{field}: {rule}")]
    Prompt {
        /// `prompt` or `negative_prompt`.
        field: &'static str,
        /// What is wrong.
        rule: String,
    },
    /// An image to go on from, or a mask, that does not fit what is asked.
    #[error("{field}: {rule}")]
    Unfit {
        /// Path of the field in the request.
        field: String,
        /// What is wrong.
        rule: String,
    },
    /// A picture that the safety checker flagged, and nobody may have.
    #[error("the checkpoint's safety checker flagged the picture, and it is withheld")]
    Unsafe,
    /// A name that nothing is served under.
    #[error("no model `{name}` is served here; there are: {served}")]
    UnknownModel {
        /// As asked.
        name: String,
        /// Names that are.
        served: String,
    },
    /// The queue has no room for the request.
    #[error("the queue is full: {waiting} pictures wait, {capacity} may")]
    Full {
        /// Pictures that wait.
        waiting: usize,
        /// Pictures that may.
        capacity: usize,
        /// When there may be room.
        retry_after: Duration,
    },
    /// The pictures to go on from would take too much memory while they wait.
    #[error("the queue is full: pictures to go on from would have {bytes} bytes, at most {most}")]
    Heavy {
        /// Bytes that would wait.
        bytes: usize,
        /// Bytes that may.
        most: usize,
        /// When there may be room.
        retry_after: Duration,
    },
    /// The service stops.
    #[error("the service is stopping")]
    Stopping,
    /// The caller left before its turn.
    #[error("the caller left")]
    Left,
    /// The model gave NaN, or one colour all over.
    #[error(transparent)]
    NoPicture(models::stable_diffusion::Error),
    /// The endpoint has no such measure.
    #[error("{0}")]
    NotOffered(String),
    /// An image that cannot be read.
    #[error("{field}: {rule}")]
    Image {
        /// Path of the field in the request.
        field: String,
        /// What is wrong.
        rule: String,
    },
    /// An image by reference that cannot be had.
    #[error(transparent)]
    Artefact(#[from] runtime::artefact::Error),
    /// A diffusion checkpoint that does not load.
    #[error("cannot load model `{name}`")]
    Load {
        /// The name it should have been served as.
        name: String,
        /// The file and the field or tensor.
        #[source]
        source: Box<models::config::LoadError>,
    },
    /// A model that the memory bound leaves no room for, however empty it is.
    #[error(
        "cannot serve model `{name}`: its weights take {needed_bytes} bytes, --model-memory-bytes allows {allowed_bytes}"
    )]
    TooLarge {
        /// The name it should have been served as.
        name: String,
        /// Bytes of its weights in memory.
        needed_bytes: u64,
        /// The bound.
        allowed_bytes: u64,
    },
    /// A model that cannot make the first picture, such as one with weights that are no numbers.
    #[error("cannot serve model `{name}`: its first picture fails")]
    WarmUp {
        /// The name it should have been served as.
        name: String,
        /// Why.
        #[source]
        source: models::stable_diffusion::Error,
    },
    /// A model and its adapters that are not written as such.
    #[error("cannot load model `{name}`: {reason}")]
    ModelPath {
        /// The name it should have been served as.
        name: String,
        /// What is wrong with what was written.
        reason: String,
    },
    /// A scoring model that does not load.
    #[error("cannot load scoring model `{name}`")]
    LoadScoring {
        /// The name it should have been served as.
        name: String,
        /// The file and the field or tensor.
        #[source]
        source: Box<models::measuring::Error>,
    },
    /// A safety model that does not load.
    #[error("cannot load safety model `{name}`")]
    LoadSafety {
        /// The folder, as it was given.
        name: String,
        /// The file and the field or tensor.
        #[source]
        source: Box<models::measuring::Error>,
    },
    /// There is nothing to serve.
    #[error(
        "no diffusion model: give one with --model NAME=DIR, or --assets with models/nano/nano-sd"
    )]
    NoModel,
    /// The model failed inside.
    #[error("the model failed")]
    Model(#[source] models::stable_diffusion::Error),
    /// The scoring model, or the safety model, failed inside.
    #[error("the scoring model failed")]
    ScoringModel(#[source] Box<models::measuring::Error>),
    /// The remote image model cannot be asked, or does not answer.
    #[error("{}", of_images(.0))]
    Remote(#[from] llm::Error),
    /// What the remote image model gave is not the picture that was asked for.
    #[error("the image model's answer cannot be used: {0}")]
    Unusable(String),
    /// A picture that cannot be encoded.
    #[error("cannot encode the picture")]
    Encode(#[from] png::EncodingError),
    /// What a computation failed with that several callers waited for.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// A task of ours ended badly.
    #[error("a task failed: {0}")]
    Task(String),
}

impl Error {
    /// Whether it concerns one item, while the others can be had.
    pub(crate) fn is_of_item(&self) -> bool {
        match self {
            Self::Prompt { .. } | Self::Image { .. } | Self::Unfit { .. } | Self::Artefact(_) => {
                true
            }
            Self::Shared(error) => error.is_of_item(),
            _ => false,
        }
    }

    /// The error that `field` breaks `rule`.
    pub(crate) fn invalid(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            rule: rule.into(),
        }
    }
}

/// The client's words are about language models, and so are its options.
fn of_images(error: &llm::Error) -> String {
    runtime::error::chain(error)
        .replace("language model", "image model")
        .replace("chat completion", "image")
}

fn reason_of_images(error: &llm::Error) -> &'static str {
    match error.reason() {
        "LANGUAGE_MODEL_UNTRUSTED" => "IMAGE_MODEL_UNTRUSTED",
        "LANGUAGE_MODEL_REFUSED_KEY" => "IMAGE_MODEL_REFUSED_KEY",
        "LANGUAGE_MODEL_OUT_OF_CREDIT" => "IMAGE_MODEL_OUT_OF_CREDIT",
        "LANGUAGE_MODEL_NOT_FOUND" => "IMAGE_MODEL_NOT_FOUND",
        "LANGUAGE_MODEL_OVERLOADED" => "IMAGE_MODEL_OVERLOADED",
        "LANGUAGE_MODEL_AWAY" => "IMAGE_MODEL_AWAY",
        "LANGUAGE_MODEL_REFUSED_REQUEST" => "IMAGE_MODEL_REFUSED_REQUEST",
        "LANGUAGE_MODEL_MISCONFIGURED" => "IMAGE_MODEL_MISCONFIGURED",
        "LANGUAGE_MODEL_FAILED" => "IMAGE_MODEL_FAILED",
        other => other,
    }
}

impl From<models::stable_diffusion::Error> for Error {
    fn from(error: models::stable_diffusion::Error) -> Self {
        use models::stable_diffusion::Error as Model;
        match error {
            Model::Invalid {
                field: field @ ("prompt" | "negative_prompt"),
                reason,
            } => Self::Prompt {
                field,
                rule: reason,
            },
            Model::Invalid {
                field: field @ ("init_image" | "mask_image"),
                reason,
            } => Self::Unfit {
                field: field.to_owned(),
                rule: reason,
            },
            Model::Invalid { field, reason } => Self::invalid(request_field(field), reason),
            Model::NotFinite | Model::Blank => Self::NoPicture(error),
            Model::Tokenizer(_) | Model::Candle(_) => Self::Model(error),
        }
    }
}

/// Where the schema has a field of the model's request.
fn request_field(field: &str) -> String {
    let name = match field {
        "strength" => return "items.strength".to_owned(),
        "steps" => "step_count",
        "guidance" => "guidance_scale",
        other => other,
    };
    format!("settings.{name}")
}

impl ServiceError for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid { field, rule }
            | Self::Image { field, rule }
            | Self::Unfit { field, rule } => Kind::invalid(field, rule),
            Self::Prompt { field, rule } => Kind::invalid(*field, rule),
            Self::UnknownModel { .. } => Kind::NotFound,
            Self::Full { retry_after, .. } | Self::Heavy { retry_after, .. } => {
                Kind::ResourceExhausted {
                    retry_after: Some(*retry_after),
                }
            }
            Self::Stopping => Kind::Unavailable { retry_after: None },
            Self::Left => Kind::Cancelled,
            Self::NoPicture(_) => Kind::DataLoss,
            Self::NotOffered(_) => Kind::Unimplemented,
            Self::Artefact(error) => error.kind(),
            Self::Shared(error) => error.kind(),
            Self::Remote(error) => error.kind(),
            Self::Unusable(_)
            | Self::Load { .. }
            | Self::ModelPath { .. }
            | Self::TooLarge { .. }
            | Self::WarmUp { .. }
            | Self::LoadScoring { .. }
            | Self::LoadSafety { .. }
            | Self::Unsafe
            | Self::NoModel => Kind::FailedPrecondition,
            Self::Model(_) | Self::ScoringModel(_) | Self::Encode(_) | Self::Task(_) => {
                Kind::Internal
            }
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Prompt { .. } => "PROMPT_TOO_LONG",
            Self::UnknownModel { .. } => "UNKNOWN_MODEL",
            Self::Full { .. } | Self::Heavy { .. } => "QUEUE_FULL",
            Self::NoPicture(models::stable_diffusion::Error::Blank) => "BLANK_IMAGE",
            Self::NoPicture(_) => "NOT_FINITE",
            Self::Image { .. } => "UNREADABLE_IMAGE",
            Self::Unfit { .. } => "UNFIT_IMAGE",
            Self::Unsafe => "UNSAFE_IMAGE",
            Self::Shared(error) => error.reason(),
            Self::Unusable(_) => "UNUSABLE_IMAGE",
            Self::Remote(error) => reason_of_images(error),
            _ => self.kind().reason(),
        }
    }
}
