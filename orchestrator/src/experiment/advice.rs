//! What helps where no sample was accepted: a gate is one reason among others.

use std::{cmp::Reverse, collections::BTreeMap};

use dataset::store::ACROSS_PARTITIONS;

use crate::synth::gates;

/// Most pieces of advice at a time: what helps against the commonest reasons is tried first.
const MAX_PIECES: usize = 3;

const GATE: &str = "loosen that gate under [synth.gates], or raise `synth.max_attempts`";

/// What to do about these reasons, counted; the commonest first, each piece once.
pub(super) fn advice(rejected: &BTreeMap<String, u64>) -> String {
    let mut reasons: Vec<(&String, &u64)> = rejected.iter().collect();
    reasons.sort_by_key(|(_, count)| Reverse(**count));
    let mut pieces: Vec<&str> = Vec::new();
    for (reason, _) in reasons {
        let piece = against(reason);
        if !pieces.contains(&piece) {
            pieces.push(piece);
        }
    }
    pieces.truncate(MAX_PIECES);
    match pieces.is_empty() {
        true => GATE.to_owned(),
        false => pieces.join("; "),
    }
}

/// What helps against a reason as a tally counts it: `not_made:` and a service's failure, in capitals;
/// `across_partitions:` and a measure; or the name of a gate.
fn against(reason: &str) -> &'static str {
    match reason.split_once(':') {
        Some((gates::NOT_MADE, failure)) => against_failure(failure),
        Some((ACROSS_PARTITIONS, measure)) => against_gate(measure),
        _ => against_gate(reason),
    }
}

fn against_gate(gate: &str) -> &'static str {
    match gate {
        gates::SAME_PROMPT => "ask for fewer samples under [synth.abilities]",
        _ => GATE,
    }
}

fn against_failure(reason: &str) -> &'static str {
    match reason {
        "LANGUAGE_MODEL_CONTEXT_FULL" => {
            "take a language model with a longer context, give it more tokens to answer in, or ask for fewer `synth.dialogue.rounds`"
        }
        "TOO_FEW_ROUNDS" => "raise `synth.dialogue.rounds`",
        "TOO_FEW_QUESTIONS" => "lower `synth.dialogue.rounds`, or have a language model write them",
        "UNUSABLE_ANSWERS" | "DISAGREES_WITH_FACTS" => {
            "take another language model, or raise `synth.max_attempts`"
        }
        "PROMPTS_EXHAUSTED" => "ask for fewer samples under [synth.abilities]",
        "PROMPT_TOO_LONG" => {
            "take an image model that reads longer prompts, or shorten the prompts"
        }
        "SEVERAL_IMAGES" => {
            "leave out the abilities with several pictures, or take another back-end"
        }
        _ if reason.starts_with("LANGUAGE_MODEL_") => {
            "look after the language model, or take another one"
        }
        _ => "mend what the service refuses, whose log says more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(reasons: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let reasons = reasons.iter();
        reasons
            .map(|&(reason, count)| (reason.to_owned(), count))
            .collect()
    }

    #[test]
    fn what_is_no_gate_is_not_loosened() {
        let full = advice(&counted(&[("not_made:LANGUAGE_MODEL_CONTEXT_FULL", 4)]));
        assert!(
            full.contains("longer context") && !full.contains("gate"),
            "{full}"
        );
        let few = advice(&counted(&[("not_made:TOO_FEW_QUESTIONS", 4)]));
        assert!(
            few.contains("synth.dialogue.rounds") && !few.contains("gate"),
            "{few}"
        );
        let other = advice(&counted(&[("not_made:NOT_FINITE", 1)]));
        assert!(!other.contains("gate"), "{other}");
        let same = advice(&counted(&[("across_partitions:repeated_prompt", 2)]));
        assert!(same.contains("fewer samples"), "{same}");
        let both = advice(&counted(&[
            ("not_made:UNUSABLE_ANSWERS", 1),
            ("blank_image", 3),
        ]));
        assert!(
            both.starts_with(GATE) && both.contains("another language model"),
            "{both}"
        );
    }
}
