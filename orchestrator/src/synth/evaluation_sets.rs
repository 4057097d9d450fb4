//! Hashes of the pictures that evaluations show: nothing that is trained on may look like them.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result};
use dataset::image_hash::ImageHash;
use serde::Deserialize;

use crate::assets::Assets;

/// Hashes of the pictures of all the evaluation sets `names`; none where no set is named.
///
/// # Errors
/// Names the set and the file that cannot be read.
pub(super) fn hashes(names: &[String], assets: &Assets) -> Result<Option<Vec<ImageHash>>> {
    if names.is_empty() {
        return Ok(None);
    }
    let mut hashes = Vec::new();
    for name in names {
        let folder = assets.benchmark(name);
        let found = of_folder(&folder).with_context(|| format!("evaluation set {name}"))?;
        hashes.extend(found);
    }
    Ok(Some(hashes))
}

#[derive(Deserialize)]
struct Question {
    image: String,
}

fn of_folder(folder: &Path) -> Result<Vec<ImageHash>> {
    let path = folder.join("questions.jsonl");
    let lines = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut images = BTreeSet::new();
    for (index, line) in lines.lines().enumerate() {
        let question: Question = serde_json::from_str(line)
            .with_context(|| format!("{}, line {}", path.display(), index + 1))?;
        images.insert(question.image);
    }
    let hash = |image: &String| {
        let path = folder.join(image);
        let picture = image::open(&path);
        let picture = picture.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(ImageHash::of(&picture.to_rgb8()))
    };
    images.iter().map(hash).collect()
}
