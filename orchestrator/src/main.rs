//! The `diptych` binary.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    runtime::memory::share_arena();
    started()
}

#[tokio::main]
async fn started() -> ExitCode {
    diptych::execute(diptych::Cli::parse()).await
}
