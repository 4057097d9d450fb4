//! What is compared of a shard's samples, in an object beside it: pictures are decoded once, when a
//! partition is made, and not by every process in every round.
//!
//! ```text
//! diptych marks 1\n   the version: another hash of pictures or texts is another one
//! 64 bytes            SHA-256 of the shard, in hexadecimal
//! 1 byte              which of the bounds there were
//! 4 bytes             number of samples
//! for each sample     its owner, which marks it has, these, 2 bytes: number of pictures, their hashes
//! 32 bytes            SHA-256 of all before
//! ```
//!
//! Whoever finds none, a damaged one, or one for other bounds, makes it from the shard; so nothing is
//! lost with the folder.

use super::{
    Bounds, Error, blocking,
    rule::Mark,
    traits::{TextKey, Traits},
};
use crate::{
    image_hash::ImageHash,
    minhash::Signature,
    store::{PartitionManifest, Reader, ShardEntry, Writer},
};
use bytes::Bytes;
use proto::dataset::v1::Sample;
use sha2::{Digest as _, Sha256};

const MAGIC: &[u8] = b"diptych marks 1\n";
const HASH_BYTES: usize = 32;

/// What is compared of the samples of one shard.
#[derive(Debug)]
pub struct Marks {
    asked: u8,
    samples: Vec<Traits>,
}

impl Marks {
    /// Marks of the samples of a partition, each with its pictures' hashes.
    pub fn of<'a>(
        samples: impl IntoIterator<Item = (&'a Sample, Vec<ImageHash>)>,
        bounds: Bounds,
    ) -> Self {
        let samples = samples.into_iter();
        let samples =
            samples.map(|(sample, pictures)| Traits::with_pictures(sample, pictures, bounds));
        Self {
            asked: asked(bounds),
            samples: samples.collect(),
        }
    }

    /// Keeps them beside the committed shard that they are of.
    ///
    /// # Errors
    /// The place cannot be written.
    pub async fn keep(&self, writer: &Writer, of: &PartitionManifest) -> Result<(), Error> {
        let shard = &of.shard;
        if self.samples.len() as u64 == shard.sample_count {
            writer.keep_marks(shard, self.written(shard)).await?;
        }
        Ok(())
    }

    fn written(&self, shard: &ShardEntry) -> Bytes {
        let mut file = MAGIC.to_vec();
        file.extend(shard.sha256.as_bytes());
        file.push(self.asked);
        file.extend((self.samples.len() as u32).to_le_bytes());
        for traits in &self.samples {
            traits.owner.write(&mut file);
            let texts = [&traits.prompt, &traits.dialogue];
            let key = u8::from(traits.prompt_key.is_some());
            file.push(key | u8::from(texts[0].is_some()) << 1 | u8::from(texts[1].is_some()) << 2);
            file.extend(traits.prompt_key.iter().flatten());
            texts
                .into_iter()
                .flatten()
                .for_each(|text| text.write(&mut file));
            file.extend((traits.pictures.len() as u16).to_le_bytes());
            traits
                .pictures
                .iter()
                .for_each(|picture| picture.write(&mut file));
        }
        let hash = Sha256::digest(&file);
        file.extend(hash);
        file.into()
    }

    /// Reads marks of that shard for these bounds; none where they are of something else or damaged.
    fn read(file: &[u8], shard: &ShardEntry, bounds: Bounds) -> Option<Self> {
        let (file, hash) = file.split_at_checked(file.len().checked_sub(HASH_BYTES)?)?;
        let asked = asked(bounds);
        let mut rest = Rest(file);
        let is_it = Sha256::digest(file).as_slice() == hash
            && rest.take(MAGIC.len())? == MAGIC
            && rest.take(64)? == shard.sha256.as_bytes()
            && rest.take(1)? == [asked];
        let count = u32::from_le_bytes(rest.array()?);
        if !is_it || u64::from(count) != shard.sample_count {
            return None;
        }
        let samples: Option<Vec<Traits>> = (0..count).map(|_| rest.traits()).collect();
        let samples = samples.filter(|_| rest.0.is_empty())?;
        Some(Self { asked, samples })
    }
}

