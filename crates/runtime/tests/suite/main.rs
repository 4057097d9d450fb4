//! The runtime over real sockets, with a small service of the suite's own schema.

mod stage;

mod cache;
mod channel;
mod deadline;
mod jobs;
mod security;
mod serve;
mod trace;
