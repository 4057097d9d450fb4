//! When two things are near, and keys of which any two near things share one (by the pigeonhole
//! principle: with at most d differences, one of d + 1 disjoint groups has none). So no near pair is
//! missed where all that share a key are compared.

use super::traits::TextKey;
use crate::{
    image_hash::{BIT_COUNT, ImageHash},
    minhash::{PERMUTATION_COUNT, Signature, mix},
};

/// Something that is written in a record of fixed size.
pub(super) trait Mark: Sized {
    /// Size of the record in bytes.
    const BYTES: usize;
    /// Appends the record.
    fn write(&self, record: &mut Vec<u8>);
    /// Reads what `write` wrote.
    fn read(record: &[u8]) -> Self;
}

/// Tells near things.
pub(super) trait Rule {
    type Mark: Mark;
    /// Keys, of which any two near marks share one.
    fn keys(&self, mark: &Self::Mark) -> Vec<u64>;
    /// How many places or bits of the two are equal.
    fn agreement(&self, one: &Self::Mark, other: &Self::Mark) -> u32;
    /// What is measured, where the two are near.
    fn nearness(&self, one: &Self::Mark, other: &Self::Mark) -> Option<f32>;
}

/// Equal texts.
pub(super) struct SameText;

impl Rule for SameText {
    type Mark = TextKey;

    fn keys(&self, mark: &TextKey) -> Vec<u64> {
        vec![numbers::<u64, 8>(mark, u64::from_le_bytes)[0]]
    }

    fn agreement(&self, one: &TextKey, other: &TextKey) -> u32 {
        u32::from(one == other)
    }

    fn nearness(&self, one: &TextKey, other: &TextKey) -> Option<f32> {
        (one == other).then_some(1.0)
    }
}

/// Texts whose signatures agree in so many places or more.
pub(super) struct NearText {
    min_agreeing: usize,
}

impl NearText {
    /// Texts of a similarity over the bound; none where no similarity is.
    pub(super) fn over(bound: f64) -> Option<Self> {
        let is_over = |&agreeing: &usize| agreeing as f64 / PERMUTATION_COUNT as f64 > bound;
        let min_agreeing = (1..=PERMUTATION_COUNT).find(is_over)?;
        Some(Self { min_agreeing })
    }

    /// Texts that agree in all places.
    pub(super) fn equal() -> Self {
        Self {
            min_agreeing: PERMUTATION_COUNT,
        }
    }
}

impl Rule for NearText {
    type Mark = Signature;

    fn keys(&self, mark: &Signature) -> Vec<u64> {
        let band_count = PERMUTATION_COUNT - self.min_agreeing + 1;
        let bands = mark.places().chunks_exact(PERMUTATION_COUNT / band_count);
        let key = |(number, places): (u64, &[u32])| {
            let mixed = |key, &place: &u32| mix(key ^ u64::from(place));
            places.iter().fold(mix(number), mixed)
        };
        (0..).zip(bands.take(band_count)).map(key).collect()
    }

    fn agreement(&self, one: &Signature, other: &Signature) -> u32 {
        one.agreeing(other) as u32
    }

    fn nearness(&self, one: &Signature, other: &Signature) -> Option<f32> {
        let agreeing = one.agreeing(other);
        let share = agreeing as f32 / PERMUTATION_COUNT as f32;
        (agreeing >= self.min_agreeing).then_some(share)
    }
}

/// Pictures whose hashes differ in so many bits or fewer.
pub(super) struct NearPicture {
    max_distance: u32,
}

impl NearPicture {
    pub(super) fn within(max_distance: u32) -> Self {
        Self { max_distance }
    }
}

impl Rule for NearPicture {
    type Mark = ImageHash;

    /// A group takes every n-th bit: bits side by side would be alike in all pictures with an empty
    /// corner.
    fn keys(&self, mark: &ImageHash) -> Vec<u64> {
        let words = mark.words();
        let bit = |place: u32| words[(place / 64) as usize] >> (place % 64) & 1;
        // At a distance of all bits and more everything is near, and one key says so.
        let group_count = match self.max_distance {
            BIT_COUNT.. => return vec![0],
            distance => distance + 1,
        };
        let key = |group: u32| {
            let places = (group..BIT_COUNT).step_by(group_count as usize);
            let chunk = |key: u64, place: u32| mix(key ^ bit(place));
            places.fold(mix(u64::from(group)), chunk)
        };
        (0..group_count).map(key).collect()
    }

    fn agreement(&self, one: &ImageHash, other: &ImageHash) -> u32 {
        BIT_COUNT - one.distance(other)
    }

    fn nearness(&self, one: &ImageHash, other: &ImageHash) -> Option<f32> {
        let distance = one.distance(other);
        (distance <= self.max_distance).then_some(distance as f32)
    }
}

impl Mark for TextKey {
    const BYTES: usize = size_of::<Self>();

    fn write(&self, record: &mut Vec<u8>) {
        record.extend(self);
    }

    fn read(record: &[u8]) -> Self {
        let mut key = Self::default();
        key.copy_from_slice(record);
        key
    }
}

impl Mark for Signature {
    const BYTES: usize = 4 * PERMUTATION_COUNT;

    fn write(&self, record: &mut Vec<u8>) {
        record.extend(self.places().iter().flat_map(|place| place.to_le_bytes()));
    }

    fn read(record: &[u8]) -> Self {
        let mut places = [0; PERMUTATION_COUNT];
        places.copy_from_slice(&numbers(record, u32::from_le_bytes));
        Self::of_places(places)
    }
}

impl Mark for ImageHash {
    const BYTES: usize = (BIT_COUNT / 8) as usize;

    fn write(&self, record: &mut Vec<u8>) {
        record.extend(self.words().iter().flat_map(|word| word.to_le_bytes()));
    }

    fn read(record: &[u8]) -> Self {
        let mut words = [0; 4];
        words.copy_from_slice(&numbers(record, u64::from_le_bytes));
        Self::of_words(words)
    }
}

/// The numbers of `N` bytes that a record holds.
fn numbers<T, const N: usize>(record: &[u8], number: fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = record.as_chunks();
    chunks.iter().map(|&chunk| number(chunk)).collect()
}
