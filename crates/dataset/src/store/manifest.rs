//! The small JSON objects of a dataset: what it is planned to be, and what each
//! committed partition holds.

use super::{Dropped, Error, Root};
use crate::{
    identity::is_hexadecimal,
    plan::{Partition, Plan},
};
use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// Version of the layout: of the folder, of the JSON objects and of the shards.
pub(super) const LAYOUT_VERSION: u32 = 1;

/// `dataset.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DatasetHeader {
    layout_version: u32,
    plan: Plan,
}

impl DatasetHeader {
    pub(super) fn path() -> Path {
        Path::from("dataset.json")
    }

    /// Writes the plan, or finds that the same one is there.
    pub(super) async fn put(root: &Root, plan: &Plan) -> Result<(), Error> {
        plan.check()?;
        let header = Self {
            layout_version: LAYOUT_VERSION,
            plan: plan.clone(),
        };
        if root.create(&Self::path(), to_json(&header)).await? {
            return Ok(());
        }
        same(&Self::get(root).await?, plan, root)
    }

    /// Whether a dataset of the plan is there.
    pub(super) async fn find(root: &Root, plan: &Plan) -> Result<bool, Error> {
        match Self::get(root).await {
            Ok(found) => same(&found, plan, root).map(|()| true),
            Err(Error::NotADataset { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the plan.
    pub(super) async fn get(root: &Root) -> Result<Plan, Error> {
        let object = root.name_of(&Self::path());
        let content = root.read(&Self::path()).await?;
        let content = content.ok_or_else(|| Error::NotADataset {
            root: root.name().to_owned(),
        })?;
        check_version(&object, &content)?;
        let header: Self = from_json(&object, &content)?;
        header.plan.check()?;
        Ok(header.plan)
    }
}

fn same(found: &Plan, plan: &Plan, root: &Root) -> Result<(), Error> {
    if found == plan {
        return Ok(());
    }
    let short = |plan: &Plan| plan.recipe_sha256.chars().take(12).collect();
    Err(Error::OtherRecipe {
        root: root.name().to_owned(),
        ours: short(plan),
        theirs: short(found),
    })
}

/// What became of a partition's attempts, for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTally {
    /// Attempts made, over all slots.
    pub attempt_count: u64,
    /// Attempts that came to nothing, by the gate or stage and its reason, such
    /// as `alignment` or `prompt: PROMPT_TOO_LONG`.
    pub rejected_counts: BTreeMap<String, u64>,
    /// Slots that stayed empty because their attempts were spent.
    pub unfilled_slot_count: u64,
    /// Accepted samples by the gate that the recipe asks for and that had nothing to judge them by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unchecked_counts: BTreeMap<String, u64>,
}

impl PartitionTally {
    /// Counts one attempt that came to nothing.
    pub fn reject(&mut self, reason: &str) {
        *self.rejected_counts.entry(reason.to_owned()).or_default() += 1;
    }

    /// Counts an accepted sample that a gate could not judge.
    pub fn leave_unchecked(&mut self, gate: &str) {
        *self.unchecked_counts.entry(gate.to_owned()).or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        self.attempt_count += other.attempt_count;
        self.unfilled_slot_count += other.unfilled_slot_count;
        for (reason, count) in &other.rejected_counts {
            *self.rejected_counts.entry(reason.clone()).or_default() += count;
        }
        for (gate, count) in &other.unchecked_counts {
            *self.unchecked_counts.entry(gate.clone()).or_default() += count;
        }
    }
}

/// Counts of an ability, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Samples planned.
    pub planned_count: u64,
    /// Samples committed.
    pub accepted_count: u64,
    /// What became of the attempts.
    pub tally: PartitionTally,
}

impl Statistics {
    pub(super) fn add(&mut self, partition: &PartitionManifest) {
        self.accepted_count += partition.shard.sample_count;
        self.tally.add(&partition.tally);
    }

    /// Takes out a sample that repeats one of another partition.
    pub(super) fn drop_one(&mut self, dropped: &Dropped, stays_empty: bool) {
        self.accepted_count = self.accepted_count.saturating_sub(1);
        self.tally
            .reject(&format!("{ACROSS_PARTITIONS}:{}", dropped.measure));
        self.tally.unfilled_slot_count += u64::from(stays_empty);
    }
}

/// What samples are counted under that repeat one of another partition, with what they repeat.
pub const ACROSS_PARTITIONS: &str = "across_partitions";

/// A committed partition: `manifest/<ability>-<number>.json`, and in a later round
/// `manifest/<ability>-r<round>-<number>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionManifest {
    layout_version: u32,
    /// SHA-256 of the recipe.
    pub recipe_sha256: String,
    /// Ability.
    pub ability: String,
    /// Round, from 0; see [`Partition::round`].
    #[serde(default, skip_serializing_if = "is_first")]
    pub round: u32,
    /// Number among the ability's partitions of the round, from 0.
    pub partition: u32,
    /// Where the samples are.
    pub shard: ShardEntry,
    /// Where examples of rejected samples are, if any were kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<ShardEntry>,
    /// What became of the attempts.
    pub tally: PartitionTally,
}

/// One shard as its manifest object knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// SHA-256 of the Parquet file, and its name.
    pub sha256: String,
    /// Size of the Parquet file in bytes.
    pub size_bytes: u64,
    /// Samples in it.
    pub sample_count: u64,
}

