//! What a report is made from. Plain data: no path, no clock, no service.
//!
//! Fractions run from 0 to 1 and are shown in percent; gains are fractions too and are shown in
//! points. A section whose data is empty is left out, so that a gallery alone is a report as well.

use serde::{Deserialize, Serialize};

/// All that one report says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Report {
    /// Name of the recipe or run, such as `demo`.
    pub title: String,
    /// One sentence on what was done. Empty: left out.
    pub summary: String,
    /// The models that are compared, in the order in which they are shown.
    pub arms: Vec<Arm>,
    /// Accepted pairs to show. Grouped by ability in the order of first appearance.
    pub pairs: Vec<Pair>,
    /// Accepted and wanted pairs per ability.
    pub quotas: Vec<Quota>,
    /// What each gate counted, in the order in which the gates ran.
    pub gates: Vec<Gate>,
    /// Examples of what was rejected.
    pub rejected_pairs: Vec<RejectedPair>,
    /// Losses of the runs.
    pub training_runs: Vec<TrainingRun>,
    /// Scores per benchmark. The first two stand side by side.
    pub benchmarks: Vec<Benchmark>,
    /// Questions with the answers of all arms, on one picture each.
    pub exchanges: Vec<Exchange>,
    /// The recipe as the person wrote it (TOML).
    pub recipe: String,
    /// Versions, hashes, settings: groups of name and value.
    pub records: Vec<RecordGroup>,
    /// How long each stage took.
    pub timings: Vec<Timing>,
}

/// One model under comparison; several training seeds of it are one arm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Name by which runs and scores refer to it, such as `synthetic`.
    pub name: String,
    /// What it is to the verdict.
    pub role: Role,
    /// One phrase, such as `base data and the synthesized pairs, 1,200 steps`.
    pub description: String,
}

/// What an arm is to the verdict: [`Role::Synthetic`] is held against the two others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Base data only.
    Baseline,
    /// Base data only, for as many steps as the synthetic arm.
    Control,
    /// With the synthesized pairs.
    Synthetic,
    /// Shown, but no part of the verdict.
    Other,
}

/// An encoded picture.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Picture {
    /// `image/png` or `image/jpeg`; anything else is shown as a named gap.
    pub media_type: String,
    /// The encoded file; base64 in JSON.
    #[serde(with = "base64_bytes")]
    pub data: Vec<u8>,
    /// Width in pixels; 0 when not known (a PNG's is then read from its header).
    pub width_px: u32,
    /// What can be seen, for who cannot see it; usually the prompt.
    pub alt: String,
}

/// An image–dialogue pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Ability it was made for.
    pub ability: String,
    /// Prompt of the picture.
    pub prompt: String,
    /// Its picture or pictures.
    pub pictures: Vec<Picture>,
    /// The dialogue.
    pub turns: Vec<Turn>,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// What is asked.
    pub question: String,
    /// What is answered.
    pub answer: String,
}

/// How many pairs of an ability were wanted and got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// The ability.
    pub ability: String,
    /// Pairs accepted.
    pub accepted_count: u64,
    /// Pairs the recipe asked for.
    pub wanted_count: u64,
    /// Attempts made.
    pub attempt_count: u64,
}

/// What one gate counted. What it did not check is never counted as passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Name, such as `alignment`.
    pub name: String,
    /// What it looks for, in one sentence.
    pub description: String,
    /// Samples checked and kept.
    pub passed_count: u64,
    /// Samples checked and rejected.
    pub rejected_count: u64,
    /// Samples that it had no model or data to check.
    pub not_checked_count: u64,
    /// Its reasons with their counts, most frequent first.
    pub reasons: Vec<Reason>,
}

/// A reason and how often it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// The reason, in words.
    pub text: String,
    /// How often.
    pub count: u64,
}

/// A sample that a gate rejected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectedPair {
    /// Ability it was made for.
    pub ability: String,
    /// Gate that rejected it.
    pub gate: String,
    /// Why, in words.
    pub reason: String,
    /// Prompt of the picture.
    pub prompt: String,
    /// The pictures, as far as they were made.
    pub pictures: Vec<Picture>,
}

/// The losses of one training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRun {
    /// Name of its arm.
    pub arm: String,
    /// Name of the run where an arm has several, such as `seed 2`; else empty.
    pub label: String,
    /// Losses by step, steps ascending.
    pub points: Vec<LossPoint>,
}

/// The loss at one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossPoint {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Mean cross-entropy in nats per supervised token. Not finite: left out of the curve.
    pub loss: f64,
}

/// The scores on one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// Name in the results, such as `ai_generated`.
    pub name: String,
    /// Name for people in the middle of a sentence, such as `AI-generated pictures`.
    pub title: String,
    /// One sentence on where its pictures come from.
    pub description: String,
    /// Scores per arm and ability; ability `all` for all together.
    pub scores: Vec<Score>,
    /// Differences of two arms per ability.
    pub comparisons: Vec<Comparison>,
}

/// Score of one arm on one ability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Name of the arm.
    pub arm: String,
    /// The ability, or `all`.
    pub ability: String,
    /// Questions answered.
    pub question_count: u32,
    /// Share of right answers.
    pub accuracy: Interval,
    /// The same with the pictures shuffled among the questions.
    pub shuffled_accuracy: Option<Interval>,
    /// Answers that could not be read as one.
    pub unparsed_count: u32,
}

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Difference of two arms on one ability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The ability, or `all`.
    pub ability: String,
    /// The arm that is held against the other.
    pub arm: String,
    /// The other: an arm's name, or the same name followed by ` (shuffled)`.
    pub reference: String,
    /// Accuracy of the arm minus that of the reference.
    pub gain: Interval,
    /// Two-sided p-value after Holm's correction over abilities; of `all`, uncorrected.
    pub p_value: f64,
}

/// One question on one picture and what every arm said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// Name of the benchmark.
    pub benchmark: String,
    /// Ability it tests.
    pub ability: String,
    /// The picture.
    pub picture: Picture,
    /// The question.
    pub question: String,
    /// Answers that count as right.
    pub accepted_answers: Vec<String>,
    /// What the arms said.
    pub answers: Vec<GivenAnswer>,
}

/// One arm's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenAnswer {
    /// Name of the arm.
    pub arm: String,
    /// What it said.
    pub text: String,
    /// Whether it was right.
    pub right: bool,
}

/// Names and values under a heading, such as `Versions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordGroup {
    /// The heading.
    pub title: String,
    /// Names with their values.
    pub entries: Vec<(String, String)>,
}

/// How long one stage took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// The stage, such as `train synthetic`.
    pub stage: String,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// A remark, such as `240 pictures`. Empty: none.
    pub note: String,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Picture")
            .field("alt", &self.alt)
            .field("media_type", &self.media_type)
            .field("size_bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// Bytes as a base64 string.
mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        STANDARD
            .decode(String::deserialize(deserializer)?)
            .map_err(D::Error::custom)
    }
}
