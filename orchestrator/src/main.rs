//! The `diptych` binary.

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    diptych::execute(diptych::Cli::parse()).await
}