/// Which samples a shard holds. Rejected ones lie apart, so that who reads all of `shards/` gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShardFolder {
    Accepted,
    Rejected,
}

impl ShardFolder {
    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "shards",
            Self::Rejected => "rejected",
        }
    }

    pub(super) fn path(self) -> Path {
        Path::from(self.name())
    }
}

impl ShardEntry {
    pub(super) fn path(&self, folder: ShardFolder) -> Path {
        Path::from(format!("{}/{}.parquet", folder.name(), self.sha256))
    }

    /// What is compared of its samples.
    pub(super) fn marks_path(&self) -> Path {
        Self::marks_folder().join(self.sha256.as_str())
    }

    pub(super) fn marks_folder() -> Path {
        Path::from("marks")
    }
}

impl PartitionManifest {
    pub(super) fn new(
        plan: &Plan,
        partition: &Partition,
        shard: ShardEntry,
        rejected: Option<ShardEntry>,
        tally: PartitionTally,
    ) -> Self {
        Self {
            layout_version: LAYOUT_VERSION,
            recipe_sha256: plan.recipe_sha256.clone(),
            ability: partition.ability.clone(),
            round: partition.round,
            partition: partition.index,
            shard,
            rejected,
            tally,
        }
    }

    fn shards(&self) -> impl Iterator<Item = &ShardEntry> {
        std::iter::once(&self.shard).chain(&self.rejected)
    }

    /// Its shards with their places.
    pub(super) fn files(&self) -> impl Iterator<Item = (Path, &ShardEntry)> {
        let accepted = (self.shard.path(ShardFolder::Accepted), &self.shard);
        let rejected = self.rejected.iter();
        let rejected = rejected.map(|shard| (shard.path(ShardFolder::Rejected), shard));
        std::iter::once(accepted).chain(rejected)
    }

    pub(super) fn folder() -> Path {
        Path::from("manifest")
    }

    pub(super) fn path(partition: &Partition) -> Path {
        Self::folder().join(format!("{partition}.json"))
    }

    pub(super) fn to_json(&self) -> Bytes {
        to_json(self)
    }

    /// Reads a manifest object and checks that it is the one of its partition.
    pub(super) fn parse(
        object: &str,
        content: &[u8],
        plan: &Plan,
        partition: &Partition,
    ) -> Result<Self, Error> {
        check_version(object, content)?;
        let found: Self = from_json(object, content)?;
        let refused = |reason: &str| {
            Err(Error::Manifest {
                object: object.to_owned(),
                reason: reason.to_owned(),
            })
        };
        if found.recipe_sha256 != plan.recipe_sha256 {
            refused("it belongs to another recipe")
        } else if (found.ability.as_str(), found.round, found.partition)
            != (partition.ability.as_str(), partition.round, partition.index)
        {
            refused("it describes another partition than its name says")
        } else if !found
            .shards()
            .all(|shard| is_hexadecimal(&shard.sha256, 64))
        {
            refused("its shard hash is not 64 lower-case hexadecimal digits")
        } else if found.shard.sample_count > partition.slot_count() {
            refused("it counts more samples than the partition has slots")
        } else {
            Ok(found)
        }
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_first(round: &u32) -> bool {
    *round == 0
}

/// Pretty-printed with sorted maps and a final line break: equal values, equal bytes.
pub(super) fn to_json<T: Serialize>(value: &T) -> Bytes {
    let mut json = serde_json::to_vec_pretty(value)
        .expect("these types have no map with keys other than text, which alone could fail");
    json.push(b'\n');
    json.into()
}

pub(super) fn from_json<T: DeserializeOwned>(object: &str, content: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(content).map_err(|error| Error::Manifest {
        object: object.to_owned(),
        reason: error.to_string(),
    })
}

/// Looked at before all else, so that a later layout is named as such.
pub(super) fn check_version(object: &str, content: &[u8]) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Version {
        layout_version: u32,
    }
    let Version {
        layout_version: found,
    } = from_json(object, content)?;
    if found == LAYOUT_VERSION {
        return Ok(());
    }
    Err(Error::Version {
        object: object.to_owned(),
        found,
        known: LAYOUT_VERSION,
    })
}
