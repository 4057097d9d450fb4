//! What evaluations show and ask: nothing that is trained on may look or read like it.

use anyhow::Result;
use dataset::{
    evaluation_set::{EvaluationSet, SetQuestion},
    image_hash::ImageHash,
    minhash::Signature,
};

use crate::assets::Assets;

/// Pictures and questions of evaluation sets.
#[derive(Debug, Default)]
pub(super) struct EvaluationSets {
    /// Hashes of the pictures.
    pub(super) pictures: Vec<ImageHash>,
    /// Signatures of the questions, each with its first answer.
    pub(super) questions: Vec<Signature>,
    /// Hashes of the sets that are not the suite's own.
    pub(super) foreign_sha256s: Vec<String>,
}

impl EvaluationSets {
    /// Reads all the evaluation sets `names`; none where no set is named.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub(super) fn read(names: &[String], assets: &Assets) -> Result<Option<Self>> {
        if names.is_empty() {
            return Ok(None);
        }
        let mut sets = Self::default();
        for name in names {
            let set = EvaluationSet::read(&assets.benchmark(name)?)?;
            sets.pictures
                .extend(set.pictures.iter().map(|picture| picture.hash));
            sets.questions
                .extend(set.questions.iter().filter_map(signature));
            if is_foreign(name) {
                sets.foreign_sha256s.push(set.sha256);
            }
        }
        Ok(Some(sets))
    }
}

/// Hashes of the sets among `names` that are not the suite's own.
///
/// # Errors
/// Names the file that cannot be read.
pub(super) fn foreign_sha256s(names: &[String], assets: &Assets) -> Result<Vec<String>> {
    let foreign = names.iter().filter(|name| is_foreign(name));
    let read = |name: &String| Ok(EvaluationSet::read(&assets.benchmark(name)?)?.sha256);
    foreign.map(read).collect()
}

fn is_foreign(name: &str) -> bool {
    !name.starts_with("builtin:")
}

fn signature(question: &SetQuestion) -> Option<Signature> {
    let answer = question.answers.first().map_or("", String::as_str);
    Signature::of(&format!("{} {answer}", question.text))
}
