//! Gates on dialogues.

pub use dataset::duplicates::dialogue_words as words;
use dataset::minhash::Signature;
use proto::dataset::v1::{Conversation, GateResult, Role};

use super::{DIALOGUE, NEAR_DIALOGUE, TEXT_LEAK, judged, not_checked, not_too_near};
use crate::recipe::Gates;

/// Refuses a dialogue whose words were nearly written before: the highest MinHash similarity.
pub fn repetition(gates: &Gates, similarity: f64) -> Option<GateResult> {
    let bound = gates.max_dialogue_similarity?;
    Some(not_too_near(
        NEAR_DIALOGUE,
        similarity,
        bound,
        "accepted before",
    ))
}

/// Refuses a dialogue that contradicts the facts, by what the checker found.
pub fn agreement(gates: &Gates, disagreements: &[String]) -> Option<GateResult> {
    let problem = (!disagreements.is_empty()).then(|| disagreements.join("; "));
    gates.dialogue_agrees.then(|| judged(DIALOGUE, problem))
}

/// Refuses a dialogue one of whose questions, with its answer, an evaluation set nearly has; `None`
/// where the recipe names no set.
pub fn leak(
    gates: &Gates,
    conversation: &Conversation,
    evaluation: Option<&[Signature]>,
) -> Option<GateResult> {
    let bound = gates.max_leak_similarity?;
    let Some(evaluation) = evaluation else {
        return Some(not_checked(TEXT_LEAK, "the recipe names no evaluation set"));
    };
    let nearest = |pair: String| {
        let own = Signature::of(&pair);
        let similarity = |known| own.as_ref().map_or(0.0, |own| own.similarity(known));
        evaluation.iter().map(similarity).fold(0.0, f64::max)
    };
    let nearest = pairs(conversation).map(nearest).fold(0.0, f64::max);
    Some(not_too_near(
        TEXT_LEAK,
        nearest,
        bound,
        "of an evaluation set",
    ))
}

/// Each question with its answer.
fn pairs(conversation: &Conversation) -> impl Iterator<Item = String> {
    let rounds = conversation.turns.chunks_exact(2);
    let rounds = rounds.filter(|round| round[0].role() == Role::User);
    rounds.map(|round| format!("{} {}", round[0].text, round[1].text))
}
