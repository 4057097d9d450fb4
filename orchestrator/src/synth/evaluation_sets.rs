//! What evaluations show and ask: nothing that is trained on may look or read like it.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result};
use dataset::{image_hash::ImageHash, minhash::Signature};
use serde::Deserialize;

use crate::assets::Assets;

/// Pictures and questions of evaluation sets.
#[derive(Debug)]
pub(super) struct EvaluationSets {
    /// Hashes of the pictures.
    pub(super) pictures: Vec<ImageHash>,
    /// Signatures of the questions, each with its first answer.
    pub(super) questions: Vec<Signature>,
}

impl EvaluationSets {
    /// Reads all the evaluation sets `names`; none where no set is named.
    ///
    /// # Errors
    /// Names the set and the file that cannot be read.
    pub(super) fn read(names: &[String], assets: &Assets) -> Result<Option<Self>> {
        if names.is_empty() {
            return Ok(None);
        }
        let mut sets = Self {
            pictures: Vec::new(),
            questions: Vec::new(),
        };
        for name in names {
            let read = sets.add(&assets.benchmark(name)?);
            read.with_context(|| format!("evaluation set {name}"))?;
        }
        Ok(Some(sets))
    }

    fn add(&mut self, folder: &Path) -> Result<()> {
        let path = folder.join("questions.jsonl");
        let lines = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        // Several questions may ask about one picture.
        let mut images = BTreeSet::new();
        for (index, line) in lines.lines().enumerate() {
            let Question {
                image,
                text,
                answers,
            } = serde_json::from_str(line)
                .with_context(|| format!("{}, line {}", path.display(), index + 1))?;
            let answer = answers.first().map_or("", String::as_str);
            self.questions
                .extend(Signature::of(&format!("{text} {answer}")));
            images.insert(image);
        }
        for image in &images {
            let path = folder.join(image);
            let picture = image::open(&path);
            let picture = picture.with_context(|| format!("cannot read {}", path.display()))?;
            self.pictures.push(ImageHash::of(&picture.to_rgb8()));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Question {
    image: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    answers: Vec<String>,
}
