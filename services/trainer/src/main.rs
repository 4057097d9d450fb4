//! The `trainer` service as a program.

use std::process::ExitCode;

use clap::Parser;
use runtime::options::{ListenOptions, TelemetryOptions};
use runtime::{Listener, Telemetry, stop_signal};

/// Trains LLaVA-style models: projector alignment, then instruction tuning.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  trainer --artefact-root runs --listen 127.0.0.1:50054"
)]
struct Arguments {
    #[command(flatten)]
    listen: ListenOptions,
    #[command(flatten)]
    telemetry: TelemetryOptions,
    #[command(flatten)]
    trainer: trainer::Options,
}

fn main() -> ExitCode {
    models::threads::init();
    let Arguments {
        listen,
        telemetry,
        trainer,
    } = Arguments::parse();
    runtime::run(async {
        let telemetry = Telemetry::start(&telemetry, trainer::NAME)?;
        let listener = Listener::bind(&listen, trainer::DEFAULT_PORT).await?;
        let stop = stop_signal();
        let handle = trainer::start(
            trainer,
            &telemetry,
            listener,
            listen.max_message_bytes,
            stop,
        )
        .await?;
        let ended = handle.wait().await;
        telemetry.shutdown().await;
        ended
    })
}
