//! Which samples repeat one of another partition (DESIGN 3.1), and what later rounds are held
//! against.
//!
//! Samples are in order by round, ability and slot. One that repeats an earlier one of another
//! partition, which is itself kept, is named; so the first of its kind stays. Repetition is
//!
//! * the same prompt, up to case, punctuation and emphasis: always;
//! * prompts, pictures or dialogues nearer than the bounds that the gates have inside a partition.
//!   Embeddings are compared inside partitions only: a join by cosine has no keys to sort by.
//!
//! A sample of several prompts is compared by all of them together, and by each of its pictures.
//!
//! The answer is a pure function of the samples. Memory holds four shards, 16 MiB per thing that is
//! sorted, and one byte per sample; all else (520 bytes per text, 40 per picture, 12 per key) lies in
//! unnamed temporary files, which the system's `TMPDIR` places.
//!
//! * `traits`: what of a sample is compared.
//! * `rule`: when two things are near, and keys of which near things share one.
//! * `table`: things on the disk, and the pairs among them.
//! * `sort`: sorting on the disk.
//! * `frozen`: the samples of earlier rounds, to hold new ones against.

mod frozen;
mod rule;
mod sort;
mod table;
mod traits;

pub use frozen::Frozen;
pub use traits::{dialogue_words, prompt_words};

use self::{
    rule::{NearPicture, NearText, SameText},
    sort::Sorter,
    table::{Owner, PAIR_BYTES, Pair, Table},
    traits::Traits,
};
use crate::{
    plan::Partition,
    store::{Dropped, Error as StoreError, PartitionManifest, Reader},
};
use futures::{Stream, StreamExt as _, stream};
use std::io;

/// When two samples repeat each other, beside equal prompts; the bounds of a recipe's gates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// Greatest MinHash similarity of two prompts, 0 to 1.
    pub max_prompt_similarity: Option<f64>,
    /// Greatest MinHash similarity of two dialogues, 0 to 1.
    pub max_dialogue_similarity: Option<f64>,
    /// Greatest Hamming distance in bits at which two pictures are the same.
    pub max_picture_distance: Option<u32>,
}

/// Why samples cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The dataset cannot be read.
    #[error("cannot read the dataset")]
    Store(#[from] StoreError),
    /// The temporary files cannot be written or read.
    #[error("cannot use a temporary file; TMPDIR names another folder for them")]
    Disk(#[from] io::Error),
    /// The comparison was stopped, by its own fault or because the program ends.
    #[error("the comparison was stopped")]
    Stopped,
}

/// By what a sample repeats another; the numbers decide which is named where several do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    SamePrompt = 0,
    NearPrompt = 1,
    NearPicture = 2,
    NearDialogue = 3,
}

impl Measure {
    /// The name of its gate.
    fn name(self) -> &'static str {
        match self {
            Self::SamePrompt => "repeated_prompt",
            Self::NearPrompt => "near_duplicate_prompt",
            Self::NearPicture => "near_duplicate_image",
            Self::NearDialogue => "near_duplicate_dialogue",
        }
    }

    fn of_number(number: u8) -> Self {
        match number {
            0 => Self::SamePrompt,
            1 => Self::NearPrompt,
            2 => Self::NearPicture,
            _ => Self::NearDialogue,
        }
    }
}

/// Names the samples of a dataset that repeat one of another partition, in order.
///
/// # Errors
/// A shard is missing or damaged, or the disk is full.
pub async fn among(reader: &Reader, bounds: Bounds) -> Result<Vec<Dropped>, Error> {
    let mut finder = Finder::new(bounds)?;
    let partitions: Vec<Partition> = reader.partitions().keys().cloned().collect();
    let mut traits = std::pin::pin!(traits(reader, u32::MAX, bounds));
    let mut number = 0;
    while let Some(found) = traits.next().await {
        let found = found?;
        // Sorting is work, and writing may wait.
        let added = blocking(move || finder.add(number, &found).map(|()| finder));
        finder = added.await??;
        number += 1;
    }
    blocking(move || finder.finish(&partitions)).await?
}

