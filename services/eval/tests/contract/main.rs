//! The service over a real socket, with the tiny LLaVA checkpoint of `crates/models/tests`.

mod answers;
mod benchmarks;
mod evaluations;
mod refusals;
mod stage;
