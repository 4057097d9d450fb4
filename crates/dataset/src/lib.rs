//! The store of samples: what a dataset is planned to hold, how it lies on the
//! disk, and the formats it is exported to. Also the abilities that samples are
//! made for, the questions asked about them, and when two pictures look alike.

pub mod ability;
pub mod audit;
pub mod duplicates;
pub mod evaluation_set;
pub mod export;
pub mod identity;
pub mod image_hash;
pub mod import;
mod json_list;
pub mod llava;
pub mod minhash;
pub mod plan;
pub mod question;
mod shard;
pub mod stablellava;
pub mod store;
pub mod view;

#[cfg(test)]
mod examples;
