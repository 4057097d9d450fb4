//! Commits partitions (DESIGN 3.7).

use super::{
    Error, Root, Round, Standing, check, kill_point,
    manifest::{
        DatasetHeader, PartitionManifest, PartitionTally, ShardEntry, ShardFolder, from_json,
        to_json,
    },
    reader, rounds,
};
use crate::{
    identity::sha256_hex,
    plan::{Partition, Plan},
    shard,
};
use bytes::Bytes;
use object_store::path::Path;
use proto::dataset::v1::Sample;
use std::collections::BTreeMap;

/// Writes a dataset, partition by partition. Any number of writers, in any number
/// of processes, may write one dataset.
#[derive(Clone, Debug)]
pub struct Writer {
    pub(super) root: Root,
    plan: Plan,
}

/// How a commit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The partition is ours.
    Created(PartitionManifest),
    /// It was there with the very same samples: an earlier run's, another
    /// writer's, or our own whose reply was lost.
    AlreadyThere(PartitionManifest),
}

impl Writer {
    /// Opens a dataset for writing; creates it where there is none.
    ///
    /// # Errors
    /// The plan is refused, another recipe's dataset is there, or the place
    /// cannot be written.
    pub async fn open(root: Root, plan: &Plan) -> Result<Self, Error> {
        DatasetHeader::put(&root, plan).await?;
        Ok(Self {
            root,
            plan: plan.clone(),
        })
    }

