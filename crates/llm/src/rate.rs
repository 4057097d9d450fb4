//! How much is asked of the server, and when.
//!
//! * [`window`]: how many requests it bears, found out by additive increase and multiplicative
//!   decrease.
//! * [`bucket`]: what it allows by the minute.
//! * [`limiter`]: both, as a queue that callers wait in.

mod bucket;
mod limiter;
mod window;

pub(crate) use limiter::{Limiter, Limits, Outcome, Permit};
