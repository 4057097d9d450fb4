//! One sample as an audit looks at it, whatever file it came from.

use crate::{llava, shard::encoded_file, stablellava};
use proto::dataset::v1::{Prompt, PromptSyntax, Role, Sample};
use std::path::Path;

/// A sample.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Name in examples; unique where the file's ids are.
    pub id: String,
    /// Ability; empty where the file names none.
    pub ability: String,
    /// Image prompts.
    pub prompts: Vec<RowPrompt>,
    /// Style; empty where it is not known.
    pub style: String,
    /// Main subject or keyword; empty where it is not known.
    pub subject: String,
    /// Other names of what the picture shows; a turn that has one of them has the subject.
    pub other_subjects: Vec<String>,
    /// What is asked.
    pub questions: Vec<String>,
    /// What is answered.
    pub answers: Vec<String>,
    /// Pictures.
    pub pictures: Vec<RowPicture>,
}

/// An image prompt.
#[derive(Clone, Debug)]
pub struct RowPrompt {
    /// Its text.
    pub text: String,
    /// Whether its brackets are read as emphasis.
    pub is_emphasis_read: bool,
}

/// A picture.
#[derive(Clone, Debug)]
pub enum RowPicture {
    /// An encoded file.
    Bytes(Vec<u8>),
    /// Named and not there.
    Missing(String),
}

impl Row {
    /// A sample of ours.
    pub fn of_sample(sample: &Sample) -> Self {
        let said = |role| {
            let turns = sample.conversation.iter().flat_map(|said| &said.turns);
            let turns = turns.filter(move |turn| turn.role() == role);
            turns.map(|turn| turn.text.clone()).collect()
        };
        let facts = || {
            sample
                .prompts
                .iter()
                .filter_map(|prompt| prompt.facts.as_ref())
        };
        let names = facts().flat_map(|facts| &facts.subjects);
        let pictures = sample.images.iter().map(encoded_file);
        Self {
            id: sample.id.clone(),
            ability: sample.ability.clone(),
            prompts: sample.prompts.iter().map(RowPrompt::of).collect(),
            style: facts()
                .next()
                .map(|facts| facts.style.clone())
                .unwrap_or_default(),
            subject: sample
                .prompts
                .first()
                .map(|prompt| prompt.keyword.clone())
                .unwrap_or_default(),
            other_subjects: names.map(|subject| subject.name.clone()).collect(),
            questions: said(Role::User),
            answers: said(Role::Assistant),
            pictures: pictures
                .map(|data| RowPicture::Bytes(data.to_vec()))
                .collect(),
        }
    }

    /// A record of LLaVA's JSON, with its pictures read from a folder.
    pub(super) fn of_llava(record: llava::Record, index: u64, images: &Path) -> Self {
        let said = |speaker| {
            let turns = record
                .turns
                .iter()
                .filter(move |turn| turn.speaker == speaker);
            turns.map(|turn| without_token(&turn.value)).collect()
        };
        let picture = |path: &std::path::PathBuf| match std::fs::read(images.join(path)) {
            Ok(bytes) => RowPicture::Bytes(bytes),
            Err(_) => RowPicture::Missing(path.display().to_string()),
        };
        Self {
            questions: said(llava::Speaker::Human),
            answers: said(llava::Speaker::Gpt),
            pictures: record.images.iter().map(picture).collect(),
            id: match record.id.as_str() {
                "" => format!("record {index}"),
                id => id.to_owned(),
            },
            ability: record.ability,
            ..Self::default()
        }
    }

    /// A row of StableLLaVA's release. It was rendered by plain diffusers, which reads no emphasis.
    pub(super) fn of_release(row: stablellava::Row, ability: &str) -> Self {
        Self {
            id: format!("{ability}/{}", row.id),
            ability: ability.to_owned(),
            subject: stablellava::subject(&row.prompt)
                .unwrap_or_default()
                .to_owned(),
            prompts: vec![RowPrompt {
                text: row.prompt,
                is_emphasis_read: false,
            }],
            questions: vec![without_token(&row.question)],
            answers: vec![row.answer],
            ..Self::default()
        }
    }
}

impl RowPrompt {
    fn of(prompt: &Prompt) -> Self {
        Self {
            text: prompt.text.clone(),
            is_emphasis_read: prompt.syntax() == PromptSyntax::Webui,
        }
    }
}

fn without_token(text: &str) -> String {
    text.replace(llava::IMAGE_TOKEN, "").trim().to_owned()
}
