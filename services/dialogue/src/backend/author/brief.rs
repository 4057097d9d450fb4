//! What the model is told: rules with the ability's own words, the facts of every picture, the plan.

use super::plan::{About, MAX_CHOICES, Round};
use crate::error::Error;
use dataset::ability::{Ability, Draws};
use llm::{Message, Picture, Schema};
use proto::dataset::v1::{Ability as Told, DialogueExample, Facts, Prompt, QuestionKind, Subject};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, sync::Arc};

const DIALOGUE: &str = include_str!("../instructions/dialogue.md");
const SEVERAL: &str = include_str!("../instructions/several.md");
const VISION: &str = " You see the pictures too: where one does not show what its facts state, leave that out, and where it shows more, do not speak of it.";

/// Most hand-written conversations shown at a time; more are drawn from, by sample.
const MAX_EXAMPLES: usize = 12;
/// Names of the pictures; one conversation has no more of them.
pub(super) const ORDINALS: [&str; 4] = ["first", "second", "third", "fourth"];

/// Hash of the instructions, hexadecimal: another wording asks another question.
pub(super) fn instructions_sha256() -> String {
    let texts = [DIALOGUE, SEVERAL, VISION];
    let digest = texts
        .iter()
        .fold(Sha256::new(), |hasher, text| hasher.chain_update(text))
        .finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The question for one conversation. `pictures` is empty for a model that does not look.
pub(super) fn messages(
    ability: &Ability,
    prompts: &[Prompt],
    plan: &[Round],
    pictures: Vec<Picture>,
    draws: &mut Draws,
) -> Vec<Message> {
    let told = Told::from(ability);
    let is_several = prompts.len() > 1;
    let several = format!("{} pictures", prompts.len());
    let rules = filled(
        DIALOGUE,
        &[
            (
                "pictures",
                if is_several {
                    several.as_str()
                } else {
                    "a picture"
                },
            ),
            ("ability", &told.name),
            ("description", &told.description),
            ("cautions", &listed(&told.cautions)),
            ("vision", if pictures.is_empty() { "" } else { VISION }),
            ("several", if is_several { SEVERAL } else { "" }),
            ("examples", &examples(told.dialogue_examples, draws)),
        ],
    );
    let facts = prompts.iter().enumerate().map(|(index, prompt)| {
        let name = ORDINALS.get(index).copied().unwrap_or("next");
        format!("The {name} picture:\n{}", facts(prompt))
    });
    let facts: Vec<_> = facts.collect();
    let rounds = plan.iter().enumerate();
    let rounds: Vec<_> = rounds
        .map(|(index, round)| format!("{}. {}", index + 1, wording(round, prompts.len())))
        .collect();
    let ask = format!("{}\n\nThe plan:\n{}", facts.join("\n\n"), rounds.join("\n"));
    let ask = pictures
        .into_iter()
        .fold(Message::user(ask), Message::with_picture);
    vec![Message::system(rules), ask]
}

/// A round in words.
fn wording(round: &Round, image_count: usize) -> String {
    let mut words = kind_name(round.kind).to_owned();
    match round.about {
        About::All => words.push_str(&format!(", about all pictures together: {}", round.task)),
        About::One(index) if image_count > 1 => {
            let name = ORDINALS.get(index).copied().unwrap_or("next");
            let shown = match round.shows.as_slice() {
                [one] if *one == index => ", which this round shows",
                _ => "",
            };
            words.push_str(&format!(", about the {name} picture{shown}"));
        }
        About::One(_) => {}
    }
    if round.kind == QuestionKind::YesNo {
        let answer = if round.is_yes { "yes" } else { "no" };
        words.push_str(&format!("; the true answer is {answer}"));
    }
    words
}

/// A kind as the files and the model write it.
pub(super) fn kind_name(kind: QuestionKind) -> &'static str {
    match kind {
        QuestionKind::Caption => "caption",
        QuestionKind::YesNo => "yes_no",
        QuestionKind::Wh | QuestionKind::Unspecified => "wh",
        QuestionKind::EitherOr => "either_or",
        QuestionKind::MultipleChoice => "multiple_choice",
        QuestionKind::Negative => "negative",
        QuestionKind::FollowUp => "follow_up",
        QuestionKind::MultiImage => "multi_image",
    }
}

/// The facts of a picture, a line each. What is not stated has no line.
fn facts(prompt: &Prompt) -> String {
    let none = Facts::default();
    let facts = prompt.facts.as_ref().unwrap_or(&none);
    let mut lines: Vec<_> = facts.subjects.iter().map(subject).collect();
    let stated = [
        ("setting", &facts.scene),
        ("style", &facts.style),
        ("unusual", &facts.abnormality),
    ];
    let stated = stated.iter().filter(|(_, value)| !value.is_empty());
    lines.extend(stated.map(|(name, value)| format!("- {name}: {value}")));
    let name = |index: u32| {
        facts
            .subjects
            .get(index as usize)
            .map(|subject| &subject.name)
    };
    lines.extend(facts.relations.iter().filter_map(|relation| {
        let (one, other) = (name(relation.subject_index)?, name(relation.object_index)?);
        let how = relation.predicate.replace('_', " ");
        Some(format!("- relation: the {one} {how} the {other}"))
    }));
    lines.join("\n")
}

fn subject(subject: &Subject) -> String {
    let count = subject.count.max(1);
    let mut line = format!("- thing: {}, {count} of it", subject.name);
    for attribute in &subject.attributes {
        line.push_str(&format!(", {} {}", attribute.name, attribute.value));
    }
    line
}

fn examples(mut examples: Vec<DialogueExample>, draws: &mut Draws) -> String {
    if examples.len() > MAX_EXAMPLES {
        draws.shuffle(&mut examples);
        examples.truncate(MAX_EXAMPLES);
    }
    let lines = examples.iter().map(|example| {
        let DialogueExample {
            prompt,
            question,
            answer,
        } = example;
        format!("{prompt}: {question} {answer}")
    });
    listed(&lines.collect::<Vec<_>>())
}

fn listed(lines: &[String]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| format!("- {line}")).collect();
    lines.join("\n")
}

/// A text with its `{{names}}` replaced. One pass, so that what is put in is never read again.
fn filled(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("{{") {
        filled.push_str(before);
        let (name, after) = behind.split_once("}}").unwrap_or((behind, ""));
        let value = values.iter().find(|(known, _)| *known == name);
        filled.push_str(value.map_or("", |(_, value)| value));
        rest = after;
    }
    filled.push_str(rest);
    filled
}

/// The form of an answer to a plan: so many rounds, of no other kinds.
pub(super) fn schema(plan: &[Round]) -> Result<Arc<Schema>, Error> {
    let text = json!({"type": "string", "minLength": 1});
    let round_count = plan.len();
    let kinds: BTreeSet<_> = plan.iter().map(|round| round.kind).collect();
    let kinds: Vec<_> = kinds.into_iter().map(kind_name).collect();
    let turn = json!({
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": kinds},
            "question": text,
            "options": {"type": "array", "items": text, "maxItems": MAX_CHOICES},
            "answer": text,
            "answer_keywords": {"type": "array", "items": text, "maxItems": 8},
        },
        "required": ["kind", "question", "options", "answer", "answer_keywords"],
        "additionalProperties": false,
    });
    let turns = json!({
        "type": "array", "items": turn, "minItems": round_count, "maxItems": round_count,
    });
    let document = json!({
        "type": "object",
        "properties": {"turns": turns},
        "required": ["turns"],
        "additionalProperties": false,
    });
    Ok(Arc::new(Schema::new("conversation", document)?))
}
