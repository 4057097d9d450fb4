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
//! The answer is a pure function of the samples. Memory holds four partitions' marks (shards, where
//! there are none), 1 MiB per thing that is sorted, and one bit per sample; all else (520 bytes per
//! text, 40 per picture, 12 per key) lies in unnamed temporary files, which the system's `TMPDIR`
//! places.
//!
//! * `traits`: what of a sample is compared.
//! * `marks`: that, kept beside the shards.
//! * `walk`: from partition to partition.
//! * `rule`: when two things are near, and keys of which near things share one.
//! * `table`: things on the disk, and the pairs among them.
//! * `sort`: sorting on the disk.
//! * `index`: the nearest of many.
//! * `frozen`: the samples of earlier rounds, to hold new ones against.

mod frozen;
mod index;
mod marks;
mod rule;
mod sort;
mod table;
mod traits;
mod walk;

pub use frozen::Frozen;
pub use marks::Marks;
pub use traits::{TextKey, all_words, dialogue_words, prompt_words, prompts_key};

use self::{
    rule::{NearPicture, NearText, SameText},
    sort::Sorter,
    table::{Owner, PAIR_BYTES, Pair, Place, Table},
    traits::Traits,
    walk::Walk,
};
use crate::{
    plan::Partition,
    store::{Dropped, Error as StoreError, Reader},
};
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
    let mut walk = Walk::of(reader, u32::MAX, bounds);
    while let Some(found) = walk.next().await? {
        // Sorting is work, and writing may wait.
        let added = blocking(move || finder.add(&found).map(|()| finder));
        finder = added.await??;
    }
    let repetitions = blocking(move || finder.finish()).await??;
    // Both stand in the order of the partitions.
    let mut partitions = (0..).zip(reader.partitions().keys()).peekable();
    let mut dropped = Vec::new();
    for found in repetitions {
        while partitions
            .next_if(|(number, _)| *number < found.partition)
            .is_some()
        {}
        if let Some((_, partition)) = partitions.peek() {
            dropped.push(found.named(partition));
        }
    }
    Ok(dropped)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Stopped)
}

/// Takes samples in order, and finds those that repeat earlier ones.
struct Finder {
    partition_count: u32,
    sample_count: u32,
    owners: table::Items<Owner>,
    prompts: Table<SameText>,
    near_prompts: Option<Table<NearText>>,
    near_dialogues: Option<Table<NearText>>,
    near_pictures: Option<Table<NearPicture>>,
}

impl Finder {
    fn new(bounds: Bounds) -> io::Result<Self> {
        let text = |bound: Option<f64>| bound.and_then(NearText::over).map(Table::new).transpose();
        let picture = bounds.max_picture_distance.map(NearPicture::within);
        Ok(Self {
            partition_count: 0,
            sample_count: 0,
            owners: table::Items::new()?,
            prompts: Table::new(SameText)?,
            near_prompts: text(bounds.max_prompt_similarity)?,
            near_dialogues: text(bounds.max_dialogue_similarity)?,
            near_pictures: picture.map(Table::new).transpose()?,
        })
    }

    /// Adds the samples of the next partition.
    fn add(&mut self, samples: &[Traits]) -> io::Result<()> {
        for traits in samples {
            let place = (self.sample_count, self.partition_count);
            self.sample_count += 1;
            self.add_one(place, traits)?;
        }
        self.partition_count += 1;
        Ok(())
    }

    fn add_one(&mut self, place: Place, traits: &Traits) -> io::Result<()> {
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
        Ok(())
    }

    /// The samples that repeat an earlier one, in order.
    fn finish(self) -> Result<Vec<Repetition>, Error> {
        let mut pairs = Sorter::<PAIR_BYTES>::new();
        self.prompts.pairs(Measure::SamePrompt, &mut pairs)?;
        if let Some(table) = self.near_prompts {
            table.pairs(Measure::NearPrompt, &mut pairs)?;
        }
        if let Some(table) = self.near_dialogues {
            table.pairs(Measure::NearDialogue, &mut pairs)?;
        }
        if let Some(table) = self.near_pictures {
            table.pairs(Measure::NearPicture, &mut pairs)?;
        }
        let owners = self.owners.seal()?;
        let mut is_dropped = Bits::new(self.sample_count);
        let mut repetitions = Vec::new();
        for pair in pairs.sorted()? {
            let pair = Pair::read(pair?);
            if is_dropped.has(pair.later) || is_dropped.has(pair.earlier) {
                continue;
            }
            is_dropped.set(pair.later);
            let ((_, partition), owner) = owners.get(pair.later)?;
            let (_, original) = owners.get(pair.earlier)?;
            repetitions.push(Repetition {
                partition,
                owner,
                original,
                measure: pair.measure,
                value: pair.value,
            });
        }
        Ok(repetitions)
    }
}

/// A sample that repeats another.
struct Repetition {
    /// Number of its partition.
    partition: u32,
    owner: Owner,
    original: Owner,
    measure: Measure,
    value: f32,
}

impl Repetition {
    fn named(self, partition: &Partition) -> Dropped {
        Dropped {
            id: self.owner.id(),
            ability: partition.ability.clone(),
            slot: self.owner.slot,
            attempt: self.owner.attempt,
            partition: partition.to_string(),
            repeats: self.original.id(),
            measure: self.measure.name().to_owned(),
            value: self.value.into(),
        }
    }
}

/// One bit per sample.
struct Bits(Vec<u64>);

impl Bits {
    fn new(count: u32) -> Self {
        Self(vec![0; (count as usize).div_ceil(64)])
    }

    fn has(&self, place: u32) -> bool {
        self.0[place as usize / 64] >> (place % 64) & 1 == 1
    }

    fn set(&mut self, place: u32) {
        self.0[place as usize / 64] |= 1 << (place % 64);
    }
}
