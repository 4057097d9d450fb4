//! Reading in a random order that a seed decides, with bounded memory: shards in random order, and
//! a buffer from which samples are drawn. Farther apart than the buffer is long, two samples of one
//! shard do not meet; within it the order is free.

use super::{Error, PartitionManifest, Reader};
use crate::ability::Draws;
use futures::{Stream, stream};
use proto::dataset::v1::Sample;
use std::num::NonZeroUsize;

/// What is left to read.
struct Shuffle<'a> {
    dataset: &'a Reader,
    /// Shards not yet read, the next one last.
    shards: Vec<&'a PartitionManifest>,
    buffer: Vec<Sample>,
    buffer_sample_count: usize,
    draws: Draws,
}

impl Reader {
    /// All samples once, in an order that `seed` decides. At most `buffer_sample_count` samples
    /// and one shard are in memory. A damaged shard gives one error, and the stream goes on.
    pub fn shuffled(
        &self,
        seed: u64,
        buffer_sample_count: NonZeroUsize,
    ) -> impl Stream<Item = Result<Sample, Error>> + Send + '_ {
        let mut draws = Draws::new(&["read", &seed.to_string()]);
        let mut shards: Vec<_> = self.partitions().values().collect();
        draws.shuffle(&mut shards);
        let shuffle = Shuffle {
            dataset: self,
            shards,
            buffer: Vec::new(),
            buffer_sample_count: buffer_sample_count.get(),
            draws,
        };
        stream::unfold(shuffle, |mut shuffle| async move {
            let next = shuffle.next().await?;
            Some((next, shuffle))
        })
    }
}

impl Shuffle<'_> {
    async fn next(&mut self) -> Option<Result<Sample, Error>> {
        while self.buffer.len() < self.buffer_sample_count {
            let Some(shard) = self.shards.pop() else {
                break;
            };
            match self.dataset.samples_of(shard).await {
                Ok(samples) => self.buffer.extend(samples),
                Err(error) => return Some(Err(error)),
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let place = self.draws.below(self.buffer.len());
        Some(Ok(self.buffer.swap_remove(place)))
    }
}
