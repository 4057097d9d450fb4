//! One way from an error to the wire, and one way back to a sentence.
//!
//! A service has one `thiserror` enum, says for each variant what [`Kind`] it is, and hands it to
//! [`respond`]. Every status carries `google.rpc.ErrorInfo` (stable reason, domain `diptych`), and
//! where they apply `BadRequest` and `RetryInfo`. A client shows [`explain`].

use std::{collections::HashMap, error::Error, fmt::Write as _, time::Duration};

use opentelemetry::trace::TraceContextExt as _;
use proto::dataset::v1::ItemFailure;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every `google.rpc.ErrorInfo` of the suite.
pub const DOMAIN: &str = "diptych";

/// What a caller can do about an error. The set is small on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The request can never succeed as it stands; the fields say where.
    InvalidArgument(Vec<FieldViolation>),
    /// The caller has no or a wrong token.
    Unauthenticated,
    /// The caller may not do that, for instance name a path outside the roots.
    PermissionDenied,
    /// What the request names does not exist.
    NotFound,
    /// It exists already, and differs.
    AlreadyExists,
    /// The system is in a state that refuses the request until somebody changes that state.
    FailedPrecondition,
    /// Another writer won; read again and decide.
    Aborted,
    /// A bound is reached; come back after this time.
    ResourceExhausted {
        /// How long to wait; `None` where waiting does not help (a message too large).
        retry_after: Option<Duration>,
    },
    /// The caller left, or asked for the end.
    Cancelled,
    /// The time given for the request is over.
    DeadlineExceeded,
    /// Something this needs is away for now.
    Unavailable {
        /// How long to wait, where that is known.
        retry_after: Option<Duration>,
    },
    /// This implementation does not offer that.
    Unimplemented,
    /// Stored bytes are not what they should be.
    DataLoss,
    /// A fault of ours. Its text goes to the log and not to the caller.
    Internal,
}

/// One field of a request that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field in the request, in proto names: `spec.width_px`.
    pub field: String,
    /// The rule, as a sentence a caller can act on.
    pub description: String,
}

/// An error that knows what its reader can do about it.
pub trait ServiceError: Error {
    /// What kind it is. Match exhaustively, so that a new variant asks the question again.
    fn kind(&self) -> Kind;

    /// A stable, machine-readable reason; by default the name of the gRPC code.
    fn reason(&self) -> &'static str {
        self.kind().reason()
    }
}

/// The status that answers a failed request. An [`Kind::Internal`] error is logged here, once,
/// with its causes; the caller learns only a reference to find it by.
pub fn respond<E: ServiceError + ?Sized>(error: &E) -> Status {
    let kind = error.kind();
    let (message, reference) = match kind {
        Kind::Internal => hidden(error),
        _ => (chain(error), None),
    };
    let metadata = reference
        .map(|id| ("trace_id".to_owned(), id))
        .into_iter()
        .collect();
    status(&kind, error.reason(), message, metadata)
}

/// The failure of one item among others that went on. What [`respond`] hides, this hides too.
pub fn item_failure<E: ServiceError + ?Sized>(error: &E) -> ItemFailure {
    let status = respond(error);
    let retryable = matches!(
        status.code(),
        Code::ResourceExhausted | Code::Unavailable | Code::Aborted | Code::DeadlineExceeded
    );
    ItemFailure {
        reason: error.reason().to_owned(),
        message: status.message().to_owned(),
        retryable,
    }
}

/// An error and all its causes in one line, each once: `cannot read a.png: no such file`.
pub fn chain<E: Error + ?Sized>(error: &E) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !line.contains(&text) {
            let _infallible = write!(line, ": {text}");
        }
        cause = next.source();
    }
    line
}

/// One sentence that tells a person what a status says: message, fields, when to come back.
pub fn explain(status: &Status) -> String {
    let details = status.get_error_details();
    let mut sentence = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let violations = details
        .bad_request()
        .map_or(&[][..], |bad| &bad.field_violations);
    let unsaid: Vec<String> = violations
        .iter()
        .filter(|violation| !sentence.contains(&violation.description))
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect();
    if !unsaid.is_empty() {
        let _infallible = write!(sentence, " ({})", unsaid.join("; "));
    }
    if let Some(delay) = retry_after(status) {
        let _infallible = write!(sentence, " (try again in {:.1} s)", delay.as_secs_f64());
    }
    sentence
}

/// How long the peer asks us to wait before the next attempt, if it says so.
pub fn retry_after(status: &Status) -> Option<Duration> {
    status
        .get_error_details()
        .retry_info()
        .and_then(|retry| retry.retry_delay)
}

