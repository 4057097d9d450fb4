//! The runtime over real sockets, with a small service of the suite's own schema.

#![allow(
    clippy::panic,
    reason = "a test fails by it, and some handlers do it on purpose"
)]

mod stage;

mod balance;
mod cache;
mod channel;
mod deadline;
mod jobs;
mod security;
mod serve;
mod trace;
