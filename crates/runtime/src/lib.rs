//! How a service of the suite runs, and how a client reaches it. No domain stands here.
//!
//! * [`options`]: blocks of command-line options, each with an environment variable.
//! * [`serve`](mod@serve): bind, warm up, serve, drain. One function for all services.
//! * [`error`]: one way from an error to a `Status` with details, and back to a sentence.
//! * [`context`]: what a request carries: cancellation, deadline, trace.
//! * [`channel`], [`retry`]: a client channel that forwards all three, and retries.
//! * [`telemetry`], [`prometheus`]: logs, spans, metrics.
//! * [`cache`]: prompts, answers and embeddings; in-process, or Redis as well.
//! * [`artefact`]: what is too large for a message, under roots the operator named.
//! * [`jobs`]: long work that outlives its caller and its process.
//! * [`memory`]: what a long run gives back to the system.
//!
//! A service in full:
//!
//! ```no_run
//! # async fn example(listen: runtime::options::ListenOptions, telemetry: runtime::options::TelemetryOptions)
//! # -> Result<(), runtime::StartError> {
//! use runtime::{Listener, Service, Telemetry, serve, stop_signal};
//!
//! let telemetry = Telemetry::start(&telemetry, "diffusion")?;
//! let listener = Listener::bind(&listen, 50052).await?;
//! let service = Service::new(&telemetry, b"").with(tonic_health::server::health_reporter().1);
//! let warm_up = async { Ok::<(), std::io::Error>(()) };
//! serve(service, listener, warm_up, stop_signal()).await?.wait().await
//! # }
//! ```

pub mod artefact;
pub mod cache;
pub mod channel;
pub mod context;
pub mod error;
pub mod jobs;
mod layers;
mod listen;
pub mod memory;
pub mod options;
mod otlp_metrics;
mod program;
pub mod prometheus;
pub mod retry;
pub mod serve;
mod start_error;
pub mod telemetry;
mod token;

pub use channel::Channel;
pub use context::RequestContext;
pub use error::{FieldViolation, Kind, ServiceError, explain, item_failure, respond};
pub use listen::Listener;
pub use program::run;
pub use serve::{Handle, Service, serve, stop_signal};
pub use start_error::StartError;
pub use telemetry::Telemetry;
