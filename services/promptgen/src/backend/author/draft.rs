//! A prompt as the model wrote it, held against what was ordered.

use super::{
    brief::{MAX_WORDS, is_abnormal},
    place::Place,
};
use dataset::{
    ability::{Ability, FactPath, Value},
    question::mentions,
};
use models::prompt_weighting::{Piece, parse};
use proto::dataset::v1::{
    Attribute, Facts, PromptSyntax, Relation, Subject as SubjectFacts, WeightedText,
};
use serde::Deserialize;
use std::collections::BTreeSet;

/// The model's answer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Draft {
    prompt: String,
    facts: DraftFacts,
}

#[derive(Clone, Debug, Deserialize)]
struct DraftFacts {
    subjects: Vec<Subject>,
    scene: String,
    style: String,
    abnormality: String,
    relations: Vec<DraftRelation>,
}

#[derive(Clone, Debug, Deserialize)]
struct Subject {
    name: String,
    category: String,
    count: u32,
    attributes: Vec<Property>,
}

#[derive(Clone, Debug, Deserialize)]
struct Property {
    name: String,
    value: String,
}

#[derive(Clone, Debug, Deserialize)]
struct DraftRelation {
    subject_index: u32,
    predicate: String,
    object_index: u32,
}

/// What a draft is held against.
pub(super) struct Order<'a> {
    pub(super) ability: &'a Ability,
    pub(super) place: &'a Place,
    pub(super) syntax: PromptSyntax,
    pub(super) excluded_texts: &'a BTreeSet<String>,
}

impl Draft {
    /// Its text, on one line.
    pub(super) fn text(&self) -> String {
        self.prompt.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Its facts, in small letters; categories that no ability has are left out.
    pub(super) fn facts(&self, is_category: impl Fn(&str) -> bool) -> Facts {
        let small = |text: &String| text.trim().to_lowercase();
        let subject = |subject: &Subject| SubjectFacts {
            name: small(&subject.name),
            category: Some(small(&subject.category))
                .filter(|name| is_category(name))
                .unwrap_or_default(),
            count: subject.count,
            attributes: subject
                .attributes
                .iter()
                .map(|property| Attribute {
                    name: small(&property.name),
                    value: small(&property.value),
                })
                .collect(),
        };
        let relation = |relation: &DraftRelation| Relation {
            subject_index: relation.subject_index,
            predicate: small(&relation.predicate),
            object_index: relation.object_index,
        };
        let facts = &self.facts;
        Facts {
            subjects: facts.subjects.iter().map(subject).collect(),
            scene: small(&facts.scene),
            style: small(&facts.style),
            abnormality: facts.abnormality.trim().trim_end_matches('.').to_owned(),
            relations: facts.relations.iter().map(relation).collect(),
        }
    }
}

/// The parts of a prompt with their weights.
pub(super) fn parts(text: &str, syntax: PromptSyntax) -> Vec<WeightedText> {
    let pieces = match syntax {
        PromptSyntax::Plain => vec![Piece::Text(text.to_owned(), 1.0)],
        PromptSyntax::Webui | PromptSyntax::Unspecified => parse(text),
    };
    let mut parts = Vec::new();
    for piece in pieces {
        let Piece::Text(text, weight) = piece else {
            continue;
        };
        let phrases = text.split(',').map(str::trim);
        let phrases = phrases.filter(|phrase| !phrase.is_empty());
        parts.extend(phrases.map(|phrase| WeightedText {
            text: phrase.to_owned(),
            weight,
        }));
    }
    parts
}

impl Order<'_> {
    /// Everything that is wrong with a draft, as sentences for the model.
    pub(super) fn complaints(&self, text: &str, facts: &Facts) -> Vec<String> {
        let checks = [
            self.length(text),
            self.brackets(text, facts),
            self.keyword(text, facts),
            self.settings(text, facts),
            unsaid(text, facts, self.silent_attribute()),
            self.abnormality(facts),
            relations(facts),
            self.repetition(text),
        ];
        checks.into_iter().flatten().collect()
    }

    fn length(&self, text: &str) -> Option<String> {
        let count = text.split_whitespace().count();
        (count >= MAX_WORDS)
            .then(|| format!("the prompt has {count} words; write fewer than {MAX_WORDS}"))
    }

    fn brackets(&self, text: &str, facts: &Facts) -> Option<String> {
        let is_bracket = |mark: char| matches!(mark, '(' | ')' | '[' | ']' | '{' | '}');
        if self.syntax == PromptSyntax::Plain {
            return text
                .contains(is_bracket)
                .then(|| "the prompt holds a bracket; use none".to_owned());
        }
        let inside = text
            .strip_prefix("((")
            .and_then(|rest| rest.split_once("))"));
        let Some((inside, after)) = inside else {
            return Some(
                "the prompt does not begin with its main thing in closed double brackets, as ((fox))"
                    .to_owned(),
            );
        };
        if inside.contains(is_bracket) || after.contains(is_bracket) {
            return Some("one pair of double brackets is all that the prompt may hold".to_owned());
        }
        let subject = facts.subjects.first().map(|subject| &subject.name);
        let main = match self.is_spoken() {
            true => Some(&self.place.keyword),
            false => subject,
        };
        let main = main.filter(|main| !says(inside, main))?;
        Some(format!("the double brackets do not hold `{main}`"))
    }

