//! MinHash (Broder, "On the resemblance and containment of documents", 1997): texts that share most
//! of their pieces have signatures that agree in most places. With locality-sensitive hashing a text
//! is compared with few others, whatever their number.
//!
//! Pieces are runs of 5 characters of the text in lower case, its words one space apart and all
//! else left out: prompts are short lists of words, and whole words would make one changed word
//! look like half a prompt. Nothing is random: the same texts in the same order give the same
//! answers on any machine.

use std::collections::HashMap;

/// Places of a signature.
pub(crate) const PERMUTATION_COUNT: usize = 128;
/// Characters of a piece.
const SHINGLE_CHARS: usize = 5;
/// Bands of a signature, and places of a band: 125 of the 128 places. Two texts whose pieces agree
/// to a share s meet in a bucket with the probability 1 − (1 − s⁵)²⁵: 0.9999 at 0.8, 0.55 at 0.5.
const BAND_COUNT: usize = 25;
const BAND_ROWS: usize = 5;

/// Words that [`Signature::of_phrases`] leaves out.
const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// Estimated share of common pieces from which on two texts count as nearly the same.
pub const NEAR_SHARE: f64 = 0.8;

/// Signature of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature([u32; PERMUTATION_COUNT]);

impl Signature {
    /// Signature of a text; `None` where it has no letter or digit.
    pub fn of(text: &str) -> Option<Self> {
        let characters: Vec<char> = normal(text).chars().collect();
        if characters.is_empty() {
            return None;
        }
        let mut least = [u32::MAX; PERMUTATION_COUNT];
        // A text shorter than a piece is one piece.
        for piece in characters.windows(SHINGLE_CHARS.min(characters.len())) {
            let hash = hash_of(piece);
            for (place, least) in least.iter_mut().enumerate() {
                *least = (*least).min(permuted(hash, place as u64));
            }
        }
        Some(Self(least))
    }

    /// Signature of a list of phrases, as prompts are: the order of the phrases says nothing, nor do
    /// articles and the endings of plurals; the order of words inside a phrase counts (a fox left of
    /// an owl is no owl left of a fox). `None` where it has no letter or digit.
    pub fn of_phrases(text: &str) -> Option<Self> {
        let phrases = text.split([',', ';', '.', '\n']).map(|phrase| {
            let normal = normal(phrase);
            let words = normal.split(' ').filter(|word| !ARTICLES.contains(word));
            words.map(singular).collect::<Vec<_>>().join(" ")
        });
        let mut phrases: Vec<String> = phrases.filter(|phrase| !phrase.is_empty()).collect();
        phrases.sort_unstable();
        Self::of(&phrases.join(" "))
    }

    /// Estimate of the share of pieces that two texts have in common, with a standard error of
    /// 0.035 at 0.8.
    pub fn similarity(&self, other: &Self) -> f64 {
        self.agreeing(other) as f64 / PERMUTATION_COUNT as f64
    }

    /// Places in which two signatures agree.
    pub(crate) fn agreeing(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count()
    }

    /// The places.
    pub(crate) fn places(&self) -> &[u32; PERMUTATION_COUNT] {
        &self.0
    }

    /// The signature of such places.
    pub(crate) fn of_places(places: [u32; PERMUTATION_COUNT]) -> Self {
        Self(places)
    }

    fn bands(&self) -> impl Iterator<Item = u64> + '_ {
        let bands = self.0.chunks_exact(BAND_ROWS).take(BAND_COUNT);
        bands.zip(0_u64..).map(|(rows, number)| {
            let mixed = |key, &row: &u32| mix(key ^ u64::from(row));
            rows.iter().fold(mix(number), mixed)
        })
    }
}

/// Texts seen, by their signatures: about 1.5 KiB each, whatever their length.
#[derive(Debug, Default)]
pub struct NearTexts {
    signatures: Vec<Signature>,
    /// First text of each bucket. A text is compared with the first of each of its buckets, so that
    /// its cost is bounded by the number of bands.
    buckets: HashMap<u64, u32>,
}

