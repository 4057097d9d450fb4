//! The `promptgen` service.

fn main() {}
