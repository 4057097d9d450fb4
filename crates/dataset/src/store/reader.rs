//! Reads a dataset, one shard in memory at a time.

use super::{
    Dropped, Error, Root, Standing,
    manifest::{DatasetHeader, PartitionManifest, ShardEntry, ShardFolder, Statistics},
};
use crate::{
    identity::sha256_hex,
    plan::{Partition, Plan},
    shard,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use proto::dataset::v1::Sample;
use std::collections::{BTreeMap, HashSet};

/// Manifest objects asked for at once.
const CONCURRENT_READ_COUNT: usize = 16;

/// A dataset as it stood when it was opened.
#[derive(Clone, Debug)]
pub struct Reader {
    root: Root,
    plan: Plan,
    standing: Standing,
}

impl Reader {
    /// Opens a dataset and reads its manifest; no shard yet.
    ///
    /// # Errors
    /// There is no dataset, or a manifest object cannot be read or is damaged.
    pub async fn open(root: Root) -> Result<Self, Error> {
        let plan = DatasetHeader::get(&root).await?;
        let standing = Standing::read(&root, &plan).await?;
        Ok(Self {
            root,
            plan,
            standing,
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How far the rounds have come, and what was dropped between them.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The committed partitions, by round, ability and number.
    pub fn partitions(&self) -> &BTreeMap<Partition, PartitionManifest> {
        self.standing.partitions()
    }

    /// Partitions of all rounds so far that are not committed.
    pub fn missing(&self) -> impl Iterator<Item = Partition> + '_ {
        let later = self.standing.later_partitions();
        self.plan
            .partitions()
            .chain(later)
            .filter(|partition| !self.partitions().contains_key(partition))
    }

    /// Number of committed samples, those left out that repeat others.
    pub fn sample_count(&self) -> u64 {
        let partitions = self.partitions().values();
        let stored: u64 = partitions.map(|manifest| manifest.shard.sample_count).sum();
        stored.saturating_sub(self.standing.dropped().count() as u64)
    }

    /// SHA-256 over the manifest: `sha256  path` lines of its objects, in the order of the
    /// partitions, and of the rounds that dropped samples. Equal for equal datasets, wherever and by
    /// whomever they were made.
    pub fn manifest_sha256(&self) -> String {
        let line = |(partition, manifest): (&Partition, &PartitionManifest)| {
            let path = PartitionManifest::path(partition);
            format!("{}  {path}\n", sha256_hex(manifest.to_json()))
        };
        let partitions: String = self.partitions().iter().map(line).collect();
        sha256_hex(partitions + &self.standing.round_lines())
    }

    /// Counts per ability.
    pub fn statistics(&self) -> BTreeMap<String, Statistics> {
        let planned = |(ability, &planned_count): (&String, &u64)| {
            (
                ability.clone(),
                Statistics {
                    planned_count,
                    ..Statistics::default()
                },
            )
        };
        let mut statistics: BTreeMap<_, _> = self.plan.sample_counts.iter().map(planned).collect();
        for (partition, manifest) in self.partitions() {
            statistics
                .entry(partition.ability.clone())
                .or_default()
                .add(manifest);
        }
        for (dropped, stays_empty) in self.standing.dropped() {
            let statistics = statistics.entry(dropped.ability.clone()).or_default();
            statistics.drop_one(dropped, stays_empty);
        }
        statistics
    }

    /// All samples, by round, ability and slot. One shard is in memory at a time. A
    /// damaged shard gives one error, and the stream goes on behind it.
    pub fn samples(&self) -> impl Stream<Item = Result<Sample, Error>> + Send + '_ {
        stream::iter(self.partitions().values())
            .then(|manifest| self.samples_of(manifest))
            .map_ok(|samples| stream::iter(samples.into_iter().map(Ok)))
            .try_flatten()
    }

    /// The samples of one partition, by slot; without those that repeat one of another partition.
    ///
    /// # Errors
    /// The shard is missing, damaged or not one of ours.
    pub async fn samples_of(&self, manifest: &PartitionManifest) -> Result<Vec<Sample>, Error> {
        let mut samples = self.stored_samples_of(manifest).await?;
        samples.retain(|sample| !self.drops(&sample.id));
        Ok(samples)
    }

    /// All samples that the partition's shard holds.
    pub(crate) async fn stored_samples_of(
        &self,
        manifest: &PartitionManifest,
    ) -> Result<Vec<Sample>, Error> {
        self.read_shard(&manifest.shard, ShardFolder::Accepted)
            .await
    }

    /// Whether a sample repeats one of another partition, and is no part of the data.
    pub(crate) fn drops(&self, id: &str) -> bool {
        self.standing.drops(id)
    }

    /// The samples that slots of a later round's partition had before, and that repeated others; by
    /// slot and attempt.
    ///
    /// # Errors
    /// As [`samples_of`](Self::samples_of).
    pub async fn dropped_before(&self, later: &Partition) -> Result<Vec<Sample>, Error> {
        let open: BTreeMap<u64, u32> = later
            .open_slots()
            .map(|open| (open.slot, open.first_attempt))
            .collect();
        let is_before = |dropped: &&Dropped| {
            let next = open.get(&dropped.slot);
            dropped.ability == later.ability && next.is_some_and(|&next| dropped.attempt < next)
        };
        let dropped = self.standing.dropped().map(|(dropped, _)| dropped);
        let mut ids: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        for dropped in dropped.filter(is_before) {
            let ids = ids.entry(&dropped.partition).or_default();
            ids.insert(&dropped.id);
        }
        let mut samples = Vec::new();
        for (partition, manifest) in self.partitions() {
            if let Some(ids) = ids.get(partition.to_string().as_str()) {
                let stored = self.stored_samples_of(manifest).await?.into_iter();
                samples.extend(stored.filter(|sample| ids.contains(sample.id.as_str())));
            }
        }
        samples.sort_by_key(|sample| (sample.slot, sample.attempt));
        Ok(samples)
    }

    /// The object beside a shard that says what is compared of its samples; none where nobody kept it.
    pub(crate) async fn marks(&self, shard: &ShardEntry) -> Result<Option<Bytes>, Error> {
        self.root.read(&shard.marks_path()).await
    }

    /// Keeps such an object, in the place of one that could not be read.
    pub(crate) async fn keep_marks(&self, shard: &ShardEntry, marks: Bytes) -> Result<(), Error> {
        self.root.write(&shard.marks_path(), marks).await
    }

    /// Whether its recipe has partitions compared with each other: then something lies beside the first
    /// shard already that tells what of it is compared.
    ///
    /// # Errors
    /// The place cannot be read.
    pub async fn is_compared(&self) -> Result<bool, Error> {
        self.root.has_any(&ShardEntry::marks_folder()).await
    }

    /// Examples of what one partition's gates rejected, with the verdicts; no conversation where
    /// none was written.
    ///
    /// # Errors
    /// As [`samples_of`](Self::samples_of).
    pub async fn rejected_of(&self, manifest: &PartitionManifest) -> Result<Vec<Sample>, Error> {
        match &manifest.rejected {
            None => Ok(Vec::new()),
            Some(shard) => self.read_shard(shard, ShardFolder::Rejected).await,
        }
    }

    /// The ids of one partition's samples, by slot.
    pub(super) async fn ids_of(&self, manifest: &PartitionManifest) -> Result<Vec<String>, Error> {
        self.read_rows(&manifest.shard, ShardFolder::Accepted, shard::ids)
            .await
    }

    async fn read_shard(
        &self,
        shard: &ShardEntry,
        folder: ShardFolder,
    ) -> Result<Vec<Sample>, Error> {
        self.read_rows(shard, folder, shard::decode).await
    }

    async fn read_rows<T: Send + 'static>(
        &self,
        shard: &ShardEntry,
        folder: ShardFolder,
        rows: Rows<T>,
    ) -> Result<Vec<T>, Error> {
        let path = shard.path(folder);
        let object = self.root.name_of(&path);
        let damaged = |reason: &str| {
            Err(Error::ShardContent {
                object: object.clone(),
                reason: reason.to_owned(),
            })
        };
        let Some(file) = self.root.read(&path).await? else {
            return damaged("it is missing, though the manifest names it");
        };
        let samples = match decode(file, shard.sha256.clone(), rows).await {
            Decoded::Rows(samples) => samples,
            Decoded::OtherContent => return damaged("its content is not what its name says"),
            Decoded::Failed(source) => return Err(Error::ShardFormat { object, source }),
            Decoded::Stopped => return Err(Error::ShardDecoder { object }),
        };
        if samples.len() as u64 != shard.sample_count {
            return damaged("it holds another number of samples than the manifest says");
        }
        Ok(samples)
    }
}

/// What is read of a shard's rows.
type Rows<T> = fn(Bytes) -> Result<Vec<T>, shard::DecodeError>;

enum Decoded<T> {
    Rows(Vec<T>),
    OtherContent,
    Failed(shard::DecodeError),
    Stopped,
}

/// Decodes away from the async threads. Its own task also holds what the Parquet
/// decoder may do on a file made to break it: a panic there ends no service.
async fn decode<T: Send + 'static>(file: Bytes, sha256: String, rows: Rows<T>) -> Decoded<T> {
    let work = tokio::task::spawn_blocking(move || {
        if sha256_hex(&file) != sha256 {
            return Decoded::OtherContent;
        }
        rows(file).map_or_else(Decoded::Failed, Decoded::Rows)
    });
    work.await.unwrap_or(Decoded::Stopped)
}