/// What is compared of the samples in partitions of rounds before `round`, partition by partition.
fn traits(
    reader: &Reader,
    round: u32,
    bounds: Bounds,
) -> impl Stream<Item = Result<Vec<Traits>, Error>> + Send + '_ {
    let partitions = reader.partitions().iter();
    let earlier = partitions.filter(move |(partition, _)| partition.round < round);
    let read = move |(_, manifest): (&Partition, &PartitionManifest)| {
        let manifest = manifest.clone();
        async move {
            let samples = reader.samples_of(&manifest).await?;
            let traits = move || {
                samples
                    .iter()
                    .map(|sample| Traits::of(sample, bounds))
                    .collect()
            };
            blocking(traits).await
        }
    };
    // Collected first, since the stream is to be sent between threads.
    let reads: Vec<_> = earlier.map(read).collect();
    stream::iter(reads).buffered(CONCURRENT_SHARDS)
}

/// Shards read and decoded at a time.
const CONCURRENT_SHARDS: usize = 4;

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Stopped)
}

/// Takes samples in order, and finds those that repeat earlier ones.
struct Finder {
    sample_count: u32,
    owners: table::Items<Owner>,
    prompts: Table<SameText>,
    near_prompts: Option<Table<NearText>>,
    near_dialogues: Option<Table<NearText>>,
    near_pictures: Option<Table<NearPicture>>,
}

impl Finder {
    fn new(bounds: Bounds) -> io::Result<Self> {
        let text = |bound: Option<f64>, measure| {
            let rule = bound.and_then(NearText::over);
            rule.map(|rule| Table::new(rule, measure)).transpose()
        };
        let picture = bounds.max_picture_distance.map(NearPicture::within);
        Ok(Self {
            sample_count: 0,
            owners: table::Items::new()?,
            prompts: Table::new(SameText, Measure::SamePrompt)?,
            near_prompts: text(bounds.max_prompt_similarity, Measure::NearPrompt)?,
            near_dialogues: text(bounds.max_dialogue_similarity, Measure::NearDialogue)?,
            near_pictures: picture
                .map(|rule| Table::new(rule, Measure::NearPicture))
                .transpose()?,
        })
    }

    /// Adds the samples of the next partition.
    fn add(&mut self, partition: u32, samples: &[Traits]) -> io::Result<()> {
        for traits in samples {
            let place = (self.sample_count, partition);
            self.sample_count += 1;
            self.owners.push(place, &traits.owner)?;
            if let Some(key) = &traits.prompt_key {
                self.prompts.add(place, key)?;
            }
            if let (Some(table), Some(mark)) = (&mut self.near_prompts, &traits.prompt) {
                table.add(place, mark)?;
            }
            if let (Some(table), Some(mark)) = (&mut self.near_dialogues, &traits.dialogue) {
                table.add(place, mark)?;
            }
            for mark in &traits.pictures {
                if let Some(table) = &mut self.near_pictures {
                    table.add(place, mark)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self, partitions: &[Partition]) -> Result<Vec<Dropped>, Error> {
        let mut pairs = Sorter::<PAIR_BYTES>::new();
        self.prompts.pairs(&mut pairs)?;
        for table in [self.near_prompts, self.near_dialogues]
            .into_iter()
            .flatten()
        {
            table.pairs(&mut pairs)?;
        }
        if let Some(table) = self.near_pictures {
            table.pairs(&mut pairs)?;
        }
        let owners = self.owners.seal()?;
        let mut is_dropped = vec![false; self.sample_count as usize];
        let mut dropped = Vec::new();
        for pair in pairs.sorted()? {
            let pair = Pair::read(pair?);
            let (later, earlier) = (pair.later as usize, pair.earlier as usize);
            if is_dropped[later] || is_dropped[earlier] {
                continue;
            }
            is_dropped[later] = true;
            let (place, owner) = owners.get(pair.later)?;
            let (_, original) = owners.get(pair.earlier)?;
            let partition = &partitions[place.1 as usize];
            dropped.push(Dropped {
                id: owner.id(),
                ability: partition.ability.clone(),
                slot: owner.slot,
                attempt: owner.attempt,
                partition: partition.to_string(),
                repeats: original.id(),
                measure: pair.measure.name().to_owned(),
                value: pair.value.into(),
            });
        }
        Ok(dropped)
    }
}
