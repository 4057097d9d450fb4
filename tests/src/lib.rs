//! Harness of the journeys: programs of the suite as processes of their own, a real Redis, and a
//! receiver of traces. Nothing here has a fixed port, and nothing waits for "long enough".

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod otlp;
mod process;
mod redis;

pub use otlp::{Receiver, Span};
pub use process::{Service, assets, checkout, finished, program, wait_for_first_partition};
pub use redis::Redis;
