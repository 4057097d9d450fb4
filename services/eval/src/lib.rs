//! Evaluation: answers questions on pictures, makes benchmarks, and says what a difference of
//! scores is worth.
//!
//! * [`benchmark`]: the folder format, read with file and line of what is wrong.
//! * [`scoring`]: whether an answer is right.
//! * [`statistics`]: intervals, paired differences, p-values, Holm.
//! * [`shuffle`]: the same questions on other pictures.
//! * `answering` asks models, `evaluation` and `making` are the jobs, `service` is the gRPC edge.

mod answering;
pub mod benchmark;
mod error;
mod evaluation;
mod making;
mod options;
mod overlap;
mod paper;
mod places;
mod publishing;
mod results;
pub mod scoring;
mod service;
pub mod shuffle;
mod spec;
pub mod statistics;

use std::sync::Arc;

use proto::eval::v1::eval_service_server::EvalServiceServer;
use runtime::{Handle, Listener, Service, StartError, Telemetry, cache::Cache, serve};
use tokio_util::sync::CancellationToken;

use crate::{answering::Answering, places::Places, service::Eval};
pub use crate::{error::Error, options::Options};

/// The port without `--listen`.
pub const DEFAULT_PORT: u16 = 50055;

/// Name of the service in metrics and traces.
pub const NAME: &str = "eval";

/// Serves evaluation on `listener` until `stop` is cancelled; unfinished jobs of an earlier
/// process go on where they were. The handle's end waits for what the running jobs keep.
///
/// # Errors
/// An artefact root that cannot be made, a `REDIS_URL` that is none, and what
/// [`serve()`](runtime::serve()) gives.
pub async fn start(
    options: Options,
    telemetry: &Telemetry,
    listener: Listener,
    max_message_bytes: usize,
    stop: CancellationToken,
) -> Result<Handle, StartError> {
    let refused = |error: Error| StartError::Options(runtime::error::chain(&error));
    let places = Arc::new(Places::open(&options).map_err(refused)?);
    let answering = Arc::new(Answering::new(
        Cache::open(&options.cache)?,
        options.kept_models,
    ));
    let eval = Eval::open(&options, places, answering, stop.clone()).map_err(refused)?;
    let server = EvalServiceServer::new(eval.clone())
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(max_message_bytes);
    let service = Service::new(telemetry, proto::FILE_DESCRIPTOR_SET).with(server);
    let service = eval.background().fold(service, Service::with_background);
    serve(service, listener, async move { eval.warm_up().await }, stop).await
}
