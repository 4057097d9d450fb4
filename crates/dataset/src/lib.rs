//! The store of samples: what a dataset is planned to hold, how it lies on the
//! disk, and the formats it is exported to. Also the abilities that samples are
//! made for, the questions asked about them, and when two pictures look alike.

pub mod ability;
pub mod identity;
pub mod image_hash;
pub mod llava;
pub mod minhash;
pub mod plan;
pub mod question;
mod shard;
pub mod store;

#[cfg(test)]
mod examples;
