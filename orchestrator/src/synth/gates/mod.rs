//! What a sample must pass. Every gate gives a verdict with its measured value and its bound;
//! a gate that has nothing to measure with says "not checked" and never passes for a check.
//!
//! * `prompt`: before a picture is rendered.
//! * `picture`: what was rendered.
//! * `dialogue`: what was written about it.
//! * `seen`: what the partition holds already, to tell repetitions.

pub mod dialogue;
pub mod picture;
pub mod prompt;
mod seen;

pub use seen::{Held, Traits};

use std::collections::BTreeSet;

use proto::dataset::v1::{GateResult, GateVerdict};

use crate::recipe::Gates;

/// Name of the gate that looks at a prompt's form.
pub const PROMPT_FORM: &str = "prompt_form";
/// Name of the gate that refuses, in a later round, the very prompts of an earlier sample. The first
/// round's are compared when all its partitions are there.
pub const SAME_PROMPT: &str = "repeated_prompt";
/// Name of the gate that refuses prompts whose words were nearly used before.
pub const NEAR_PROMPT: &str = "near_duplicate_prompt";
/// Name of the gate that refuses prompts whose meaning was nearly used before.
pub const NEAR_MEANING: &str = "near_duplicate_meaning";
/// Name of the gate that refuses blank pictures.
pub const BLANK: &str = "blank_image";
/// Name of the gate that holds a picture against its prompt.
pub const ALIGNMENT: &str = "alignment";
/// Name of the gate that holds a picture's prompt against the partition's other prompts.
pub const ALIGNMENT_LEAD: &str = "alignment_lead";
/// Name of the gate that refuses near-equal pictures.
pub const DUPLICATE: &str = "near_duplicate_image";
/// Name of the gate that refuses pictures whose content was nearly shown before.
pub const NEAR_CONTENT: &str = "near_duplicate_content";
/// Name of the gate that refuses pictures of an evaluation set.
pub const LEAK: &str = "evaluation_overlap";
/// Name of the gate that refuses texts of an evaluation set.
pub const TEXT_LEAK: &str = "evaluation_text_overlap";
/// Name of the gate that asks a safety model.
pub const SAFETY: &str = "safety";
/// Name of the gate that refuses dialogues whose words were nearly written before.
pub const NEAR_DIALOGUE: &str = "near_duplicate_dialogue";
/// Name of the gate that holds the dialogue against the facts.
pub const DIALOGUE: &str = "dialogue_facts";
/// Reason counted where the prompt, the picture or the dialogue could not be made at all.
pub const NOT_MADE: &str = "not_made";

/// A check that could not be made.
pub fn not_checked(gate: &str, reason: &str) -> GateResult {
    GateResult {
        gate: gate.to_owned(),
        verdict: GateVerdict::NotChecked.into(),
        value: None,
        threshold: None,
        reason: reason.to_owned(),
    }
}

/// Why alignment was not checked, where it is for want of a model.
const NO_SCORER: &str = "no model measures alignment";

/// The gates that the recipe asks for and that nothing could judge a sample by; each once, however many
/// pictures it has. That a prompt has no other beside it to lead over is no such lack.
pub fn unchecked<'a>(rules: &Gates, results: &'a [GateResult]) -> BTreeSet<&'a str> {
    let is_lack = |result: &&GateResult| match result.gate.as_str() {
        SAFETY => rules.refuse_unsafe,
        ALIGNMENT_LEAD => result.reason == NO_SCORER,
        _ => true,
    };
    let unjudged = |result: &&GateResult| result.verdict() == GateVerdict::NotChecked;
    let lacks = results.iter().filter(unjudged).filter(is_lack);
    lacks.map(|result| result.gate.as_str()).collect()
}

/// A check without a measured value.
pub fn judged(gate: &str, problem: Option<String>) -> GateResult {
    let verdict = if problem.is_none() {
        GateVerdict::Passed
    } else {
        GateVerdict::Rejected
    };
    GateResult {
        gate: gate.to_owned(),
        verdict: verdict.into(),
        value: None,
        threshold: None,
        reason: problem.unwrap_or_default(),
    }
}

/// The gate that rejected the sample, if any did.
pub fn rejection(results: &[GateResult]) -> Option<&GateResult> {
    results
        .iter()
        .find(|result| result.verdict() == GateVerdict::Rejected)
}

/// Refuses a value over its bound: the similarity with the nearest of `those`.
fn not_too_near(gate: &str, nearest: f64, bound: f64, those: &str) -> GateResult {
    verdict(gate, nearest <= bound, nearest, bound, || {
        format!("its similarity with one {those} is {nearest:.2}, more than {bound:.2}")
    })
}

fn verdict(
    gate: &str,
    passed: bool,
    value: f64,
    bound: f64,
    reason: impl FnOnce() -> String,
) -> GateResult {
    GateResult {
        gate: gate.to_owned(),
        verdict: if passed {
            GateVerdict::Passed
        } else {
            GateVerdict::Rejected
        }
        .into(),
        value: Some(value),
        threshold: Some(bound),
        reason: if passed { String::new() } else { reason() },
    }
}
