//! The `eval` service as a program.

use std::process::ExitCode;

use clap::Parser;
use runtime::options::{ListenOptions, TelemetryOptions};
use runtime::{Listener, Telemetry, stop_signal};

/// Answers questions on pictures, makes benchmarks and scores models on them.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  eval --assets . --artefact-root runs --listen 127.0.0.1:50055"
)]
struct Arguments {
    #[command(flatten)]
    listen: ListenOptions,
    #[command(flatten)]
    telemetry: TelemetryOptions,
    #[command(flatten)]
    eval: eval::Options,
}

fn main() -> ExitCode {
    models::threads::init();
    let Arguments {
        listen,
        telemetry,
        eval,
    } = Arguments::parse();
    runtime::run(async {
        let telemetry = Telemetry::start(&telemetry, eval::NAME)?;
        let listener = Listener::bind(&listen, eval::DEFAULT_PORT).await?;
        let stop = stop_signal();
        let handle =
            eval::start(eval, &telemetry, listener, listen.max_message_bytes, stop).await?;
        let ended = handle.wait().await;
        telemetry.shutdown().await;
        ended
    })
}
