//! Who a sample is: an id made of the recipe's seed and the sample's place,
//! from which all its random numbers come (DESIGN 3.1).
//!
//! Nothing else may feed them: no batch position, clock, thread or process.

use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// What a sample's id is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SampleKey<'a> {
    /// Seed of the recipe.
    pub recipe_seed: u64,
    /// Name of the ability.
    pub ability: &'a str,
    /// Slot of the ability, from 0.
    pub slot: u64,
    /// Attempt at the slot, from 0.
    pub attempt: u32,
}

impl SampleKey<'_> {
    /// The id: the first 16 bytes of a SHA-256 over the four parts.
    pub fn id(&self) -> SampleId {
        let Self {
            recipe_seed,
            ability,
            slot,
            attempt,
        } = self;
        // Names hold no line break, so no two keys give the same text.
        let text = format!("diptych sample 1\n{recipe_seed}\n{ability}\n{slot}\n{attempt}\n");
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest(text)[..16]);
        SampleId(id)
    }
}

/// Id of a sample, written as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SampleId([u8; 16]);

impl SampleId {
    /// Seed of the sample's random numbers for one purpose, such as `prompt`.
    /// Different purposes give unrelated numbers.
    pub fn seed(self, purpose: &str) -> u64 {
        let digest = Sha256::digest(format!("diptych seed 1\n{purpose}\n{self}\n"));
        let mut seed = [0; 8];
        seed.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(seed)
    }

    /// Name of the sample's `index`-th picture, from 0, where it shows several: from it come the prompt
    /// and the seed of that picture. The first has the sample's own.
    #[must_use]
    pub fn picture(self, index: u32) -> Self {
        self.part("picture", index)
    }

    /// Id of the sample's `index`-th picture where several are rendered for one prompt; the first has
    /// the sample's own.
    #[must_use]
    pub fn candidate(self, index: u32) -> Self {
        self.part("candidate", index)
    }

    /// The first 16 bytes of a SHA-256 over what it is a part of and as what; part 0 is the whole.
    fn part(self, what: &str, index: u32) -> Self {
        if index == 0 {
            return self;
        }
        let mut id = [0; 16];
        let text = format!("diptych {what} 1\n{index}\n{self}\n");
        id.copy_from_slice(&Sha256::digest(text)[..16]);
        Self(id)
    }

    /// No sample's id.
    pub(crate) const NONE: Self = Self([0; 16]);

    /// Its 16 bytes.
    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// The id of such bytes.
    pub(crate) fn of_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Seed of the sample's picture. 32 bits, because PyTorch's CPU generator
    /// reads no more than the low 32 of a seed.
    pub fn image_seed(self) -> u32 {
        (self.seed("image") & u64::from(u32::MAX)) as u32
    }
}

impl fmt::Display for SampleId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hexadecimal(&self.0))
    }
}

impl fmt::Debug for SampleId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A text that is not 32 lower-case hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a sample id: 32 lower-case hexadecimal digits are expected")]
pub struct MalformedId(String);

impl FromStr for SampleId {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let malformed = || MalformedId(text.chars().take(40).collect());
        if !is_hexadecimal(text, 32) {
            return Err(malformed());
        }
        let value = u128::from_str_radix(text, 16).map_err(|_| malformed())?;
        Ok(Self(value.to_be_bytes()))
    }
}

/// Whether a text is exactly `digit_count` lower-case hexadecimal digits.
pub(crate) fn is_hexadecimal(text: &str, digit_count: usize) -> bool {
    text.len() == digit_count
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// SHA-256 of some bytes in lower-case hexadecimal.
pub fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// SHA-256 of what is written to it.
#[derive(Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    /// The hash in lower-case hexadecimal.
    pub(crate) fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }
}

impl std::io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_every_part_of_the_key_and_reads_back() {
        let key = SampleKey {
            recipe_seed: 7,
            ability: "animal",
            slot: 3,
            attempt: 0,
        };
        let others = [
            SampleKey {
                recipe_seed: 8,
                ..key.clone()
            },
            SampleKey {
                ability: "animals",
                ..key.clone()
            },
            SampleKey {
                slot: 4,
                ..key.clone()
            },
            SampleKey {
                attempt: 1,
                ..key.clone()
            },
        ];
        assert!(others.iter().all(|other| other.id() != key.id()));
        assert_eq!(key.id().to_string().parse(), Ok(key.id()));
        assert!("ABC".parse::<SampleId>().is_err());
        assert!(
            key.id()
                .to_string()
                .to_uppercase()
                .parse::<SampleId>()
                .is_err()
        );
    }

    const SECOND_PICTURE: &str = "960fa21fac799a60b6b482b8b8afd1e0";

    /// The value is also what `hashlib.sha256(text).hexdigest()[:32]` says in
    /// Python. Should it change, every dataset made before is another dataset.
    #[test]
    fn ids_stay_what_they_were() {
        let key = SampleKey {
            recipe_seed: 1,
            ability: "color",
            slot: 0,
            attempt: 0,
        };
        assert_eq!(key.id().to_string(), "15c768cb6969a3be4153dc81e815e1ec");
        assert_ne!(key.id().seed("prompt"), key.id().seed("dialogue"));
        let second = key.id().picture(1);
        assert_eq!(key.id().picture(0), key.id());
        assert_ne!(second, key.id().candidate(1));
        assert_eq!(second.to_string(), SECOND_PICTURE);
    }
}
