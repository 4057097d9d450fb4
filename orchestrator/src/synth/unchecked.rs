//! What a recipe asks for and nobody can check: said before any work, since such a gate lets everything
//! through.

use std::fmt;

use anyhow::Result;
use proto::diffusion::v1::SafetyVerdict;

use super::{
    Plan, gates,
    makers::grey,
    stages::{self, Measured},
};
use crate::suite::Suite;

/// A gate that has nothing to judge by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unchecked {
    /// Name of the gate.
    pub gate: &'static str,
    /// What is lacking.
    lack: &'static str,
    /// What to do.
    advice: &'static str,
}

impl fmt::Display for Unchecked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gate, lack, advice } = self;
        write!(formatter, "{gate} will not be checked: {lack}; {advice}")
    }
}

/// The gates of a plan that nobody can hold its samples against. Models are asked about a small grey
/// picture and its name.
///
/// # Errors
/// A service that does not answer.
pub async fn unchecked(suite: &Suite, plan: &Plan) -> Result<Vec<Unchecked>> {
    let mut found = without_sets(plan);
    found.extend(unmeasured(suite, plan).await?);
    if plan.gates.max_prompt_cosine.is_some() {
        let model = &plan.measure.embedding_model;
        let vectors = stages::embeddings(suite, model, vec!["grey".to_owned()]).await?;
        let lack = "no model embeds texts";
        let is_lacking = vectors.is_none();
        found.extend(is_lacking.then(|| no_model(gates::NEAR_MEANING, lack, NAME_EMBEDDING)));
    }
    if plan.gates.refuse_unsafe {
        let verdict = stages::safety(suite, &plan.measure, grey()?).await?;
        let silent = [SafetyVerdict::NotChecked, SafetyVerdict::Unspecified];
        let is_silent = verdict.is_ok_and(|verdict| silent.contains(&verdict));
        let lack =
            "no model tells whether a picture is safe, unless the image model brings a checker";
        found.extend(is_silent.then(|| no_model(gates::SAFETY, lack, NAME_SAFETY)));
    }
    Ok(found)
}

/// Not a gate, and as idle without a model: then the first picture that passes is kept.
const BEST_OF_SEEDS: &str = "seeds_per_prompt";
const NAME_SCORING: &str = "name one as `scoring_model` under [synth.measure]";
const NAME_EMBEDDING: &str = "name one as `embedding_model` under [synth.measure]";
const NAME_SAFETY: &str = "name one as `safety_model` under [synth.measure]";

fn no_model(gate: &'static str, lack: &'static str, advice: &'static str) -> Unchecked {
    Unchecked { gate, lack, advice }
}

/// Bounds on the overlap with evaluation sets, and sets, of which one lacks the other.
fn without_sets(plan: &Plan) -> Vec<Unchecked> {
    let rules = &plan.gates;
    let has_sets = !rules.evaluation_sets.is_empty();
    let bounds = [
        (gates::LEAK, rules.max_leak_distance.is_some()),
        (gates::TEXT_LEAK, rules.max_leak_similarity.is_some()),
    ];
    let is_bounded = bounds.iter().any(|(_, is_set)| *is_set);
    if has_sets && !is_bounded {
        return vec![Unchecked {
            gate: gates::LEAK,
            lack: "`evaluation_sets` names sets, and no bound says how near they may be",
            advice: "set `max_leak_distance` or `max_leak_similarity` under [synth.gates]",
        }];
    }
    let asked = bounds
        .into_iter()
        .filter(|(_, is_set)| *is_set && !has_sets);
    let lacking = asked.map(|(gate, _)| Unchecked {
        gate,
        lack: "the recipe names no evaluation set",
        advice: "name some as `evaluation_sets` under [synth.gates], such as \"builtin:nano-real\"",
    });
    lacking.collect()
}

/// The gates that want pictures scored, where nobody does.
async fn unmeasured(suite: &Suite, plan: &Plan) -> Result<Vec<Unchecked>> {
    let rules = &plan.gates;
    let asked = [
        (gates::ALIGNMENT, rules.min_alignment.is_some()),
        (gates::ALIGNMENT_LEAD, rules.min_alignment_lead.is_some()),
        (gates::NEAR_CONTENT, rules.max_image_cosine.is_some()),
        (BEST_OF_SEEDS, plan.seeds_per_prompt > 1),
    ];
    if asked.iter().all(|(_, is_set)| !is_set) {
        return Ok(Vec::new());
    }
    let (model, wants_vector) = (
        &plan.measure.scoring_model,
        rules.max_image_cosine.is_some(),
    );
    let texts = vec!["grey".to_owned()];
    let measured = stages::measure(suite, model, grey()?, texts, wants_vector).await?;
    // A model that cannot measure this one picture is there.
    let Ok(measured) = measured else {
        return Ok(Vec::new());
    };
    let Measured { cosines, vector } = measured.unwrap_or_default();
    let is_lacking = |gate: &str| match gate {
        gates::NEAR_CONTENT => vector.is_empty(),
        _ => cosines.is_empty(),
    };
    let lacking = asked
        .into_iter()
        .filter(|&(gate, is_set)| is_set && is_lacking(gate));
    let lacking = lacking.map(|(gate, _)| no_model(gate, "no model scores pictures", NAME_SCORING));
    Ok(lacking.collect())
}
