//! What can go wrong, and what the caller can do about it.

use std::path::PathBuf;

use runtime::{FieldViolation, Kind, ServiceError, artefact, jobs};

/// Errors of the trainer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the specification breaks a rule.
    #[error("{field}: {reason}")]
    Field {
        /// Path of the field in proto names.
        field: String,
        /// The rule.
        reason: String,
    },
    /// A field names an artefact that cannot be used.
    #[error("{field}: {source}")]
    Artefact {
        /// Path of the field in proto names.
        field: String,
        /// Why.
        source: artefact::Error,
    },
    /// The model to start from does not exist.
    #[error("there is no model {name:?}; this service has {known}")]
    UnknownModel {
        /// As asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Something that this trainer does not offer.
    #[error("{field}: {what} is not offered")]
    Unsupported {
        /// Path of the field in proto names.
        field: String,
        /// What was asked for.
        what: &'static str,
    },
    /// Training data that cannot be used; names the file and the place in it.
    #[error("{}: {reason}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// The base model, or an operation on it, failed.
    #[error(transparent)]
    Model(#[from] models::llava_error::Error),
    /// Another run owns the output folder.
    #[error("{} belongs to another run: choose an empty folder, or the specification it was begun with", folder.display())]
    FolderTaken {
        /// The folder.
        folder: PathBuf,
    },
    /// The output folder cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The loss is no number any more.
    #[error("stage {stage:?} diverged at its step {step}: the loss is {loss}; samples {samples}")]
    Diverged {
        /// The stage.
        stage: String,
        /// Step of the stage, from 0.
        step: u64,
        /// What the loss was.
        loss: f64,
        /// Ids of the first samples of the batch.
        samples: String,
    },
    /// The job is no longer wanted here.
    #[error("cancelled")]
    Cancelled,
    /// The thread that computes ended without an answer.
    #[error("the device thread ended")]
    DeviceLost,
    /// Of the job queue.
    #[error(transparent)]
    Jobs(#[from] jobs::Error),
}

impl Error {
    /// A field that breaks a rule.
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// A file of the output folder that cannot be written.
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Field { field, reason } => Kind::invalid(field, reason),
            Self::Artefact { field, source } => match source.kind() {
                Kind::InvalidArgument(_) => Kind::InvalidArgument(vec![FieldViolation::new(
                    field.clone(),
                    source.to_string(),
                )]),
                other => other,
            },
            Self::UnknownModel { .. } => Kind::NotFound,
            Self::Unsupported { .. } => Kind::Unimplemented,
            Self::Data { path, reason } => {
                Kind::invalid("spec.stages.data", format!("{}: {reason}", path.display()))
            }
            Self::Model(error) => model_kind(error),
            Self::FolderTaken { .. } | Self::Write { .. } | Self::Diverged { .. } => {
                Kind::FailedPrecondition
            }
            Self::Cancelled => Kind::Cancelled,
            Self::DeviceLost => Kind::Internal,
            Self::Jobs(error) => error.kind(),
        }
    }
}

fn model_kind(error: &models::llava_error::Error) -> Kind {
    use models::llava_error::Error as Model;
    match error {
        Model::Read { .. }
        | Model::Json { .. }
        | Model::Config { .. }
        | Model::Weights(_)
        | Model::Tokenizer { .. } => {
            Kind::invalid("spec.base_checkpoint", runtime::error::chain(error))
        }
        Model::Write { .. } | Model::Gradient(_) | Model::Input(_) => Kind::FailedPrecondition,
        Model::Tensor(_) => Kind::Internal,
        Model::Cancelled => Kind::Cancelled,
    }
}
