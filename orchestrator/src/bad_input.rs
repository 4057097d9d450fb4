//! What tells the caller's mistake (exit code 2) from a failure (exit code 1).

use proto::dataset::v1::ItemFailure;
use tonic::{Code, Status};

/// Marks an error of the caller's: bad usage or bad input. It adds no words.
#[derive(Debug, thiserror::Error)]
#[error("bad input")]
pub(crate) struct BadInput;

/// A refused item as an error: a failure that asking again does not mend is the caller's.
pub(crate) fn refusal(failure: &ItemFailure) -> anyhow::Error {
    let error = anyhow::anyhow!("{}", failure.message);
    match failure.retryable {
        true => error,
        false => error.context(BadInput),
    }
}

/// A refused call as an error, marked where the service refused what the caller gave.
pub(crate) fn complaint(status: &Status) -> anyhow::Error {
    let error = anyhow::anyhow!("{}", runtime::explain(status));
    match is_complaint(status.code()) {
        true => error.context(BadInput),
        false => error,
    }
}

/// Whether a code speaks of what the caller gave.
pub(crate) fn is_complaint(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument | Code::NotFound | Code::Unimplemented | Code::AlreadyExists
    )
}
