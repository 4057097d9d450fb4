//! Scores of a run, benchmark by benchmark.

use crate::{
    report::{Benchmark, Comparison, Interval, Score},
    scores::{Estimate, Scores},
};

/// Scores and gains on the two benchmarks.
pub(super) fn results(scores: &Scores) -> Vec<Benchmark> {
    let described = [
        (
            "ai_generated",
            "AI-generated pictures",
            "Rendered by the same diffusion model from held-out prompts and seeds.",
        ),
        (
            "real",
            "another artist's pictures",
            "Drawn by people, in a style that no training picture has.",
        ),
    ];
    let of = |(name, title, description): (&str, &str, &str)| {
        let scores_of = scores
            .accuracy
            .iter()
            .filter(|row| row.benchmark == name)
            .map(|row| Score {
                arm: row.candidate.clone(),
                ability: row.ability.clone(),
                question_count: row.questions,
                accuracy: row.accuracy.into(),
                shuffled_accuracy: row.shuffled.map(Interval::from),
                unparsed_count: row.unparsed,
            });
        let comparisons = scores
            .gains
            .iter()
            .filter(|gain| gain.benchmark == name)
            .map(|gain| Comparison {
                ability: gain.ability.clone(),
                arm: gain.candidate.clone(),
                reference: gain.reference.clone(),
                gain: gain.gain.into(),
                p_value: gain.p_holm,
            });
        Benchmark {
            name: name.to_owned(),
            title: title.to_owned(),
            description: description.to_owned(),
            scores: scores_of.collect(),
            comparisons: comparisons.collect(),
        }
    };
    described
        .map(of)
        .into_iter()
        .filter(|benchmark| !benchmark.scores.is_empty())
        .collect()
}

impl From<Estimate> for Interval {
    fn from(estimate: Estimate) -> Self {
        Self {
            mean: estimate.mean,
            low: estimate.low,
            high: estimate.high,
        }
    }
}
