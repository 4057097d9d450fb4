//! What can go wrong, and what its reader can do about it.

use std::{io, path::PathBuf, time::Duration};

use runtime::{Kind, ServiceError, artefact, jobs};

use crate::benchmark;

/// Why a call or a job failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field breaks a rule.
    #[error("{field}: {reason}")]
    Invalid {
        /// Path of the field in the request.
        field: String,
        /// The rule.
        reason: String,
    },
    /// A benchmark folder cannot be used.
    #[error("benchmark {name:?}: {source}")]
    Benchmark {
        /// Its name in the request.
        name: String,
        /// What is wrong, with file and line.
        source: benchmark::Error,
    },
    /// No such model is served.
    #[error("there is no model {name:?}; this service has {known}")]
    UnknownModel {
        /// The name.
        name: String,
        /// Those there are.
        known: String,
    },
    /// No such benchmark is served.
    #[error("there is no benchmark {name:?}; this service has {known}")]
    UnknownBenchmark {
        /// The name.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A checkpoint does not load, or a prompt does not fit it.
    #[error("model {name}: {source}")]
    Model {
        /// Its name, or its folder.
        name: String,
        /// What is wrong, with the file.
        source: Box<models::llava_error::Error>,
    },
    /// An artefact cannot be read or written.
    #[error(transparent)]
    Artefact(#[from] artefact::Error),
    /// A call about jobs failed.
    #[error(transparent)]
    Jobs(#[from] jobs::Error),
    /// A dataset cannot be read.
    #[error("dataset {name}: {reason}")]
    Dataset {
        /// Its folder.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The abilities cannot be read.
    #[error("abilities: {0}")]
    Abilities(String),
    /// The disk said no.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// As many streams of answers run as may.
    #[error("{0} requests are being answered already")]
    Busy(usize),
    /// The caller left, or the job was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// A field that breaks a rule.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// A model that does not load or cannot be asked.
    pub(crate) fn model(name: &str, source: impl Into<models::llava_error::Error>) -> Self {
        Self::Model {
            name: name.to_owned(),
            source: Box::new(source.into()),
        }
    }

    pub(crate) fn io(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { verb, path, source }
    }
}

/// When a full queue may have room again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl ServiceError for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Invalid { field, reason } => Kind::invalid(field, reason),
            Self::Benchmark { source, .. } => Kind::invalid("spec.benchmarks", source.to_string()),
            Self::UnknownModel { .. } | Self::UnknownBenchmark { .. } => Kind::NotFound,
            Self::Model { source, .. }
                if matches!(**source, models::llava_error::Error::Cancelled) =>
            {
                Kind::Cancelled
            }
            Self::Cancelled => Kind::Cancelled,
            Self::Model { .. } | Self::Dataset { .. } | Self::Abilities(_) | Self::Io { .. } => {
                Kind::FailedPrecondition
            }
            Self::Artefact(error) => error.kind(),
            Self::Jobs(error) => error.kind(),
            Self::Busy(_) => Kind::ResourceExhausted {
                retry_after: Some(RETRY_AFTER),
            },
            Self::Internal(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::UnknownModel { .. } => "UNKNOWN_MODEL",
            Self::UnknownBenchmark { .. } => "UNKNOWN_BENCHMARK",
            Self::Benchmark { .. } => "BAD_BENCHMARK",
            _ => self.kind().reason(),
        }
    }
}
