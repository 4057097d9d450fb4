//! What the gates came to.

use std::collections::BTreeMap;

use dataset::store::ACROSS_PARTITIONS;

use super::samples::Verdicts;
use crate::{
    experiment::Record,
    report::{Gate, Reason},
    synth::{Summary, gates},
};

/// Name and one sentence of each gate, in the order in which they run.
const GATES: [(&str, &str); 15] = [
    (gates::NOT_MADE, "A stage could not make the item."),
    (
        gates::PROMPT_FORM,
        "The prompt is a description in good form, and names its keyword.",
    ),
    (
        gates::NEAR_PROMPT,
        "No accepted prompt of the partition has nearly the same words.",
    ),
    (
        gates::NEAR_MEANING,
        "No accepted prompt of the partition means nearly the same.",
    ),
    (gates::BLANK, "The picture is not one colour."),
    (
        gates::ALIGNMENT,
        "Picture and prompt have a high enough cosine.",
    ),
    (
        gates::ALIGNMENT_LEAD,
        "The picture fits its own prompt better than any of the partition's other prompts.",
    ),
    (
        gates::DUPLICATE,
        "No accepted picture of the partition is nearly the same.",
    ),
    (
        gates::NEAR_CONTENT,
        "No accepted picture of the partition shows nearly the same.",
    ),
    (
        gates::LEAK,
        "No picture of an evaluation set is nearly the same.",
    ),
    (gates::SAFETY, "No safety model has an objection."),
    (
        gates::NEAR_DIALOGUE,
        "No accepted dialogue of the partition has nearly the same words.",
    ),
    (
        gates::TEXT_LEAK,
        "No question of an evaluation set has nearly the same words and answer.",
    ),
    (gates::DIALOGUE, "Every answer agrees with the facts."),
    (
        ACROSS_PARTITIONS,
        "No accepted sample of another partition has the same prompt, nor nearly the same picture or words.",
    ),
];

/// What every gate came to, in the order in which they ran.
pub(super) fn results(record: &Record, verdicts: &BTreeMap<String, Verdicts>) -> Vec<Gate> {
    GATES
        .iter()
        .map(|&(name, description)| gate(name, description, &record.synthesis, verdicts.get(name)))
        .filter(|gate| gate.passed_count + gate.rejected_count + gate.not_checked_count > 0)
        .collect()
}

fn gate(name: &str, description: &str, summary: &Summary, verdicts: Option<&Verdicts>) -> Gate {
    let reason_of = |key: &str| {
        key.strip_prefix(name)
            .map(|rest| rest.trim_start_matches(':').to_owned())
    };
    let is_its = |key: &&String| key.as_str() == name || key.starts_with(&format!("{name}:"));
    let rejected = || summary.rejected.iter().filter(|(key, _)| is_its(key));
    let reasons = rejected().filter_map(|(key, &count)| {
        Some(Reason {
            text: reason_of(key)?,
            count,
        })
    });
    let unchecked = summary.unchecked.get(name).map(|&count| Reason {
        text: "asked for by the recipe, and nothing could check it".to_owned(),
        count,
    });
    Gate {
        name: name.to_owned(),
        description: description.to_owned(),
        passed_count: verdicts.map_or(0, |verdicts| verdicts.passed_count),
        rejected_count: rejected().map(|(_, count)| count).sum(),
        not_checked_count: verdicts.map_or(0, |verdicts| verdicts.not_checked_count),
        reasons: reasons
            .filter(|reason| !reason.text.is_empty())
            .chain(unchecked)
            .collect(),
    }
}
