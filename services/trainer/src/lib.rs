//! The `trainer` service: two-stage LLaVA training as jobs.
//!
//! * [`plan`]: a specification, checked once at the edge.
//! * `data`, `order`, `features`: samples from LLaVA JSON and our store, the order in which they
//!   are drawn, what the frozen tower sees in their pictures.
//! * `train`: the loop, read from top to bottom.
//! * `checkpoint`, [`output`], `events`, `card`: what a run writes.
//! * [`work`], [`service`]: jobs, and the calls about them.

mod card;
mod checkpoint;
mod data;
pub mod error;
mod events;
mod features;
pub mod options;
mod order;
pub mod output;
pub mod places;
pub mod plan;
pub mod service;
mod train;
pub mod work;

use proto::dataset::v1::ModelInfo;
use proto::trainer::v1::trainer_service_server::TrainerServiceServer;
use runtime::artefact::Roots;
use runtime::jobs::{Jobs, Settings};
use runtime::{Handle, Listener, StartError, Telemetry, serve};
use tokio_util::sync::CancellationToken;

pub use options::Options;
pub use output::{Metric, Outcome};
pub use train::Progress;

use crate::error::Error;
use crate::places::{BUILTIN_MODEL, Places};
use crate::work::Trainer;

/// The port without `--listen`.
pub const DEFAULT_PORT: u16 = 50054;

/// Name of the service in metrics and traces.
pub const NAME: &str = "trainer";

/// Serves the trainer on `listener` until `stop` is cancelled; unfinished jobs of an earlier
/// process go on from their newest checkpoints. The handle's end waits for the running job's
/// checkpoint.
///
/// # Errors
/// An artefact root that cannot be used, and what [`serve()`](runtime::serve()) gives.
pub async fn start(
    options: Options,
    telemetry: &Telemetry,
    listener: Listener,
    max_message_bytes: usize,
    stop: CancellationToken,
) -> Result<Handle, StartError> {
    let service = service(options, stop.clone())
        .map_err(|error| StartError::Options(runtime::error::chain(&error)))?;
    let jobs_ended = service.jobs_ended();
    let server = TrainerServiceServer::new(service)
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(max_message_bytes);
    let service = runtime::Service::new(telemetry, proto::FILE_DESCRIPTOR_SET)
        .with(server)
        .with_background(jobs_ended);
    // Models are loaded by jobs; there is nothing to warm.
    let warm_up = async { Ok::<(), std::io::Error>(()) };
    serve(service, listener, warm_up, stop).await
}

/// The gRPC service and its queue of jobs, which ends with `stop`. Call it inside a tokio runtime.
///
/// # Errors
/// An artefact root that cannot be made, or that is missing.
pub fn service(options: Options, stop: CancellationToken) -> Result<service::Service, Error> {
    let Options {
        assets,
        artefacts,
        queue_capacity,
        kept_jobs,
        feature_cache_bytes,
    } = options;
    let failed = |source| Error::Artefact {
        field: "--artefact-root".into(),
        source,
    };
    let roots = Roots::open(&artefacts).map_err(failed)?;
    let settings = Settings {
        service_name: NAME.into(),
        job_kind: "training",
        folder: roots.place("jobs").map_err(failed)?,
        queue_capacity,
        kept_jobs,
    };
    let places = Places::new(roots, assets);
    let models = served(&places);
    let jobs = Jobs::open(Trainer::new(feature_cache_bytes), settings, stop)?;
    Ok(service::Service::new(jobs, places, models))
}

/// What is served by name.
fn served(places: &Places) -> Vec<ModelInfo> {
    let Ok(folder) = places.model(BUILTIN_MODEL) else {
        return Vec::new();
    };
    match (
        models::llava::Llava::inspect(&folder),
        runtime::artefact::digest(&folder),
    ) {
        (Ok(found), Ok((sha256, _))) => vec![ModelInfo {
            name: BUILTIN_MODEL.into(),
            sha256,
            architecture: "LlavaForConditionalGeneration".into(),
            parameter_count: found.parameter_count,
        }],
        (Err(error), _) => {
            tracing::warn!(
                error = runtime::error::chain(&error),
                "{BUILTIN_MODEL} cannot be used"
            );
            Vec::new()
        }
        (_, Err(_)) => Vec::new(),
    }
}