impl NearTexts {
    /// Adds a text, and says which one before it is nearly the same, by its number from 0. A text
    /// without letters or digits has no number and is near to none.
    pub fn add(&mut self, text: &str) -> Option<u32> {
        let signature = Signature::of(text)?;
        let number = u32::try_from(self.signatures.len()).ok()?;
        let mut nearest = None;
        for band in signature.bands() {
            let &mut first = self.buckets.entry(band).or_insert(number);
            if first != number && nearest.is_none() {
                let similarity = signature.similarity(&self.signatures[first as usize]);
                nearest = (similarity >= NEAR_SHARE).then_some(first);
            }
        }
        self.signatures.push(signature);
        nearest
    }
}

/// Words in lower case, one space apart.
pub(crate) fn normal(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// A word without the ending of a plural: `foxes` as `fox`, `berries` as `berry`. What it makes of
/// other words does not matter, as it makes the same of them everywhere.
fn singular(word: &str) -> String {
    let hissing = |stem: &&str| stem.ends_with(['s', 'x', 'z', 'h']);
    if let Some(stem) = word.strip_suffix("ies").filter(|stem| stem.len() > 1) {
        return format!("{stem}y");
    }
    if let Some(stem) = word.strip_suffix("es").filter(hissing) {
        return stem.to_owned();
    }
    let stem = word.strip_suffix('s').filter(|stem| stem.len() > 2);
    stem.filter(|stem| !stem.ends_with('s'))
        .unwrap_or(word)
        .to_owned()
}

fn hash_of(piece: &[char]) -> u64 {
    let mixed = |hash, &character: &char| mix(hash ^ u64::from(u32::from(character)));
    piece.iter().fold(0, mixed)
}

/// The piece's place in one of the random orders.
fn permuted(hash: u64, place: u64) -> u32 {
    let multiplier = mix(2 * place) | 1;
    let sum = hash
        .wrapping_mul(multiplier)
        .wrapping_add(mix(2 * place + 1));
    (sum >> 32) as u32
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, 2014): every bit depends on every bit.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_with_one_word_changed_is_near_and_another_prompt_is_not() {
        let mut seen = NearTexts::default();
        let prompt = "((Peacock)), garden, realistic, detailed shading, mysterious, highly \
                      detailed, volumetric light, intricate, fine carvings, soft light";
        assert_eq!(seen.add(prompt), None);
        assert_eq!(
            seen.add(&prompt.replace("8k", "4k").to_uppercase()),
            Some(0)
        );
        assert_eq!(
            seen.add(&prompt.replace("fine carvings", "fine carving")),
            Some(0)
        );
        assert_eq!(
            seen.add("((Gorilla)), jungle, realistic, shiny, dramatic lighting"),
            None
        );
        assert_eq!(
            seen.add("((Gorilla)), jungle, realistic, dull, dramatic lighting, 4k"),
            None
        );
        assert_eq!(seen.add("(( )), !"), None);
    }

    #[test]
    fn a_prompt_with_its_phrases_in_another_order_or_number_is_the_same() {
        let phrases = |text: &str| Signature::of_phrases(text).unwrap();
        let prompt = phrases("((fox)), snow, black and white");
        for same in [
            "black and white, snow, a fox",
            "Foxes; the snow; black and white.",
        ] {
            assert_eq!(prompt, phrases(same), "{same}");
        }
        for (many, one) in [
            ("strawberries", "strawberry"),
            ("buses", "bus"),
            ("boxes", "box"),
        ] {
            assert_eq!(phrases(many), phrases(one));
        }
        let (left, right) = (
            phrases("a fox left of an owl"),
            phrases("an owl left of a fox"),
        );
        for other in [
            phrases("owl, snow, sketch"),
            phrases("glass"),
            phrases("gas"),
        ] {
            assert!(prompt.similarity(&other) < NEAR_SHARE);
        }
        assert!(left.similarity(&right) < NEAR_SHARE);
        assert_eq!(Signature::of_phrases(", the (!)"), None);
    }

    #[test]
    fn the_estimate_is_close_to_the_true_share() {
        let words = |range: std::ops::Range<u32>| {
            let words: Vec<String> = range
                .map(|n| format!("{:05}", mix(u64::from(n)) % 99_999))
                .collect();
            words.join(" ")
        };
        // 90 of 110 words in common, and so about 0.82 of the pieces.
        let one = Signature::of(&words(0..100)).unwrap();
        let other = Signature::of(&words(10..110)).unwrap();
        let estimate = one.similarity(&other);
        assert!((estimate - 0.82).abs() < 0.12, "{estimate}");
    }
}
