//! Partition by partition through what is compared of a dataset's samples.

use super::{Bounds, Error, marks, traits::Traits};
use crate::store::{PartitionManifest, Reader};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};

/// Partitions read at a time, shards where there are no marks.
const CONCURRENT_PARTITIONS: usize = 4;

/// The partitions of rounds before a given one, in order; few are in memory at a time.
pub(super) struct Walk<'a> {
    reader: &'a Reader,
    bounds: Bounds,
    left: Box<dyn Iterator<Item = &'a PartitionManifest> + Send + 'a>,
    under_way: FuturesOrdered<BoxFuture<'a, Result<Vec<Traits>, Error>>>,
}

impl<'a> Walk<'a> {
    pub(super) fn of(reader: &'a Reader, round: u32, bounds: Bounds) -> Self {
        let partitions = reader.partitions().iter();
        let earlier = partitions.filter(move |(partition, _)| partition.round < round);
        Self {
            reader,
            bounds,
            left: Box::new(earlier.map(|(_, manifest)| manifest)),
            under_way: FuturesOrdered::new(),
        }
    }

    /// What is compared of the next partition's samples; none behind the last.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Traits>>, Error> {
        while self.under_way.len() < CONCURRENT_PARTITIONS {
            let Some(manifest) = self.left.next() else {
                break;
            };
            let read = marks::of_partition(self.reader, manifest, self.bounds);
            self.under_way.push_back(read.boxed());
        }
        self.under_way.next().await.transpose()
    }
}
