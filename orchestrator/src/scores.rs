//! `eval.json`: the scores of a run, as scripts read them.

use proto::eval::v1::{AbilityResult, Comparison, EvaluationResult, Interval};
use serde::{Deserialize, Serialize};

/// All scores of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Scores {
    /// Per benchmark, candidate and ability; ability `all` is all together.
    pub accuracy: Vec<Accuracy>,
    /// Per benchmark, ability and pair of candidates.
    pub gains: Vec<Gain>,
}

/// Accuracy of one candidate on one ability of one benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Accuracy {
    /// Benchmark by name: `ai_generated` or `real`.
    pub benchmark: String,
    /// Candidate by name: `baseline`, `control` or `synthetic`.
    pub candidate: String,
    /// Ability, or `all`.
    pub ability: String,
    /// Questions answered.
    pub questions: u32,
    /// Accuracy, 0 to 1, with its 95 % interval.
    pub accuracy: Estimate,
    /// Accuracy with the pictures shuffled among the questions.
    pub shuffled: Option<Estimate>,
    /// Questions whose answer could not be read.
    pub unparsed: u32,
}

/// Difference of two candidates on one ability of one benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gain {
    /// Benchmark by name.
    pub benchmark: String,
    /// Ability, or `all`.
    pub ability: String,
    /// The candidate.
    pub candidate: String,
    /// What it is held against.
    pub reference: String,
    /// Accuracy of candidate minus reference, paired bootstrap over pictures and training seeds.
    pub gain: Estimate,
    /// Two-sided bootstrap p-value.
    pub p: f64,
    /// The same after Holm's correction over the abilities.
    pub p_holm: f64,
}

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Scores {
    /// The gain of `candidate` over `reference` on one ability of one benchmark.
    pub fn gain(
        &self,
        benchmark: &str,
        ability: &str,
        candidate: &str,
        reference: &str,
    ) -> Option<&Gain> {
        self.gains.iter().find(|gain| {
            gain.benchmark == benchmark
                && gain.ability == ability
                && gain.candidate == candidate
                && gain.reference == reference
        })
    }
}

impl From<&EvaluationResult> for Scores {
    fn from(result: &EvaluationResult) -> Self {
        Self {
            accuracy: result.abilities.iter().map(Accuracy::from).collect(),
            gains: result.comparisons.iter().map(Gain::from).collect(),
        }
    }
}

impl From<&AbilityResult> for Accuracy {
    fn from(result: &AbilityResult) -> Self {
        Self {
            benchmark: result.benchmark.clone(),
            candidate: result.candidate.clone(),
            ability: result.ability.clone(),
            questions: result.question_count,
            accuracy: result
                .accuracy
                .as_ref()
                .map(Estimate::from)
                .unwrap_or_default(),
            shuffled: result.shuffled_accuracy.as_ref().map(Estimate::from),
            unparsed: result.unparsed_count,
        }
    }
}

impl From<&Comparison> for Gain {
    fn from(comparison: &Comparison) -> Self {
        Self {
            benchmark: comparison.benchmark.clone(),
            ability: comparison.ability.clone(),
            candidate: comparison.candidate.clone(),
            reference: comparison.reference.clone(),
            gain: comparison
                .gain
                .as_ref()
                .map(Estimate::from)
                .unwrap_or_default(),
            p: comparison.p_value,
            p_holm: comparison.p_value_holm,
        }
    }
}

impl From<&Interval> for Estimate {
    fn from(interval: &Interval) -> Self {
        Self {
            mean: interval.mean,
            low: interval.low,
            high: interval.high,
        }
    }
}
