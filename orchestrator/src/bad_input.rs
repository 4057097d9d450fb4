//! What tells the caller's mistake (exit code 2) from a failure (exit code 1).

use std::io::ErrorKind;

use proto::dataset::v1::ItemFailure;
use tonic::{Code, Status};

/// Marks an error of the caller's: bad usage or bad input. It adds no words.
#[derive(Debug, thiserror::Error)]
#[error("bad input")]
pub(crate) struct BadInput;

/// Whether an error is the caller's: one that was marked so, a dataset that is damaged or another's,
/// a file where a folder is wanted, or the other way round, or a place that may not be written or read.
pub(crate) fn is_bad_input(error: &anyhow::Error) -> bool {
    let is_of_input = |cause: &(dyn std::error::Error + 'static)| {
        let dataset = cause.downcast_ref::<dataset::store::Error>();
        let file = cause
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind);
        dataset.is_some_and(dataset::store::Error::is_of_input)
            || matches!(
                file,
                Some(
                    ErrorKind::NotADirectory
                        | ErrorKind::IsADirectory
                        | ErrorKind::PermissionDenied
                        | ErrorKind::ReadOnlyFilesystem
                )
            )
    };
    error.downcast_ref::<BadInput>().is_some() || error.chain().any(is_of_input)
}

/// What clap says of another program's options, as one sentence: the value and the possible ones stand
/// on two lines, and what follows speaks of that program.
#[cfg(feature = "embedded")]
pub(crate) fn flattened(error: &clap::Error) -> anyhow::Error {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    let words: Vec<&str> = lines.map(str::trim).collect();
    let words = words.join(" ");
    let reason = words.strip_prefix("error: ").unwrap_or(&words).to_owned();
    anyhow::anyhow!(reason).context(BadInput)
}

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
