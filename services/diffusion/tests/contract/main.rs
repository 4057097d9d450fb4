//! The service over a real socket, on the tiny checkpoints of `models`' tests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod damaged;
mod images;
mod originals;
mod remote;
mod scoring;
mod serving;
mod stage;
