//! From a sample's id to where it lies and all that is recorded of how it came about.

use super::{Error, Reader};
use crate::{plan::Partition, view::SampleView};
use proto::dataset::v1::Sample;
use serde::Serialize;

/// A sample and its place.
#[derive(Clone, Debug)]
pub struct Located {
    /// Its partition.
    pub partition: Partition,
    /// SHA-256 of the shard that holds it, which is the file's name.
    pub shard_sha256: String,
    /// Row in that shard, from 0.
    pub row: usize,
    /// The sample: prompts, seeds, models, attempt and parents.
    pub sample: Sample,
}

/// A [`Located`] as JSON, pictures' bytes aside.
#[derive(Debug, Serialize)]
pub struct LocatedView<'a> {
    partition: String,
    shard_sha256: &'a str,
    row: usize,
    sample: SampleView<'a>,
}

impl Located {
    /// The view for people and programs.
    pub fn view(&self) -> LocatedView<'_> {
        LocatedView {
            partition: self.partition.to_string(),
            shard_sha256: &self.shard_sha256,
            row: self.row,
            sample: SampleView::of(&self.sample),
        }
    }
}

impl Reader {
    /// Finds a sample by its id; `None` where the dataset has no such sample. Reads the ids of one
    /// shard after the other, and the samples of one.
    ///
    /// # Errors
    /// A shard on the way is missing or damaged.
    pub async fn locate(&self, id: &str) -> Result<Option<Located>, Error> {
        for (partition, manifest) in self.partitions() {
            let ids = self.ids_of(manifest).await?;
            let Some(row) = ids.iter().position(|found| found == id) else {
                continue;
            };
            if self.drops(id) {
                return Ok(None);
            }
            let sample = self.stored_samples_of(manifest).await?.into_iter().nth(row);
            return Ok(sample.map(|sample| Located {
                partition: partition.clone(),
                shard_sha256: manifest.shard.sha256.clone(),
                row,
                sample,
            }));
        }
        Ok(None)
    }
}