    /// A dataset that is there already, or none. Nothing is created.
    ///
    /// # Errors
    /// Another recipe's dataset is there, or the place cannot be read.
    pub async fn find(root: Root, plan: &Plan) -> Result<Option<Self>, Error> {
        let is_there = DatasetHeader::find(&root, plan).await?;
        Ok(is_there.then(|| Self {
            root,
            plan: plan.clone(),
        }))
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Partitions that are committed, by whomever.
    ///
    /// # Errors
    /// A manifest object cannot be read or is damaged.
    pub async fn committed(&self) -> Result<BTreeMap<Partition, PartitionManifest>, Error> {
        Ok(self.standing().await?.into_partitions())
    }

    /// How far the dataset has come, by whomever.
    ///
    /// # Errors
    /// A manifest object, or one of `rounds/`, cannot be read or is damaged.
    pub async fn standing(&self) -> Result<Standing, Error> {
        Standing::read(&self.root, &self.plan).await
    }

    /// Whether a partition is committed, by whomever.
    ///
    /// # Errors
    /// The place cannot be read, or its manifest object is damaged.
    pub async fn is_committed(&self, partition: &Partition) -> Result<bool, Error> {
        let found = reader::partition(&self.root, &self.plan, partition).await?;
        Ok(found.is_some())
    }

    /// Looks whether every committed shard is there with the size that its manifest names. Its content
    /// is looked at by [`check_content`](Self::check_content), and whenever it is read.
    ///
    /// # Errors
    /// Names the first shard that is missing or cut, and what to do.
    pub async fn check_shards(&self, standing: &Standing) -> Result<(), Error> {
        let mut sizes = self.root.sizes(&ShardFolder::Accepted.path()).await?;
        sizes.extend(self.root.sizes(&ShardFolder::Rejected.path()).await?);
        for (partition, manifest) in standing.partitions() {
            for (path, shard) in manifest.files() {
                let state = match sizes.get(&path) {
                    Some(&size_bytes) if size_bytes == shard.size_bytes => continue,
                    Some(found) => format!("has {found} bytes and not {}", shard.size_bytes),
                    None => "is missing".to_owned(),
                };
                return Err(self.lost_shard(&path, state, partition));
            }
        }
        Ok(())
    }

    /// The complaint about a committed shard that is not what was committed.
    pub(super) fn lost_shard(&self, path: &Path, state: String, partition: &Partition) -> Error {
        Error::LostShard {
            object: self.root.name_of(path),
            state,
            manifest: self.root.name_of(&PartitionManifest::path(partition)),
        }
    }

    /// Number of objects in the manifest folder, which grows by one with each partition.
    ///
    /// # Errors
    /// The place cannot be read.
    pub async fn manifest_count(&self) -> Result<usize, Error> {
        Ok(self.root.list(&PartitionManifest::folder()).await?.len())
    }

    /// Notes who makes the dataset, by name and version, in `makers.json`, and gives what stands there:
    /// the makers that it was begun with.
    ///
    /// # Errors
    /// The place cannot be written, or the note is damaged.
    pub async fn note_makers(
        &self,
        makers: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let path = Path::from("makers.json");
        if self.root.create(&path, to_json(makers)).await? {
            return Ok(makers.clone());
        }
        let object = self.root.name_of(&path);
        let found = self.root.read(&path).await?.unwrap_or_default();
        from_json(&object, &found)
    }

    /// Keeps what is compared of a shard's samples beside it.
    pub(crate) async fn keep_marks(&self, shard: &ShardEntry, marks: Bytes) -> Result<(), Error> {
        self.root.write(&shard.marks_path(), marks).await
    }

    /// Whether `claimant` is the one to write a round, as the first that asked: so several processes
    /// need not compare the same samples. One that waits for another in vain may write it all the same.
    ///
    /// # Errors
    /// The place cannot be written.
    pub async fn claims_round(&self, round: u32, claimant: &str) -> Result<bool, Error> {
        rounds::claim(&self.root, round, claimant).await
    }

    /// Writes a claim anew, so that who waits sees that somebody is at it, or in the place of one whose
    /// process is gone.
    ///
    /// # Errors
    /// The place cannot be written.
    pub async fn renew_claim(&self, round: u32, claim: &str) -> Result<(), Error> {
        rounds::renew_claim(&self.root, round, claim).await
    }

    /// The claim to a round, as it stands.
    ///
    /// # Errors
    /// The place cannot be read.
    pub async fn claim_of(&self, round: u32) -> Result<Option<String>, Error> {
        rounds::claim_of(&self.root, round).await
    }

    /// Whether a round is written, by whomever.
    ///
    /// # Errors
    /// The place cannot be read, or the round is damaged.
    pub async fn has_round(&self, round: u32) -> Result<bool, Error> {
        rounds::is_there(&self.root, &self.plan, round).await
    }

    /// Commits what stands between two rounds. That it is there already, and equal, is success.
    ///
    /// # Errors
    /// The storage failed, or another writer's is there.
    pub async fn commit_round(&self, round: &Round) -> Result<(), Error> {
        rounds::put(&self.root, &self.plan, round).await
    }

    /// Commits a partition: samples in slot order, at most one per slot.
    ///
    /// # Errors
    /// `Sample` where one does not belong, `LostRace` where another writer has
    /// committed other samples, and whatever the storage says. Nothing
    /// half-written can be seen after any of them, and calling again is safe.
    pub async fn commit(
        &self,
        partition: &Partition,
        samples: Vec<Sample>,
        tally: PartitionTally,
    ) -> Result<Commit, Error> {
        self.commit_with_rejected(partition, samples, Vec::new(), tally)
            .await
    }

    /// As [`commit`](Self::commit), and keeps examples of what was rejected, so that people can
    /// see it. They lie in a shard of their own and are no part of the data.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn commit_with_rejected(
        &self,
        partition: &Partition,
        samples: Vec<Sample>,
        rejected: Vec<Sample>,
        tally: PartitionTally,
    ) -> Result<Commit, Error> {
        check::check(&self.plan, partition, &samples)?;
        let shard = self
            .publish_shard(partition, ShardFolder::Accepted, samples)
            .await?;
        let rejected = match rejected.is_empty() {
            true => None,
            false => Some(
                self.publish_shard(partition, ShardFolder::Rejected, rejected)
                    .await?,
            ),
        };
        let ours = PartitionManifest::new(&self.plan, partition, shard, rejected, tally);
        let path = PartitionManifest::path(partition);
        kill_point::pass("manifest.before");
        let is_created = self.root.create(&path, ours.to_json()).await?;
        kill_point::pass("manifest.after");
        if is_created {
            return Ok(Commit::Created(ours));
        }
        let theirs = reader::partition(&self.root, &self.plan, partition).await?;
        let object = self.root.name_of(&path);
        match theirs {
            Some(theirs) if theirs.shard == ours.shard => Ok(Commit::AlreadyThere(theirs)),
            Some(theirs) => Err(Error::LostRace {
                object,
                ours: ours.shard.sha256,
                theirs: theirs.shard.sha256,
            }),
            None => Err(Error::Manifest {
                object,
                reason: "it was there and is gone".into(),
            }),
        }
    }

    /// Writes the shard under its content's hash. Where the name is taken, the
    /// content is the same.
    async fn publish_shard(
        &self,
        partition: &Partition,
        folder: ShardFolder,
        samples: Vec<Sample>,
    ) -> Result<ShardEntry, Error> {
        let sample_count = samples.len() as u64;
        kill_point::pass("staging.before");
        let encoding = tokio::task::spawn_blocking(move || {
            let file = shard::encode(&samples)?;
            Ok((sha256_hex(&file), file))
        });
        let (sha256, file) = encoding
            .await
            .map_err(|_| Error::EncoderStopped {
                partition: partition.to_string(),
            })?
            .map_err(|source| Error::Encode {
                partition: partition.to_string(),
                source,
            })?;
        let entry = ShardEntry {
            sha256,
            size_bytes: file.len() as u64,
            sample_count,
        };
        kill_point::pass("staging.after");
        kill_point::pass("publish.before");
        self.root.create(&entry.path(folder), file).await?;
        kill_point::pass("publish.after");
        Ok(entry)
    }
}
