//! How much two texts share: MinHash (Broder 1997) over four-character shingles.
//!
//! A [`Signature`] holds, for each of [`PERMUTATION_COUNT`] hash functions, the least hash of the
//! text's shingles; the share of places in which two signatures agree estimates the Jaccard
//! similarity of the shingle sets, with a standard error of at most 0.045. Characters rather than
//! words, since prompts are short: one word changed in ten leaves 0.8 of the shingles.

/// Hash functions of a signature; the standard error is 1 / (2 √128).
pub const PERMUTATION_COUNT: usize = 128;
/// Characters of a shingle.
const SHINGLE_CHARS: usize = 4;
/// Places of a band: two texts of similarity s share one of the 16 bands with the probability
/// 1 − (1 − s⁸)¹⁶, which is 0.95 for s = 0.8 and 0.06 for s = 0.5.
const BAND_PLACES: usize = 8;
/// A prime, 2⁶¹ − 1: the hash functions are x ↦ (a x + b) mod p.
const PRIME: u64 = (1 << 61) - 1;

/// The least hashes of a text's shingles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature([u64; PERMUTATION_COUNT]);

impl Signature {
    /// The signature of a text. Case, punctuation and spacing play no part.
    pub fn of(text: &str) -> Self {
        let characters: Vec<char> = normal(text).chars().collect();
        let mut least = [u64::MAX; PERMUTATION_COUNT];
        let window = SHINGLE_CHARS.min(characters.len()).max(1);
        for shingle in characters.windows(window) {
            let shingle = hash(shingle);
            for (index, least) in least.iter_mut().enumerate() {
                *least = (*least).min(permuted(shingle, index as u64));
            }
        }
        Self(least)
    }

    /// Estimated share of common shingles, 0 to 1. Two texts without a word are the same.
    pub fn similarity(&self, other: &Self) -> f64 {
        let pairs = self.0.iter().zip(&other.0);
        let agreeing = pairs.filter(|(one, other)| one == other).count();
        agreeing as f64 / PERMUTATION_COUNT as f64
    }

    /// One number per band. Texts that share none are far apart, but for a few; so candidates for a
    /// comparison are found through a table of these, without comparing all with all.
    pub fn bands(&self) -> impl Iterator<Item = u64> + '_ {
        let bands = self.0.chunks(BAND_PLACES).enumerate();
        bands.map(|(index, places)| {
            let start = mixed(index as u64);
            places.iter().fold(start, |hash, place| mixed(hash ^ place))
        })
    }
}

/// Words in lower case with one space between them.
fn normal(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// FNV-1a over code points, mixed.
fn hash(shingle: &[char]) -> u64 {
    let step = |hash: u64, &c: &char| (hash ^ u64::from(c)).wrapping_mul(0x0000_0100_0000_01b3);
    mixed(shingle.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

fn permuted(shingle: u64, index: u64) -> u64 {
    let factor = u128::from(mixed(2 * index + 1) % (PRIME - 1) + 1);
    let shift = u128::from(mixed(2 * index + 2) % PRIME);
    // Below 2⁶¹, so the cast loses nothing.
    ((factor * u128::from(shingle % PRIME) + shift) % u128::from(PRIME)) as u64
}

/// The finalizer of SplitMix64 (Steele et al. 2014).
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn similarity(one: &str, other: &str) -> f64 {
        Signature::of(one).similarity(&Signature::of(other))
    }

    #[test]
    fn the_estimate_lies_near_the_true_share_of_shingles() {
        let texts = [
            "a red fox in the snow under a pale winter sky, watercolor",
            "a red fox in the snow under a pale autumn sky, watercolor",
            "a grey wolf on the beach, pixel art",
            "two bicycles lean against a brick wall in the evening sun",
        ];
        let shingles = |text: &str| -> HashSet<Vec<char>> {
            let characters: Vec<char> = normal(text).chars().collect();
            characters
                .windows(SHINGLE_CHARS)
                .map(<[char]>::to_vec)
                .collect()
        };
        for one in texts {
            for other in texts {
                let (a, b) = (shingles(one), shingles(other));
                let exact = a.intersection(&b).count() as f64 / a.union(&b).count() as f64;
                let estimate = similarity(one, other);
                // Three standard errors.
                assert!(
                    (estimate - exact).abs() < 0.14,
                    "{one} / {other}: {estimate} for {exact}"
                );
            }
        }
    }

    #[test]
    fn emphasis_and_case_play_no_part_and_empty_texts_are_alike() {
        assert_eq!(
            similarity("((Fox)), snow , sketch", "fox, SNOW, sketch"),
            1.0
        );
        assert_eq!(similarity("", "()"), 1.0);
        assert!(similarity("", "a fox in the snow") < 0.1);
    }

    #[test]
    fn near_texts_share_a_band_and_far_ones_do_not() {
        let bands = |text: &str| Signature::of(text).bands().collect::<HashSet<u64>>();
        let fox = bands("a red fox in the snow under a pale winter sky, watercolor painting");
        let near = bands("a red fox in the snow under a pale winter sky, watercolour painting");
        let far = bands("two bicycles lean against a brick wall in the evening sun of Rome");
        assert!(!fox.is_disjoint(&near));
        assert!(fox.is_disjoint(&far));
    }
}