    fn keyword(&self, text: &str, facts: &Facts) -> Option<String> {
        let keyword = &self.place.keyword;
        if self.is_spoken() && !says(text, keyword) {
            return Some(format!("the prompt does not hold the keyword `{keyword}`"));
        }
        let truth = self.ability.truth(self.ability.main_aspect(), facts);
        let is_keyword =
            |truth: &Value| truth.is_named(keyword) || truth.accepted().contains(keyword);
        if truth.as_ref().is_some_and(is_keyword) {
            return None;
        }
        Some(format!(
            "the facts do not state the keyword `{keyword}` {}",
            self.place_of_keyword()
        ))
    }

    fn place_of_keyword(&self) -> String {
        match self.main_fact() {
            Some(FactPath::Scene) => "as the scene".to_owned(),
            Some(FactPath::Style) => "as the style".to_owned(),
            Some(FactPath::Attribute(name)) => {
                format!("as the attribute `{name}` of the first subject")
            }
            Some(FactPath::Subject | FactPath::Category) | None => {
                "as the first subject".to_owned()
            }
        }
    }

    fn main_fact(&self) -> Option<&FactPath> {
        let aspects = self.ability.aspects();
        aspects
            .get(self.ability.main_aspect())
            .map(|aspect| &aspect.fact)
    }

    /// Whether prompts hold the keyword itself. Those of `wrong color` hold a blue banana instead.
    fn is_spoken(&self) -> bool {
        let known = self.ability.combinations();
        let is_own = |keyword: &str| keyword == self.place.keyword;
        let has_own = known.iter().any(|found| is_own(&found.keyword));
        let mut own = known
            .iter()
            .filter(|found| !has_own || is_own(&found.keyword));
        own.any(|found| says(&found.plain_text(), &found.keyword))
    }

    /// The attribute that holds a keyword which is not spoken.
    fn silent_attribute(&self) -> Option<&str> {
        match self.main_fact() {
            Some(FactPath::Attribute(name)) if !self.is_spoken() => Some(name),
            _ => None,
        }
    }

    fn settings(&self, text: &str, facts: &Facts) -> Option<String> {
        let Place { scene, style, .. } = self.place;
        let pairs = [
            ("scene", scene, &facts.scene),
            ("style", style, &facts.style),
        ];
        pairs.into_iter().find_map(|(name, ordered, stated)| {
            if ordered.to_lowercase() != *stated {
                return Some(format!(
                    "the facts' {name} must be `{ordered}`, word for word"
                ));
            }
            let is_said = ordered.is_empty() || says(text, ordered);
            (!is_said).then(|| format!("the prompt does not hold the {name} `{ordered}`"))
        })
    }

    fn abnormality(&self, facts: &Facts) -> Option<String> {
        match (is_abnormal(self.ability), facts.abnormality.is_empty()) {
            (true, true) => Some("the facts do not say what is unusual".to_owned()),
            (false, false) => {
                Some("nothing may be unusual in this picture; leave abnormality empty".to_owned())
            }
            _ => None,
        }
    }

    fn repetition(&self, text: &str) -> Option<String> {
        let plain = text.replace(['(', ')'], "");
        let is_known = self.excluded_texts.contains(text) || self.excluded_texts.contains(&plain);
        is_known.then(|| "this prompt exists already; write another one".to_owned())
    }
}

/// What the facts state must be in the prompt: nothing else gets into the picture.
fn unsaid(text: &str, facts: &Facts, silent_attribute: Option<&str>) -> Option<String> {
    let names = facts.subjects.iter().map(|subject| &subject.name);
    let attributes = facts
        .subjects
        .iter()
        .flat_map(|subject| &subject.attributes);
    let values = attributes
        .filter(|attribute| Some(attribute.name.as_str()) != silent_attribute)
        .map(|attribute| &attribute.value);
    let mut unsaid = names.chain(values).filter(|words| !says(text, words));
    let words = unsaid.next()?;
    Some(format!(
        "the facts state `{words}`, which the prompt does not say; add it there or leave it out"
    ))
}

fn relations(facts: &Facts) -> Option<String> {
    let count = facts.subjects.len();
    let is_wrong = |relation: &&Relation| {
        relation.subject_index as usize >= count
            || relation.object_index as usize >= count
            || relation.subject_index == relation.object_index
    };
    let wrong = facts.relations.iter().find(is_wrong)?;
    Some(format!(
        "the relation `{}` joins no two of the {count} subjects",
        wrong.predicate
    ))
}

/// Whether a text holds words, in the singular or the plural, with hyphens or without; several words
/// may stand apart.
fn says(text: &str, words: &str) -> bool {
    let (text, words) = (loosened(text), loosened(words));
    let holds = |words: &str| {
        let forms = Value::new(words).accepted();
        forms.iter().any(|form| mentions(&text, form))
    };
    holds(&words) || words.contains(' ') && words.split(' ').all(holds)
}

fn loosened(text: &str) -> String {
    let text = text.to_lowercase().replace(['-', '_', '(', ')'], " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
