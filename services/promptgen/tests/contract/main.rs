//! The contract of promptgen, over real sockets.

#![allow(
    clippy::unwrap_used,
    reason = "the functions beside the tests are tests too; clippy knows only the latter"
)]

mod abilities;
mod author;
mod embedding;
mod model_server;
mod prompts;
mod stage;
