//! The `diffusion` service as a program.

use std::process::ExitCode;

use clap::Parser;
use runtime::options::{ListenOptions, TelemetryOptions};
use runtime::{Listener, Telemetry, stop_signal};

/// Renders images from prompts, and scores images.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  diffusion --assets . --listen 127.0.0.1:50052"
)]
struct Arguments {
    #[command(flatten)]
    listen: ListenOptions,
    #[command(flatten)]
    telemetry: TelemetryOptions,
    #[command(flatten)]
    diffusion: diffusion::Options,
}

fn main() -> ExitCode {
    models::threads::init();
    let Arguments {
        listen,
        telemetry,
        diffusion,
    } = Arguments::parse();
    runtime::run(async {
        let telemetry = Telemetry::start(&telemetry, diffusion::NAME)?;
        let listener = Listener::bind(&listen, diffusion::DEFAULT_PORT).await?;
        let stop = stop_signal();
        let handle = diffusion::start(
            diffusion,
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
