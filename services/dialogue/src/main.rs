//! The dialogue service.

use std::process::ExitCode;

use clap::Parser as _;
use runtime::{Listener, Telemetry, stop_signal};

fn main() -> ExitCode {
    models::threads::init();
    let arguments = dialogue::Arguments::parse();
    runtime::run(async {
        let telemetry = Telemetry::start(&arguments.telemetry, "dialogue")?;
        let listener = Listener::bind(&arguments.listen, dialogue::DEFAULT_PORT).await?;
        let service = arguments.service();
        let handle = dialogue::start(service, listener, &telemetry, stop_signal()).await?;
        let ended = handle.wait().await;
        telemetry.shutdown().await;
        ended
    })
}
