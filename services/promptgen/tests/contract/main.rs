//! The contract of promptgen, over real sockets.

#![allow(
    clippy::unwrap_used,
    reason = "the functions beside the tests are tests too; clippy knows only the latter"
)]

mod abilities;
mod embedding;
mod prompts;
mod stage;
