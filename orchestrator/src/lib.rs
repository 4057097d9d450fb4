//! The client of the suite: drives the five services, stitches their results into datasets,
//! training runs and reports. The binary `diptych` is this library behind a command line.
//!
//! One command's way: [`cli`] parses → [`commands`] → [`suite`] connects (and starts in this
//! process what has no endpoint, [`embedded`]) → [`synth`], [`jobs`], [`experiment`] do the work →
//! [`report`] shows it.

pub mod assets;
mod bad_input;
mod beside;
pub mod cli;
mod commands;
pub mod conformance;
mod embedded;
pub mod estimate;
pub mod experiment;
mod files;
pub mod jobs;
pub mod measuring;
mod progress;
pub mod recipe;
pub mod report;
mod run_report;
pub mod scores;
pub mod suite;
pub mod synth;
mod toml_file;

pub use cli::Cli;
pub use commands::execute;