/// All committed partitions of a plan and of its later rounds. Objects in the manifest folder that
/// no partition is named by are not ours and are left alone.
pub(super) async fn committed(
    root: &Root,
    plan: &Plan,
    later: Vec<Partition>,
) -> Result<BTreeMap<Partition, PartitionManifest>, Error> {
    let present = root.list(&PartitionManifest::folder()).await?;
    let is_present = |partition: &Partition| {
        present
            .binary_search(&PartitionManifest::path(partition))
            .is_ok()
    };
    stream::iter(plan.partitions().chain(later).filter(is_present))
        .map(|partition| async move {
            let manifest = self::partition(root, plan, &partition).await?;
            Ok(manifest.map(|manifest| (partition, manifest)))
        })
        .buffer_unordered(CONCURRENT_READ_COUNT)
        .try_filter_map(|entry| std::future::ready(Ok(entry)))
        .try_collect()
        .await
}

/// One partition's manifest, or none where it is not committed.
pub(super) async fn partition(
    root: &Root,
    plan: &Plan,
    partition: &Partition,
) -> Result<Option<PartitionManifest>, Error> {
    let path = PartitionManifest::path(partition);
    let Some(content) = root.read(&path).await? else {
        return Ok(None);
    };
    PartitionManifest::parse(&root.name_of(&path), &content, plan, partition).map(Some)
}