/// What is compared of a partition's samples, those left out that a round has dropped.
pub(super) async fn of_partition(
    reader: &Reader,
    manifest: &PartitionManifest,
    bounds: Bounds,
) -> Result<Vec<Traits>, Error> {
    let shard = &manifest.shard;
    let kept = reader.marks(shard).await?;
    let marks = match kept.and_then(|file| Marks::read(&file, shard, bounds)) {
        Some(marks) => marks,
        None => made(reader, manifest, bounds).await?,
    };
    let mut samples = marks.samples;
    samples.retain(|traits| !reader.drops(&traits.owner.id()));
    Ok(samples)
}

/// Makes marks from the shard and keeps them for the next process.
async fn made(
    reader: &Reader,
    manifest: &PartitionManifest,
    bounds: Bounds,
) -> Result<Marks, Error> {
    let shard = &manifest.shard;
    let samples = reader.stored_samples_of(manifest).await?;
    let traits = move || {
        samples
            .iter()
            .map(|sample| Traits::of(sample, bounds))
            .collect()
    };
    let marks = Marks {
        asked: asked(bounds),
        samples: blocking(traits).await?,
    };
    // Who may only read can compare all the same.
    let _ = reader.keep_marks(shard, marks.written(shard)).await;
    Ok(marks)
}

/// A bit for each of the bounds that are set.
fn asked(bounds: Bounds) -> u8 {
    u8::from(bounds.max_prompt_similarity.is_some())
        | u8::from(bounds.max_dialogue_similarity.is_some()) << 1
        | u8::from(bounds.max_picture_distance.is_some()) << 2
}

/// What of a file is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn mark<M: Mark>(&mut self) -> Option<M> {
        self.take(M::BYTES).map(M::read)
    }

    fn traits(&mut self) -> Option<Traits> {
        let owner = self.mark()?;
        let [has] = self.array()?;
        let prompt_key = self.optional::<TextKey>(has & 1)?;
        let prompt = self.optional::<Signature>(has & 2)?;
        let dialogue = self.optional::<Signature>(has & 4)?;
        let picture_count = u16::from_le_bytes(self.array()?);
        let pictures: Option<Vec<ImageHash>> = (0..picture_count).map(|_| self.mark()).collect();
        Some(Traits {
            owner,
            prompt_key,
            prompt,
            dialogue,
            pictures: pictures?,
        })
    }

    fn optional<M: Mark>(&mut self, is_there: u8) -> Option<Option<M>> {
        match is_there {
            0 => Some(None),
            _ => self.mark().map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::samples;

    const BOUNDS: Bounds = Bounds {
        max_prompt_similarity: Some(0.8),
        max_dialogue_similarity: None,
        max_picture_distance: Some(4),
    };

    #[test]
    fn marks_read_back_as_they_were_and_damaged_or_foreign_ones_do_not() {
        let samples = samples("animal", 0..3);
        let hash = ImageHash::of(&image::RgbImage::new(8, 8));
        let marks = Marks::of(samples.iter().map(|sample| (sample, vec![hash])), BOUNDS);
        let shard = |sha256: &str| ShardEntry {
            sha256: sha256.repeat(64),
            size_bytes: 1,
            sample_count: 3,
        };
        let file = marks.written(&shard("a"));
        let read = Marks::read(&file, &shard("a"), BOUNDS).unwrap();
        assert_eq!(read.samples, marks.samples);
        assert_eq!(read.samples[2].pictures, [hash]);
        assert!(read.samples[2].prompt.is_some() && read.samples[2].dialogue.is_none());

        assert!(Marks::read(&file, &shard("b"), BOUNDS).is_none());
        assert!(Marks::read(&file, &shard("a"), Bounds::default()).is_none());
        for end in [0, 20, file.len() - 1] {
            assert!(Marks::read(&file[..end], &shard("a"), BOUNDS).is_none());
        }
        let mut damaged = file.to_vec();
        damaged[200] ^= 1;
        assert!(Marks::read(&damaged, &shard("a"), BOUNDS).is_none());
    }
}
