//! What a sample must pass, and between which values each bound makes sense.

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use dataset::image_hash::NEAR_BITS;
use serde::{Deserialize, Serialize};

use super::{is_false, training::default_real_benchmark};

/// What a sample must pass. A recipe without `[synth.gates]` has the gates of [`Default`]; one
/// with it has just the gates that it names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gates {
    /// Whether a prompt must be a description in good form that names its keyword.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prompt_form: bool,
    /// Greatest MinHash similarity of two prompts of one partition, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prompt_similarity: Option<f64>,
    /// Greatest cosine of two prompts of one partition, by the text embedding service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prompt_cosine: Option<f64>,
    /// Greatest cosine of two pictures of one partition, by the image scoring service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_image_cosine: Option<f64>,
    /// Greatest MinHash similarity of two dialogues of one partition, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_dialogue_similarity: Option<f64>,
    /// Greatest MinHash similarity of a question with its answer to one of an evaluation set's, 0
    /// to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_leak_similarity: Option<f64>,
    /// Least standard deviation of the pixels, in levels of 0 to 255.
    pub min_pixel_deviation: Option<f64>,
    /// Least cosine between picture and prompt.
    pub min_alignment: Option<f64>,
    /// Least lead of the own prompt's cosine over the highest one of the partition's other
    /// prompts; robust against a model whose cosines all lie close together. Below 0 it lets
    /// through what a near-equal prompt fits a little better.
    pub min_alignment_lead: Option<f64>,
    /// Greatest Hamming distance of 256-bit difference hashes at which two pictures of one
    /// partition count as the same.
    pub max_duplicate_distance: Option<u32>,
    /// Greatest Hamming distance of 256-bit difference hashes at which a picture counts as one of
    /// an evaluation set's.
    pub max_leak_distance: Option<u32>,
    /// Evaluation sets that no picture may come near to: built-in names, or folders with a
    /// `questions.jsonl`.
    #[serde(default)]
    pub evaluation_sets: Vec<String>,
    /// Whether a dialogue must agree with the facts.
    #[serde(default)]
    pub dialogue_agrees: bool,
    /// Whether the image scoring service is asked of every picture if it is safe, and those that are
    /// not are refused. Without it, only what diffusion says while rendering counts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub refuse_unsafe: bool,
}

/// MinHash similarities.
const SHARE: RangeInclusive<f64> = 0.0..=1.0;
const COSINE: RangeInclusive<f64> = -1.0..=1.0;
/// Differences of two cosines.
const LEAD: RangeInclusive<f64> = -2.0..=2.0;
/// Half of the pixels black and half of them white deviate by half of 255; nothing deviates more.
const DEVIATION: RangeInclusive<f64> = 0.0..=127.5;
/// Bits in which two difference hashes can differ.
const HASH_BITS: RangeInclusive<f64> = 0.0..=256.0;

impl Gates {
    /// # Errors
    /// A bound outside of what its measure can be: key and range are named.
    pub(super) fn check(&self) -> Result<()> {
        for (key, bound, range) in self.bounds() {
            let is_in_range = bound.is_none_or(|bound| range.contains(&bound));
            ensure!(
                is_in_range,
                "`synth.gates.{key}` is {}; it must lie in {}..={}",
                bound.unwrap_or_default(),
                range.start(),
                range.end()
            );
        }
        Ok(())
    }

    fn bounds(&self) -> [(&'static str, Option<f64>, RangeInclusive<f64>); 10] {
        let duplicate_distance = self.max_duplicate_distance.map(f64::from);
        let leak_distance = self.max_leak_distance.map(f64::from);
        [
            ("max_prompt_similarity", self.max_prompt_similarity, SHARE),
            ("max_prompt_cosine", self.max_prompt_cosine, COSINE),
            ("max_image_cosine", self.max_image_cosine, COSINE),
            (
                "max_dialogue_similarity",
                self.max_dialogue_similarity,
                SHARE,
            ),
            ("max_leak_similarity", self.max_leak_similarity, SHARE),
            ("min_pixel_deviation", self.min_pixel_deviation, DEVIATION),
            ("min_alignment", self.min_alignment, COSINE),
            ("min_alignment_lead", self.min_alignment_lead, LEAD),
            ("max_duplicate_distance", duplicate_distance, HASH_BITS),
            ("max_leak_distance", leak_distance, HASH_BITS),
        ]
    }
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            prompt_form: true,
            max_prompt_similarity: Some(0.9),
            max_prompt_cosine: None,
            max_image_cosine: None,
            max_dialogue_similarity: None,
            max_leak_similarity: None,
            min_pixel_deviation: Some(4.0),
            min_alignment: None,
            min_alignment_lead: Some(0.0),
            max_duplicate_distance: Some(NEAR_BITS),
            max_leak_distance: Some(NEAR_BITS),
            evaluation_sets: vec![default_real_benchmark()],
            dialogue_agrees: true,
            refuse_unsafe: false,
        }
    }
}