/// The stable reason of a status of the suite, if it has one.
pub fn reason(status: &Status) -> Option<String> {
    status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone())
}

impl Kind {
    /// An invalid argument with a single violation.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::InvalidArgument(vec![FieldViolation::new(field, description)])
    }

    /// The gRPC code this kind maps to.
    pub fn code(&self) -> Code {
        match self {
            Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::NotFound => Code::NotFound,
            Self::AlreadyExists => Code::AlreadyExists,
            Self::FailedPrecondition => Code::FailedPrecondition,
            Self::Aborted => Code::Aborted,
            Self::ResourceExhausted { .. } => Code::ResourceExhausted,
            Self::Cancelled => Code::Cancelled,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Unimplemented => Code::Unimplemented,
            Self::DataLoss => Code::DataLoss,
            Self::Internal => Code::Internal,
        }
    }

    /// The reason of an error that has no finer one: the name of its code.
    pub fn reason(&self) -> &'static str {
        code_name(self.code())
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ResourceExhausted { retry_after } | Self::Unavailable { retry_after } => {
                *retry_after
            }
            _ => None,
        }
    }
}

impl FieldViolation {
    /// A violation of `description` by `field`.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            description: description.into(),
        }
    }
}

/// The name of a gRPC code as the protocol spells it, `NOT_FOUND`.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A status made by the runtime itself, with the same details as a service's.
pub(crate) fn plain(kind: &Kind, message: impl Into<String>) -> Status {
    status(kind, kind.reason(), message.into(), HashMap::new())
}

fn status(
    kind: &Kind,
    reason: &'static str,
    message: String,
    metadata: HashMap<String, String>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if let Kind::InvalidArgument(violations) = kind {
        for FieldViolation { field, description } in violations {
            details.add_bad_request_violation(field, description);
        }
    }
    if let Some(delay) = kind.retry_after() {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(kind.code(), message, details)
}

fn hidden<E: Error + ?Sized>(error: &E) -> (String, Option<String>) {
    let context = opentelemetry::Context::current();
    let span = context.span();
    let span_context = span.span_context();
    let reference = span_context
        .is_valid()
        .then(|| span_context.trace_id().to_string());
    tracing::error!(
        error = chain(error),
        trace_id = reference,
        "a request failed inside"
    );
    let message = match &reference {
        Some(id) => format!("internal error; the service's log has it under trace {id}"),
        None => "internal error; the service's log has it".to_owned(),
    };
    (message, reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("width_px must be a multiple of 8, and 63 is not")]
        Width,
        #[error("cannot read /srv/secret/weights")]
        Weights(#[source] std::io::Error),
        #[error("the queue is full")]
        Full,
    }

    impl ServiceError for Failure {
        fn kind(&self) -> Kind {
            match self {
                Self::Width => Kind::invalid("spec.width_px", "must be a multiple of 8"),
                Self::Weights(_) => Kind::Internal,
                Self::Full => Kind::ResourceExhausted {
                    retry_after: Some(Duration::from_secs(2)),
                },
            }
        }

        fn reason(&self) -> &'static str {
            match self {
                Self::Width => "BAD_WIDTH",
                Self::Weights(_) | Self::Full => self.kind().reason(),
            }
        }
    }

    #[test]
    fn an_error_carries_its_reason_and_its_field_and_reads_as_a_sentence() {
        let status = respond(&Failure::Width);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(reason(&status).as_deref(), Some("BAD_WIDTH"));
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("error info").domain, "diptych");
        let bad = details.bad_request().expect("bad request");
        assert_eq!(bad.field_violations[0].field, "spec.width_px");
        assert_eq!(
            explain(&status),
            "width_px must be a multiple of 8, and 63 is not"
        );

        let full = respond(&Failure::Full);
        assert_eq!(retry_after(&full), Some(Duration::from_secs(2)));
        assert_eq!(explain(&full), "the queue is full (try again in 2.0 s)");
        assert!(item_failure(&Failure::Full).retryable);
    }

    #[test]
    fn an_internal_error_shows_nothing_of_its_inside() {
        let error = Failure::Weights(std::io::Error::other("disk 7 is on fire"));
        assert_eq!(
            chain(&error),
            "cannot read /srv/secret/weights: disk 7 is on fire"
        );
        let status = respond(&error);
        assert_eq!(status.code(), Code::Internal);
        for text in [
            status.message(),
            &explain(&status),
            &item_failure(&error).message,
        ] {
            assert!(!text.contains("secret") && !text.contains("fire"), "{text}");
        }
    }
}
