//! A dataset at rest: shards, one manifest object per partition, and what the
//! whole was planned to be.
//!
//! ```text
//! dataset.json                      the plan and the version of this layout
//! shards/<sha256>.parquet           one partition each, named by content
//! rejected/<sha256>.parquet         examples of what one partition's gates rejected
//! manifest/<ability>-<number>.json  names the partition's shards; its commit
//! makers.json                       the services and models that a synthesis was begun with
//! rounds/<round>.json               samples that repeat one of another partition, when all
//!                                   partitions of the round before are there
//! rounds/<round>.claim              which of several processes writes that
//! manifest/<ability>-r<round>-<number>.json
//!                                   a partition of their slots, made anew
//! marks/<sha256>                    what is compared of a shard's samples, so that no picture is
//!                                   decoded for it; may be missing, and is then made from the shard
//! ```
//!
//! A sample that `rounds/` names stays in its shard and is no part of the data: a [`Reader`] leaves
//! it out, and who reads `shards/` with other tools has to (an export has done so).
//!
//! An object, once there, is whole and never changes: each is created if absent,
//! in one step that is on the disk when it returns. A partition exists when its
//! manifest object does; a shard that no manifest names is left over from a
//! process that was killed between the two, and the next one writes the same
//! bytes under the same name. Two writers of one partition cannot both win.
//!
//! Objects go through `object_store`. Its local file system, with `fsync` on, has
//! what this needs: it writes and syncs a staged file in the same folder,
//! hard-links it to its name (which fails where the name is taken), and syncs the
//! folder. Buckets have the same call, a conditional put.

mod check;
mod content;
mod error;
pub mod kill_point;
mod lineage;
mod location;
mod manifest;
mod reader;
mod root;
mod rounds;
mod shuffle;
mod standing;
mod writer;

pub use check::fault;
pub use error::Error;
pub use lineage::{Located, LocatedView};
pub use location::{Location, MalformedLocation};
pub use manifest::{ACROSS_PARTITIONS, PartitionManifest, PartitionTally, ShardEntry, Statistics};
pub use reader::Reader;
pub use root::Root;
pub use rounds::{Dropped, Round};
pub use standing::{Standing, Step};
pub use writer::{Commit, Writer};

#[cfg(test)]
mod tests;
