//! What the caller of a service can do about a language model that fails, as gRPC knows it.

use std::time::Duration;

use runtime::{Kind, ServiceError};

use crate::Error;

/// Pause before the next try, where a language model that is overloaded names none.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(5);

impl Error {
    /// Whether the same request may well succeed later: the server is away, or has too much to do. A
    /// bound of our own that was reached is not passed by asking again.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind(), Kind::Unavailable { .. }) || matches!(self, Self::Overloaded { .. })
    }

    /// Whether every other item of a request would fail of it too, so that the request had better end
    /// with it.
    pub fn ends_request(&self) -> bool {
        matches!(
            self,
            Self::Options(_)
                | Self::File { .. }
                | Self::Http(_)
                | Self::Unreachable { .. }
                | Self::Untrusted { .. }
                | Self::Unauthorized { .. }
                | Self::OutOfCredit { .. }
                | Self::NotFound { .. }
                | Self::Overloaded { .. }
                | Self::Full { .. }
                | Self::Deadline { .. }
                | Self::Journal { .. }
                | Self::Model { .. }
        )
    }
}

impl ServiceError for Error {
    fn kind(&self) -> Kind {
        match self {
            // A server that stays overloaded, and a rate that is used up, end in the deadline of the call.
            Self::Overloaded { .. } | Self::Full { .. } | Self::Deadline { .. } => {
                Kind::ResourceExhausted {
                    retry_after: self.retry_after().or(Some(OVERLOAD_PAUSE)),
                }
            }
            Self::Unreachable { .. }
            | Self::Server { .. }
            | Self::TimedOut { .. }
            | Self::Cut { .. }
            | Self::Malformed { .. } => Kind::Unavailable { retry_after: None },
            Self::Options(_)
            | Self::File { .. }
            | Self::Http(_)
            | Self::Untrusted { .. }
            | Self::Unauthorized { .. }
            | Self::OutOfCredit { .. }
            | Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Truncated { .. }
            | Self::Declined { .. }
            | Self::Empty
            | Self::Schema { .. }
            | Self::Journal { .. }
            | Self::Model { .. }
            | Self::DoesNotFit { .. }
            | Self::Generation { .. }
            | Self::Batch { .. } => Kind::FailedPrecondition,
            Self::Left => Kind::Cancelled,
            Self::Thread(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Untrusted { .. } => "LANGUAGE_MODEL_UNTRUSTED",
            Self::Unauthorized { .. } => "LANGUAGE_MODEL_REFUSED_KEY",
            Self::OutOfCredit { .. } => "LANGUAGE_MODEL_OUT_OF_CREDIT",
            Self::NotFound { .. } => "LANGUAGE_MODEL_NOT_FOUND",
            Self::Overloaded { .. } | Self::Full { .. } | Self::Deadline { .. } => {
                "LANGUAGE_MODEL_OVERLOADED"
            }
            Self::Unreachable { .. } => "LANGUAGE_MODEL_AWAY",
            Self::Server { .. }
            | Self::TimedOut { .. }
            | Self::Cut { .. }
            | Self::Malformed { .. }
            | Self::Generation { .. } => "LANGUAGE_MODEL_FAILED",
            Self::Declined { .. } => "LANGUAGE_MODEL_DECLINED",
            Self::Refused { .. } => "LANGUAGE_MODEL_REFUSED_REQUEST",
            Self::DoesNotFit { .. } => "LANGUAGE_MODEL_CONTEXT_FULL",
            Self::TooLarge { .. } | Self::Truncated { .. } | Self::Empty | Self::Schema { .. } => {
                "UNUSABLE_ANSWERS"
            }
            Self::Journal { .. } => "JOURNAL_UNUSABLE",
            Self::Options(_)
            | Self::File { .. }
            | Self::Http(_)
            | Self::Model { .. }
            | Self::Batch { .. } => "LANGUAGE_MODEL_MISCONFIGURED",
            Self::Left | Self::Thread(_) => self.kind().reason(),
        }
    }
}
