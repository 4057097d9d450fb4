//! The dialogue service.

use clap::Parser as _;
use runtime::{Listener, Telemetry, stop_signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = dialogue::Arguments::parse();
    let telemetry = Telemetry::start(&arguments.telemetry, "dialogue")?;
    let listener = Listener::bind(&arguments.listen, dialogue::DEFAULT_PORT).await?;
    let handle = dialogue::start(arguments.service(), listener, &telemetry, stop_signal()).await?;
    handle.wait().await?;
    telemetry.shutdown().await;
    Ok(())
}
