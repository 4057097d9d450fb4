//! The `diffusion` service.

fn main() {}
