//! The `trainer` service.

fn main() {}
