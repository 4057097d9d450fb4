//! The `dialogue` service.

fn main() {}
