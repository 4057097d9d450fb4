//! What can go wrong with a dataset, in sentences that name the object.

use crate::{
    plan::PlanError,
    shard::{DecodeError, EncodeError},
};

/// Why a dataset cannot be written or read. `object` is the full name of the
/// file or object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan itself is wrong.
    #[error("the plan of the dataset is refused")]
    Plan(#[from] PlanError),
    /// The folder cannot be opened or made.
    #[error("cannot open the dataset folder {folder}")]
    Folder {
        /// Folder.
        folder: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The storage refused or failed.
    #[error("cannot {verb} {object}")]
    Storage {
        /// What was tried: `read`, `write` or `list`.
        verb: &'static str,
        /// Object.
        object: String,
        /// Cause.
        source: object_store::Error,
    },
    /// A bucket, and nothing that says who asks for it.
    #[error(
        "no credentials for {root}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
         AWS_EC2_METADATA_DISABLED=false on a machine whose role may use it, or \
         AWS_SKIP_SIGNATURE=true for a bucket that anybody may"
    )]
    NoCredentials {
        /// Place of the dataset.
        root: String,
    },
    /// There is no `dataset.json`.
    #[error("{root} is not a dataset: it has no dataset.json")]
    NotADataset {
        /// Place looked at.
        root: String,
    },
    /// The folder belongs to another recipe.
    #[error(
        "{root} holds the dataset of another recipe ({theirs}, not {ours}): \
         choose another folder, or remove this one"
    )]
    OtherRecipe {
        /// Place of the dataset.
        root: String,
        /// Start of our recipe's hash.
        ours: String,
        /// Start of the hash found.
        theirs: String,
    },
    /// A dataset of a later program.
    #[error("{object} has layout version {found}; this program reads version {known}")]
    Version {
        /// Object.
        object: String,
        /// Version found.
        found: u32,
        /// Version known.
        known: u32,
    },
    /// A manifest object that is not as we wrote it.
    #[error("{object} is damaged: {reason}")]
    Manifest {
        /// Object.
        object: String,
        /// What is wrong, as the rest of the sentence.
        reason: String,
    },
    /// A shard whose bytes are not those that its name promises.
    #[error("{object} is damaged: {reason}")]
    ShardContent {
        /// Object.
        object: String,
        /// What is wrong, as the rest of the sentence.
        reason: String,
    },
    /// A shard that is not what its commit was given.
    #[error(
        "{object} {state}, though {manifest} names it: restore it, or remove both and run again, \
         and the partition is made anew"
    )]
    LostShard {
        /// Shard.
        object: String,
        /// What is wrong, as the middle of the sentence.
        state: String,
        /// Manifest object.
        manifest: String,
    },
    /// A shard that is not one of ours, though its hash is as promised.
    #[error("{object} cannot be used as a shard")]
    ShardFormat {
        /// Object.
        object: String,
        /// Cause.
        source: DecodeError,
    },
    /// A shard so broken that its decoder gave up.
    #[error("{object} cannot be used as a shard: its decoder stopped")]
    ShardDecoder {
        /// Object.
        object: String,
    },
    /// Samples that cannot be encoded.
    #[error("cannot encode partition {partition}")]
    Encode {
        /// Partition.
        partition: String,
        /// Cause.
        source: EncodeError,
    },
    /// The encoder was stopped, by its own fault or because the program ends.
    #[error("encoding partition {partition} was stopped")]
    EncoderStopped {
        /// Partition.
        partition: String,
    },
    /// A sample that does not belong in the partition, or is not whole.
    #[error("sample {id} of partition {partition} is refused: {reason}")]
    Sample {
        /// Partition.
        partition: String,
        /// Id of the sample as given.
        id: String,
        /// What is wrong, as the rest of the sentence.
        reason: String,
    },
    /// Another writer has named other repetitions between two rounds.
    #[error(
        "lost the race for {object}: another writer has named other repetitions. They are a pure \
         function of the committed samples and the recipe's bounds, so one of the two ran other \
         code; the committed one stands"
    )]
    OtherRound {
        /// Object.
        object: String,
    },
    /// Another writer has committed the partition with other samples.
    #[error(
        "lost the race for {object}: another writer has committed shard {theirs}, ours is {ours}. \
         Partitions are pure functions of the recipe, so one of the two ran other code, models \
         or remote answers; the committed one stands"
    )]
    LostRace {
        /// Manifest object.
        object: String,
        /// SHA-256 of our shard.
        ours: String,
        /// SHA-256 of the committed shard.
        theirs: String,
    },
}

impl Error {
    /// Whether it lies in what the caller named: a place that is none, or not the caller's to use,
    /// another's dataset, a damaged one. What is left is storage that fails, and samples that this program made wrongly.
    pub fn is_of_input(&self) -> bool {
        match self {
            Self::Plan(_)
            | Self::Folder { .. }
            | Self::NoCredentials { .. }
            | Self::NotADataset { .. }
            | Self::OtherRecipe { .. }
            | Self::Version { .. }
            | Self::Manifest { .. }
            | Self::ShardContent { .. }
            | Self::LostShard { .. }
            | Self::ShardFormat { .. }
            | Self::ShardDecoder { .. } => true,
            Self::Storage { source, .. } => matches!(
                source,
                object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. }
            ),
            Self::Encode { .. }
            | Self::EncoderStopped { .. }
            | Self::Sample { .. }
            | Self::OtherRound { .. }
            | Self::LostRace { .. } => false,
        }
    }
}
