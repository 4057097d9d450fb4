//! The `diptych` binary.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    diptych::execute(diptych::Cli::read()).await
}
