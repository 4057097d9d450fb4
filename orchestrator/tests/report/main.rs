//! The report: what its text holds, and what a browser makes of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod browser;
mod fixture;
mod page;
