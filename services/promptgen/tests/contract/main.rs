//! The contract of promptgen, over real sockets.

#![allow(
    clippy::unwrap_used,
    reason = "the functions beside the tests are tests too; clippy knows only the latter"
)]

mod abilities;
mod author;
mod embedding;
#[path = "../../../../crates/llm/tests/leaving/mod.rs"]
mod leaving;
mod local;
#[path = "../../../../crates/llm/tests/model_server/mod.rs"]
mod model_server;
mod prompts;
mod stage;
#[path = "../../../../crates/llm/tests/tiny_model/mod.rs"]
mod tiny_model;
