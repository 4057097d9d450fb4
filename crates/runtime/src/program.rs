//! The frame around a service's program.

use std::process::ExitCode;

use crate::{StartError, error::chain};

/// Runs a program on a tokio runtime of its own. It ends with 0, or with 1 and one sentence,
/// causes included, on stderr.
pub fn run(program: impl Future<Output = Result<(), StartError>>) -> ExitCode {
    let outcome = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(program).map_err(|error| chain(&error)),
        Err(error) => Err(format!("cannot start the threads of the program: {error}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => complain(&sentence),
    }
}

#[allow(
    clippy::print_stderr,
    reason = "the last words of a program go to stderr, whatever the log filter says"
)]
fn complain(sentence: &str) -> ExitCode {
    eprintln!("error: {sentence}");
    ExitCode::FAILURE
}
