//! What is shown to a person: a sample, and the entries that could be made of it.

use dataset::identity::sha256_hex;
use proto::dataset::v1::{Conversation, Facts, Role, Subject, Turn};
use serde::{Deserialize, Serialize};

use crate::cli::CurateKind;

/// One card.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Candidate {
    /// Id of the sample.
    pub(crate) sample_id: String,
    /// Where it comes from, in words: a seed or a dataset.
    pub(crate) origin: String,
    /// Its place in the ability's order, where a service wrote it.
    pub(crate) slot: Option<u64>,
    /// The prompt as written.
    pub(crate) prompt: String,
    /// What the picture should show, a line each.
    pub(crate) facts: Vec<String>,
    /// Its pictures.
    pub(crate) pictures: Vec<Plate>,
    /// What can be kept of it.
    pub(crate) entries: Vec<Entry>,
}

/// A picture in the folder of the curation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plate {
    /// File name.
    pub(crate) file: String,
    /// Media type.
    pub(crate) media_type: String,
    /// Width in pixels.
    pub(crate) width_px: u32,
}

/// One example for an ability's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Entry {
    /// For `prompt_examples`.
    Prompt {
        /// The prompt.
        text: String,
    },
    /// For `[[dialogue_examples]]`.
    Dialogue {
        /// Prompt of the picture that is spoken about.
        prompt: String,
        /// Question.
        question: String,
        /// Answer.
        answer: String,
    },
}

/// A field of what a person sent that breaks a rule.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub(crate) struct BadField {
    /// Its path.
    pub(crate) field: String,
    /// The rule.
    reason: String,
}

impl BadField {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// Longest text of an example: far above what a prompt of sixty words or an answer takes.
const MAX_CHARACTERS: usize = 1000;

impl Entry {
    /// Id by content: an example that comes again, from wherever, is the same one.
    pub(crate) fn id(&self) -> String {
        let texts = self.texts().join("\n");
        let kind = match self {
            Self::Prompt { .. } => "prompt",
            Self::Dialogue { .. } => "dialogue",
        };
        let mut id = sha256_hex(format!("diptych example 1\n{kind}\n{texts}"));
        id.truncate(16);
        id
    }

    /// Its texts, in the order of the file.
    pub(crate) fn texts(&self) -> Vec<&str> {
        match self {
            Self::Prompt { text } => vec![text],
            Self::Dialogue {
                prompt,
                question,
                answer,
            } => vec![prompt, question, answer],
        }
    }

    /// Whether it is curated under `--kind`.
    pub(crate) fn is_of(&self, kind: CurateKind) -> bool {
        match self {
            Self::Prompt { .. } => kind != CurateKind::Dialogues,
            Self::Dialogue { .. } => kind != CurateKind::Prompts,
        }
    }

    /// This text in place of `original`'s, with its white space put in order.
    ///
    /// # Errors
    /// Another kind than the original's, or a text that is empty, too long, or no plain text.
    pub(crate) fn replacing(self, original: &Self) -> Result<Self, BadField> {
        let entry = match (self, original) {
            (Self::Prompt { text }, Self::Prompt { .. }) => Self::Prompt {
                text: plain(&text, "text")?,
            },
            (
                Self::Dialogue {
                    prompt,
                    question,
                    answer,
                },
                Self::Dialogue { .. },
            ) => Self::Dialogue {
                prompt: plain(&prompt, "prompt")?,
                question: plain(&question, "question")?,
                answer: plain(&answer, "answer")?,
            },
            _ => {
                let rule = "a prompt cannot replace a dialogue, nor the other way";
                return Err(BadField::new("entry.kind", rule));
            }
        };
        Ok(entry)
    }

    /// The same as far as a reader can tell: white space and case apart.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let folded = |entry: &Self| -> Vec<String> {
            let texts = entry.texts().into_iter();
            texts.map(|text| spaced(text).to_lowercase()).collect()
        };
        std::mem::discriminant(self) == std::mem::discriminant(other)
            && folded(self) == folded(other)
    }
}

fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn plain(text: &str, name: &str) -> Result<String, BadField> {
    let text = spaced(text);
    let bad = |rule: String| Err(BadField::new(format!("entry.{name}"), rule));
    let count = text.chars().count();
    if count == 0 {
        return bad("it is empty".to_owned());
    }
    if count > MAX_CHARACTERS {
        return bad(format!(
            "it has {count} characters; {MAX_CHARACTERS} is the most"
        ));
    }
    if text.chars().any(char::is_control) {
        return bad("it holds control characters".to_owned());
    }
    Ok(text)
}

/// Several prompts as one text, as `[[dialogue_examples]]` name the pictures of a sample.
pub(super) fn joined(prompts: &[&str]) -> String {
    prompts.join(" and ")
}

/// What can be kept of the prompts of a sample and its conversation: each prompt for itself, and each
/// round with the prompts of the pictures that it is about. Texts that no example may have are left out.
pub(super) fn entries(prompts: &[&str], conversation: Option<&Conversation>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for prompt in prompts
        .iter()
        .filter_map(|prompt| plain(prompt, "text").ok())
    {
        let entry = Entry::Prompt { text: prompt };
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    let turns = conversation.map_or(&[][..], |conversation| &conversation.turns);
    let mut seen: Vec<&str> = Vec::new();
    for round in turns.windows(2) {
        let [question, answer] = round else { continue };
        if question.role() != Role::User || answer.role() != Role::Assistant {
            continue;
        }
        let about = about(question, prompts, &mut seen);
        let texts = (
            plain(&about, "prompt"),
            plain(&question.text, "question"),
            plain(&answer.text, "answer"),
        );
        if let (Ok(prompt), Ok(question), Ok(answer)) = texts {
            entries.push(Entry::Dialogue {
                prompt,
                question,
                answer,
            });
        }
    }
    entries
}

/// The prompts that a question is about: that of the one picture which it shows, or else those of all
/// that were shown until then.
fn about<'a>(question: &Turn, prompts: &[&'a str], seen: &mut Vec<&'a str>) -> String {
    let shown = question.image_index.iter();
    let shown: Vec<&str> = shown
        .filter_map(|&index| prompts.get(index as usize).copied())
        .collect();
    seen.extend(&shown);
    match (shown.as_slice(), seen.as_slice()) {
        ([one], _) => (*one).to_owned(),
        (_, []) => joined(prompts),
        (_, seen) => joined(seen),
    }
}

/// The facts, a line each.
pub(super) fn lines(facts: &Facts) -> Vec<String> {
    let mut lines: Vec<String> = facts.subjects.iter().map(subject).collect();
    for (name, value) in [
        ("scene", &facts.scene),
        ("style", &facts.style),
        ("unusual", &facts.abnormality),
    ] {
        if !value.is_empty() {
            lines.push(format!("{name}: {value}"));
        }
    }
    let name = |index: u32| {
        let subject = facts.subjects.get(index as usize);
        subject.map_or("?", |subject| subject.name.as_str())
    };
    lines.extend(facts.relations.iter().map(|relation| {
        let (subject, object) = (name(relation.subject_index), name(relation.object_index));
        format!(
            "{subject} {} {object}",
            relation.predicate.replace('_', " ")
        )
    }));
    lines
}

fn subject(subject: &Subject) -> String {
    let mut line = match subject.count {
        0 | 1 => subject.name.clone(),
        count => format!("{count} × {}", subject.name),
    };
    if !subject.category.is_empty() {
        line.push_str(&format!(" ({})", subject.category));
    }
    for attribute in &subject.attributes {
        line.push_str(&format!(", {}: {}", attribute.name, attribute.value));
    }
    line
}
