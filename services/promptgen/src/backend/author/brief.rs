//! What the model is told: the instructions with the ability's own words put in.

use super::place::Place;
use crate::error::Error;
use dataset::ability::{Ability, Draws, FactPath};
use llm::{Message, Schema};
use proto::dataset::v1::{Ability as Told, PromptSyntax};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

const PROMPT: &str = include_str!("../instructions/prompt.md");
const KEYWORDS: &str = include_str!("../instructions/keywords.md");

/// Most words of a prompt.
pub(super) const MAX_WORDS: usize = 60;
/// Most hand-written prompts shown at a time; more are drawn from, by sample.
const MAX_EXAMPLES: usize = 12;

const WEBUI: &str = "Put two pairs of round brackets around the phrase with the main thing and around nothing else: ((red car)). Use no other brackets.";
const PLAIN: &str = "Use no brackets; the order alone says what matters.";

/// Hash of both texts, hexadecimal: another wording asks another question.
pub(super) fn instructions_sha256() -> String {
    let digest = Sha256::new()
        .chain_update(PROMPT)
        .chain_update(KEYWORDS)
        .finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The question for one prompt.
pub(super) fn prompt_messages(
    ability: &Ability,
    categories: &str,
    place: &Place,
    syntax: PromptSyntax,
    draws: &mut Draws,
) -> Vec<Message> {
    let told = Told::from(ability);
    let rules = filled(
        PROMPT,
        &[
            ("ability", &told.name),
            ("description", &told.description),
            ("max_words", &MAX_WORDS.to_string()),
            ("syntax", syntax_rule(syntax)),
            ("cautions", &listed(&told.cautions)),
            (
                "examples",
                &listed(&examples(told.prompt_examples, syntax, draws)),
            ),
            ("categories", categories),
            ("abnormality", abnormality_rule(is_abnormal(ability))),
        ],
    );
    vec![Message::system(rules), Message::user(order(ability, place))]
}

/// The question for more keywords.
pub(super) fn keyword_messages(ability: &Ability, count: usize) -> Vec<Message> {
    let told = Told::from(ability);
    let known: Vec<String> = told.keywords.into_iter().map(|known| known.text).collect();
    let rules = filled(
        KEYWORDS,
        &[
            ("ability", &told.name),
            ("description", &told.description),
            ("cautions", &listed(&told.cautions)),
            ("keywords", &known.join(", ")),
            ("count", &count.to_string()),
        ],
    );
    let ask = format!("Write {count} new keywords.");
    vec![Message::system(rules), Message::user(ask)]
}

/// Whether the ability's pictures are about something unusual.
pub(super) fn is_abnormal(ability: &Ability) -> bool {
    let combinations = ability.combinations();
    combinations
        .iter()
        .any(|found| !found.facts.abnormality.is_empty())
}

/// What this one prompt is to be about.
fn order(ability: &Ability, place: &Place) -> String {
    let Place {
        keyword,
        style,
        scene,
    } = place;
    let main = ability.aspects().get(ability.main_aspect());
    let stands = match main.map(|aspect| &aspect.fact) {
        Some(FactPath::Attribute(name)) => {
            format!("It is the value of the attribute `{name}` of the first subject.")
        }
        Some(FactPath::Scene) => "It is the scene.".to_owned(),
        Some(FactPath::Style) => "It is the style.".to_owned(),
        // The keywords of an ability about categories are things.
        Some(FactPath::Subject | FactPath::Category) | None => {
            "It is the name of the first subject.".to_owned()
        }
    };
    let mut lines = vec![format!("Keyword: {keyword}. {stands}")];
    for (name, value) in [("Setting", scene), ("Style", style)] {
        if !value.is_empty() {
            lines.push(format!("{name}: {value}. Use these words."));
        }
    }
    lines.push("Write the prompt and its facts.".to_owned());
    lines.join("\n")
}

fn syntax_rule(syntax: PromptSyntax) -> &'static str {
    match syntax {
        PromptSyntax::Plain => PLAIN,
        PromptSyntax::Webui | PromptSyntax::Unspecified => WEBUI,
    }
}

fn abnormality_rule(is_abnormal: bool) -> &'static str {
    match is_abnormal {
        true => "what is unusual, as a short sentence in small letters: the bus is upside down.",
        false => "\"\", for nothing in these pictures is unusual.",
    }
}

/// Examples in the syntax asked for.
fn examples(mut examples: Vec<String>, syntax: PromptSyntax, draws: &mut Draws) -> Vec<String> {
    if examples.len() > MAX_EXAMPLES {
        draws.shuffle(&mut examples);
        examples.truncate(MAX_EXAMPLES);
    }
    if syntax == PromptSyntax::Plain {
        for example in &mut examples {
            example.retain(|character| !matches!(character, '(' | ')'));
        }
    }
    examples
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

/// The form of a prompt's answer.
pub(super) fn prompt_schema() -> Result<Arc<Schema>, Error> {
    let text = json!({"type": "string"});
    let index = json!({"type": "integer", "minimum": 0});
    let attribute = object(json!({"name": text, "value": text}));
    let subject = object(json!({
        "name": {"type": "string", "minLength": 1},
        "category": text,
        "count": {"type": "integer", "minimum": 1, "maximum": 100},
        "attributes": {"type": "array", "items": attribute},
    }));
    let relation =
        object(json!({"subject_index": index, "predicate": text, "object_index": index}));
    let facts = object(json!({
        "subjects": {"type": "array", "items": subject, "minItems": 1, "maxItems": 8},
        "scene": text,
        "style": text,
        "abnormality": text,
        "relations": {"type": "array", "items": relation},
    }));
    let prompt = json!({"type": "string", "minLength": 1});
    let document = object(json!({"prompt": prompt, "facts": facts}));
    Ok(Arc::new(Schema::new("image_prompt", document)?))
}

/// The form of a list of keywords.
pub(super) fn keyword_schema() -> Result<Arc<Schema>, Error> {
    let word = json!({"type": "string", "minLength": 1, "maxLength": 40});
    let document = object(json!({"keywords": {"type": "array", "items": word}}));
    Ok(Arc::new(Schema::new("keywords", document)?))
}

/// An object with exactly these properties.
fn object(properties: serde_json::Value) -> serde_json::Value {
    let names: Vec<_> = properties
        .as_object()
        .map(|properties| properties.keys().cloned().collect())
        .unwrap_or_default();
    json!({
        "type": "object",
        "properties": properties,
        "required": names,
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::filled;

    #[test]
    fn what_is_put_in_is_not_read_again() {
        let values = [("a", "{{b}}"), ("b", "x")];
        assert_eq!(filled("1 {{a}} 2 {{b}} 3", &values), "1 {{b}} 2 x 3");
    }
}
