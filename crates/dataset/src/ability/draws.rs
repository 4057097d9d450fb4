//! Random numbers from a key: the same key gives the same numbers, anywhere.

use sha2::{Digest as _, Sha256};

/// A stream of numbers decided by its key alone, never by a batch position, a
/// clock or a thread: SHA-256 of the key and a counter.
#[derive(Clone, Debug)]
pub struct Draws {
    key: [u8; 32],
    counter: u64,
}

impl Draws {
    /// The stream of a key. The parts are kept apart: `["ab", "c"]` is not `["a", "bc"]`.
    pub fn new(parts: &[&str]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self {
            key: hasher.finalize().into(),
            counter: 0,
        }
    }

    /// A number from 0 to `bound` - 1; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // 64 random bits times the bound, the upper half: the bias is under bound / 2^64.
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A fair coin.
    pub fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    /// One of the items; `None` when there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let index = self.below(items.len());
        items.get(index)
    }

    /// Puts the items into a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn next_u64(&mut self) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.key)
            .chain_update(self.counter.to_le_bytes())
            .finalize();
        self.counter += 1;
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(first)
    }
}
