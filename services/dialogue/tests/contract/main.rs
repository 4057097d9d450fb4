//! The contract of dialogue, over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions beside the tests are tests too; clippy knows only the latter"
)]

mod author;
mod checking;
mod model_server;
mod several;
mod stage;
mod writing;
