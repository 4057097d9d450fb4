//! Whether shards still hold what was committed.

use super::{Error, PartitionManifest, Standing, Writer};
use crate::{identity::sha256_hex, plan::Partition};
use futures::{TryStreamExt as _, stream};

/// Shards read and hashed at once.
const CONCURRENT_SHARD_COUNT: usize = 4;

impl Writer {
    /// Compares committed shards with the hashes that name them: all of them where they have
    /// `most_bytes` together or fewer, else every n-th from one that `turn` picks, so that about as
    /// many bytes are read. Gives the number of shards that were read, and of all.
    ///
    /// # Errors
    /// Names the first shard that is missing or holds something else, and what to do.
    pub async fn check_content(
        &self,
        standing: &Standing,
        most_bytes: u64,
        turn: u64,
    ) -> Result<(usize, usize), Error> {
        let shards = || {
            let manifests = standing.partitions().iter();
            manifests.flat_map(|(partition, manifest)| files(partition, manifest))
        };
        let all_bytes: u64 = shards().map(|shard| shard.size_bytes).sum();
        let stride = all_bytes.div_ceil(most_bytes.max(1)).max(1);
        let step = usize::try_from(stride).unwrap_or(usize::MAX);
        let first = usize::try_from(turn % stride).unwrap_or_default();
        let chosen = || shards().skip(first).step_by(step);
        stream::iter(chosen().map(Ok))
            .try_for_each_concurrent(CONCURRENT_SHARD_COUNT, |shard| self.check_shard(shard))
            .await?;
        Ok((chosen().count(), shards().count()))
    }

    async fn check_shard(&self, shard: Shard<'_>) -> Result<(), Error> {
        let lost = |state: &str| self.lost_shard(&shard.path, state.to_owned(), shard.partition);
        let Some(file) = self.root.read(&shard.path).await? else {
            return Err(lost("is missing"));
        };
        let hashing = tokio::task::spawn_blocking(move || sha256_hex(&file)).await;
        match hashing {
            Ok(found) if found == shard.sha256 => Ok(()),
            Ok(_) => Err(lost("is damaged: it has other content than its name says")),
            Err(stopped) => Err(lost(&format!("could not be read: {stopped}"))),
        }
    }
}

/// A committed shard.
struct Shard<'a> {
    partition: &'a Partition,
    path: object_store::path::Path,
    sha256: &'a str,
    size_bytes: u64,
}

fn files<'a>(
    partition: &'a Partition,
    manifest: &'a PartitionManifest,
) -> impl Iterator<Item = Shard<'a>> {
    manifest.files().map(move |(path, entry)| Shard {
        partition,
        path,
        sha256: &entry.sha256,
        size_bytes: entry.size_bytes,
    })
}
