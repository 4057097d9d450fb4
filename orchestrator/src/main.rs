//! The `diptych` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::memory::share_arena();
    started()
}

#[tokio::main]
async fn started() -> ExitCode {
    diptych::execute(diptych::Cli::read()).await
}
