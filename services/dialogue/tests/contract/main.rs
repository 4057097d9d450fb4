//! The contract of dialogue, over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions beside the tests are tests too; clippy knows only the latter"
)]

mod author;
mod checking;
#[path = "../../../../crates/llm/tests/leaving/mod.rs"]
mod leaving;
mod local;
#[path = "../../../../crates/llm/tests/model_server/mod.rs"]
mod model_server;
mod several;
mod stage;
#[path = "../../../../crates/llm/tests/tiny_model/mod.rs"]
mod tiny_model;
mod writing;
