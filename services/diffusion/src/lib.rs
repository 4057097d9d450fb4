//! Images: renders them from prompts and scores them.
//!
//! * [`Options`]: what an operator can set.
//! * `models_served`, `shelf`: the checkpoints by name, and which of them are in memory.
//! * `catalogue`: what is said of them.
//! * `request`: a call becomes pictures wanted, checked once at the edge.
//! * `image_input`: pictures that callers send.
//! * `engine`: the thread that owns the device; pictures of all callers share its batches.
//! * `line`: whose turn it is.
//! * `remote`: the same for a model behind a server that speaks OpenAI's images API.
//! * `picture`: a finished picture as a PNG that says where it comes from.
//! * `service`, `scoring`: the gRPC edge.

mod catalogue;
mod engine;
mod error;
mod image_input;
mod line;
mod models_served;
mod options;
mod picture;
mod remote;
mod request;
mod scoring;
mod service;
mod shelf;

use std::sync::Arc;
use std::time::Duration;

use proto::diffusion::v1::diffusion_service_server::DiffusionServiceServer;
use proto::diffusion::v1::image_scoring_service_server::ImageScoringServiceServer;
use runtime::artefact::Roots;
use runtime::cache::Cache;
use runtime::{Handle, Listener, Service, StartError, Telemetry, serve};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
pub use crate::error::Error;
use crate::models_served::Served;
pub use crate::options::{Backend, Options, UnsafePictures};
use crate::remote::Remote;
pub use crate::remote::{ImageSize, RemoteOptions};
use crate::request::Bounds;
use crate::scoring::Scoring;
use crate::service::{Diffusion, Painter};
pub use models::lora::ModelPath;

/// The port without `--listen`.
pub const DEFAULT_PORT: u16 = 50052;

/// Name of the service in metrics and traces.
pub const NAME: &str = "diffusion";

/// Serves images and scores on `listener` until `stop` is cancelled. Models are loaded, and asked for
/// a picture once, before the first call is let in.
///
/// # Errors
/// An instruction set or a precision that the processor lacks, a remote model without an address, an artefact root
/// that cannot be used, a `REDIS_URL` that is none, and what [`serve()`](runtime::serve()) gives. A model that does not load is said by
/// [`Handle::ready`](runtime::Handle::ready) and [`Handle::wait`](runtime::Handle::wait).
pub async fn start(
    options: Options,
    telemetry: &Telemetry,
    listener: Listener,
    max_message_bytes: usize,
    stop: CancellationToken,
) -> Result<Handle, StartError> {
    let refused =
        |error: runtime::artefact::Error| StartError::Options(runtime::error::chain(&error));
    if let Some(isa) = options.isa {
        isa.pin().map_err(StartError::Options)?;
    }
    options.precision.check().map_err(StartError::Options)?;
    let roots = Roots::open(&options.artefacts).map_err(refused)?;
    let cache = Cache::open(&options.cache)?;
    let served = Arc::new(Served::default());
    let painter = painter(&options)?;
    let roots = Arc::new(roots);
    let bounds = Bounds {
        max_items: options.max_items,
        unsafe_pictures: options.unsafe_pictures,
    };
    let images = Diffusion::new(served.clone(), painter, roots.clone(), bounds);
    let images = DiffusionServiceServer::new(images)
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(max_message_bytes);
    let scores = ImageScoringServiceServer::new(Scoring::new(served.clone(), roots, cache))
        .max_decoding_message_size(max_message_bytes)
        .max_encoding_message_size(max_message_bytes);
    let service = Service::new(telemetry, proto::FILE_DESCRIPTOR_SET)
        .with(images)
        .with(scores);
    let warm_up = async move {
        let load = tokio::task::spawn_blocking(move || served.load(&options));
        load.await
            .unwrap_or_else(|panic| Err(Error::Task(panic.to_string())))
    };
    serve(service, listener, warm_up, stop).await
}

/// Who paints, as the options say.
fn painter(options: &Options) -> Result<Painter, StartError> {
    if options.backend == Backend::OpenaiImages {
        let capacity = options.queue_capacity;
        let remote = Remote::new(&options.llm, options.remote.clone(), capacity);
        return remote
            .map(Painter::Remote)
            .map_err(|error| StartError::Options(runtime::error::chain(&error)));
    }
    let bounds = engine::Bounds {
        capacity: options.queue_capacity,
        max_batch: options.max_batch,
        batch_wait: Duration::from_millis(options.batch_wait_ms),
    };
    let engine = Engine::start(bounds)
        .map_err(|error| StartError::Options(format!("cannot start the device thread: {error}")))?;
    Ok(Painter::Device(Arc::new(engine)))
}
