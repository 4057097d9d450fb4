//! What was seen before, by hash: memory grows with what is different, never with how long it is.

use crate::{
    image_hash::{ImageHash, NEAR_BITS},
    minhash::mix,
};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Hash of a text or a file, long enough that no two of a dataset have the same.
pub(super) type Key = [u8; 16];

pub(super) fn key(parts: &[&[u8]]) -> Key {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize()[..16]);
    key
}

/// Keys seen.
#[derive(Debug, Default)]
pub(super) struct Seen(HashSet<Key>);

impl Seen {
    /// Adds a key, and says whether it was there.
    pub(super) fn again(&mut self, key: Key) -> bool {
        !self.0.insert(key)
    }

    pub(super) fn holds(&self, key: &Key) -> bool {
        self.0.contains(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Groups of bits by which near pictures are found: with at most four bits different, one of five
/// groups is equal.
const GROUP_COUNT: u32 = NEAR_BITS + 1;
/// Pictures of one group that a picture is compared with, the latest ones.
const MAX_CANDIDATE_COUNT: usize = 256;

/// Pictures seen, by perceptual hash.
#[derive(Debug, Default)]
pub(super) struct NearPictures {
    hashes: Vec<ImageHash>,
    groups: HashMap<(u32, u64), Vec<u32>>,
}

impl NearPictures {
    /// Whether a picture like it was added.
    pub(super) fn holds(&self, hash: &ImageHash) -> bool {
        groups(hash).any(|group| {
            let candidates = self.groups.get(&group).into_iter().flatten();
            let mut candidates = candidates.rev().take(MAX_CANDIDATE_COUNT);
            candidates.any(|&other| self.hashes[other as usize].distance(hash) <= NEAR_BITS)
        })
    }

    pub(super) fn add(&mut self, hash: ImageHash) {
        let Ok(number) = u32::try_from(self.hashes.len()) else {
            return;
        };
        for group in groups(&hash) {
            self.groups.entry(group).or_default().push(number);
        }
        self.hashes.push(hash);
    }
}

/// Every fifth bit of the hash makes a group: bits side by side would be alike in all pictures
/// with an empty corner.
fn groups(hash: &ImageHash) -> impl Iterator<Item = (u32, u64)> + use<> {
    let words = hash.words();
    (0..GROUP_COUNT).map(move |group| {
        let bits = (group..crate::image_hash::BIT_COUNT).step_by(GROUP_COUNT as usize);
        let bit = |bit: u32| words[(bit / 64) as usize] >> (bit % 64) & 1;
        (group, mix(bits.fold(1, |all, place| all << 1 | bit(place))))
    })
}

/// Different words counted; more are counted together.
const MAX_WORD_COUNT: usize = 65_536;

/// How often each word came, for as many different words as are worth counting: what many samples
/// have comes early.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: BTreeMap<String, u64>,
    pub(super) other_count: u64,
}

impl Tally {
    pub(super) fn add(&mut self, word: &str) {
        if let Some(count) = self.counts.get_mut(word) {
            *count += 1;
        } else if self.counts.len() < MAX_WORD_COUNT {
            self.counts.insert(word.to_owned(), 1);
        } else {
            self.other_count += 1;
        }
    }

    pub(super) fn distinct(&self) -> u64 {
        self.counts.len() as u64
    }

    /// The most frequent words, equal ones by name.
    pub(super) fn top(&self, limit: usize) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = self.counts.clone().into_iter().collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        all.truncate(limit);
        all
    }
}
