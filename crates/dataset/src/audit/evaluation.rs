//! What evaluation sets hold: nothing that is trained on may be the same, or look the same.
//!
//! Overlap is what the evaluation service calls so when it makes a benchmark: prompts equal up to
//! case, emphasis and space; pictures of equal bytes, or whose hashes lie within `NEAR_BITS`. Texts
//! of eight words or more are held against each other too; shorter ones, such as `What color is the
//! car?`, are forms of a question that any data may have.

use super::{
    Defect,
    seen::{Key, NearPictures, Seen, key},
};
use crate::{
    evaluation_set::{EvaluationError, EvaluationSet},
    identity::sha256_hex,
    image_hash::ImageHash,
    minhash::normal,
};
use std::{collections::HashSet, path::Path};

/// Words from which on two equal texts are no accident.
const TELLING_WORDS: usize = 8;

/// Prompts, texts and pictures of evaluation sets.
#[derive(Debug, Default)]
pub struct EvaluationSets {
    prompts: Seen,
    texts: Seen,
    /// SHA-256 of the files.
    pictures: HashSet<String>,
    near_pictures: NearPictures,
    /// Names of the sets.
    names: Vec<String>,
}

impl EvaluationSets {
    /// Adds a folder with `questions.jsonl` and the pictures named there.
    ///
    /// # Errors
    /// A file that cannot be read, with its line.
    pub fn add_folder(&mut self, name: &str, folder: &Path) -> Result<(), EvaluationError> {
        let set = EvaluationSet::read(folder)?;
        for question in &set.questions {
            if let Some(key) = prompt_key(&question.prompt) {
                self.prompts.again(key);
            }
            for text in question.answers.iter().chain([&question.text]) {
                if let Some(key) = text_key(text) {
                    self.texts.again(key);
                }
            }
        }
        for picture in set.pictures {
            if self.pictures.insert(picture.sha256) {
                self.near_pictures.add(picture.hash);
            }
        }
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Names of the sets.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether there is anything to hold samples against for this defect: a set of drawn pictures has
    /// no prompts, and one of short questions no telling texts. Of other defects it is true.
    pub(super) fn checks(&self, defect: Defect) -> bool {
        match defect {
            Defect::LeakedPrompt => !self.prompts.is_empty(),
            Defect::LeakedText => !self.texts.is_empty(),
            Defect::LeakedPicture | Defect::NearLeakedPicture => !self.pictures.is_empty(),
            _ => true,
        }
    }

    pub(super) fn holds_prompt(&self, prompt: &str) -> bool {
        prompt_key(prompt).is_some_and(|key| self.prompts.holds(&key))
    }

    pub(super) fn holds_text(&self, text: &str) -> bool {
        text_key(text).is_some_and(|key| self.texts.holds(&key))
    }

    pub(super) fn holds_picture(&self, file: &[u8]) -> bool {
        self.pictures.contains(&sha256_hex(file))
    }

    pub(super) fn holds_near_picture(&self, hash: &ImageHash) -> bool {
        self.near_pictures.holds(hash)
    }
}

fn prompt_key(prompt: &str) -> Option<Key> {
    let words = normal(prompt);
    (!words.is_empty()).then(|| key(&[words.as_bytes()]))
}

fn text_key(text: &str) -> Option<Key> {
    let words = normal(text);
    (words.split(' ').count() >= TELLING_WORDS).then(|| key(&[words.as_bytes()]))
}
