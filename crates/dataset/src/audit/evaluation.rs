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
use crate::{image_hash::ImageHash, minhash::normal};
use serde::Deserialize;
use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

/// Words from which on two equal texts are no accident.
const TELLING_WORDS: usize = 8;

/// Prompts, texts and pictures of evaluation sets.
#[derive(Debug, Default)]
pub struct EvaluationSets {
    prompts: Seen,
    texts: Seen,
    pictures: Seen,
    near_pictures: NearPictures,
    /// Names of the sets.
    names: Vec<String>,
}

/// Why an evaluation set cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the evaluation set {}: {reason}", path.display())]
pub struct EvaluationError {
    path: PathBuf,
    reason: String,
}

/// A line of `questions.jsonl`; a prompt stands there in sets that others made of prompts.
#[derive(Deserialize)]
struct Question {
    image: String,
    #[serde(default)]
    prompt: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    answers: Vec<String>,
}

impl EvaluationSets {
    /// Adds a folder with `questions.jsonl` and the pictures named there.
    ///
    /// # Errors
    /// A file that cannot be read, with its line.
    pub fn add_folder(&mut self, name: &str, folder: &Path) -> Result<(), EvaluationError> {
        let path = folder.join("questions.jsonl");
        let failed = |path: &Path, reason: String| EvaluationError {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(&path).map_err(|error| failed(&path, error.to_string()))?;
        for (index, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(|error| failed(&path, error.to_string()))?;
            if line.trim().is_empty() {
                continue;
            }
            let question: Question = serde_json::from_str(&line)
                .map_err(|error| failed(&path, format!("line {}: {error}", index + 1)))?;
            let picture = folder.join(&question.image);
            self.add(&question, &picture)
                .map_err(|error| failed(&picture, error.to_string()))?;
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

    fn add(&mut self, question: &Question, picture: &Path) -> io::Result<()> {
        if let Some(key) = prompt_key(&question.prompt) {
            self.prompts.again(key);
        }
        for text in question.answers.iter().chain([&question.text]) {
            if let Some(key) = text_key(text) {
                self.texts.again(key);
            }
        }
        let bytes = std::fs::read(picture)?;
        if !self.pictures.again(key(&[&bytes])) {
            let pixels = super::decode(&bytes).map_err(io::Error::other)?;
            self.near_pictures.add(ImageHash::of(&pixels));
        }
        Ok(())
    }

    pub(super) fn holds_prompt(&self, prompt: &str) -> bool {
        prompt_key(prompt).is_some_and(|key| self.prompts.holds(&key))
    }

    pub(super) fn holds_text(&self, text: &str) -> bool {
        text_key(text).is_some_and(|key| self.texts.holds(&key))
    }

    pub(super) fn holds_picture(&self, key: &Key) -> bool {
        self.pictures.holds(key)
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
