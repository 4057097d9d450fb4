//! Harness of the journeys: programs of the suite as processes of their own, a real Redis, a
//! real S3 server, and a receiver of traces. Nothing here has a fixed port, and nothing waits for "long enough".

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

pub mod faults;
mod obedient_model;
mod otlp;
mod process;
mod redis;
mod s3;
pub mod stub_stages;

pub use obedient_model::ObedientModel;
pub use otlp::{Receiver, Span};
pub use process::{Service, assets, checkout, finished, program, wait_for_first_partition};
pub use redis::Redis;
pub use s3::{BUCKET, S3, python};
