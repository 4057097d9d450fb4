//! The `eval` service.

fn main() {}
