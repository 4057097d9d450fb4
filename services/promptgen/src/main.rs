//! The promptgen service.

use clap::Parser as _;
use runtime::{Listener, Telemetry, stop_signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    models::threads::init();
    let arguments = promptgen::Arguments::parse();
    let telemetry = Telemetry::start(&arguments.telemetry, "promptgen")?;
    let listener = Listener::bind(&arguments.listen, promptgen::DEFAULT_PORT).await?;
    let handle = promptgen::start(arguments.service(), listener, &telemetry, stop_signal()).await?;
    handle.wait().await?;
    telemetry.shutdown().await;
    Ok(())
}
