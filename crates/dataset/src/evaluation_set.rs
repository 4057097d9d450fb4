//! An evaluation set on the disk: a folder with `questions.jsonl` and the pictures named there.

use crate::{identity::sha256_hex, image_hash::ImageHash};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    path::{Path, PathBuf},
};

/// What a set asks and shows.
#[derive(Debug, Default)]
pub struct EvaluationSet {
    /// Its questions, in their order.
    pub questions: Vec<SetQuestion>,
    /// Its pictures, each file once, by name.
    pub pictures: Vec<SetPicture>,
    /// SHA-256 over the questions' file and the pictures: what the set is, wherever it lies.
    pub sha256: String,
}

/// A line of `questions.jsonl`; a prompt stands there in sets that were made of prompts.
#[derive(Debug, Deserialize)]
pub struct SetQuestion {
    /// Picture, by its path in the folder.
    pub image: String,
    /// Prompt of the picture; may be empty.
    #[serde(default)]
    pub prompt: String,
    /// What is asked; may be empty.
    #[serde(default)]
    pub text: String,
    /// What is right.
    #[serde(default)]
    pub answers: Vec<String>,
}

/// A picture of a set; its pixels are not kept.
#[derive(Debug)]
pub struct SetPicture {
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
    /// Perceptual hash.
    pub hash: ImageHash,
}

/// Why an evaluation set cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the evaluation set {}: {reason}", path.display())]
pub struct EvaluationError {
    path: PathBuf,
    reason: String,
}

impl EvaluationSet {
    /// Reads a set.
    ///
    /// # Errors
    /// A file that cannot be read, with its line.
    pub fn read(folder: &Path) -> Result<Self, EvaluationError> {
        let path = folder.join("questions.jsonl");
        let failed = |path: &Path, reason: String| EvaluationError {
            path: path.to_owned(),
            reason,
        };
        let text = fs::read_to_string(&path).map_err(|error| failed(&path, error.to_string()))?;
        let mut set = Self::default();
        // Several questions may ask about one picture.
        let mut pictures = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let question: SetQuestion = serde_json::from_str(line)
                .map_err(|error| failed(&path, format!("line {}: {error}", index + 1)))?;
            if let Entry::Vacant(place) = pictures.entry(question.image.clone()) {
                let file = folder.join(&question.image);
                place.insert(picture(&file).map_err(|reason| failed(&file, reason))?);
            }
            set.questions.push(question);
        }
        let names = pictures.iter();
        let lines = names.map(|(name, picture)| format!("{}  {name}\n", picture.sha256));
        let files: String = lines.collect();
        set.sha256 = sha256_hex(format!("{}  questions.jsonl\n{files}", sha256_hex(&text)));
        set.pictures = pictures.into_values().collect();
        Ok(set)
    }
}

fn picture(path: &Path) -> Result<SetPicture, String> {
    let file = fs::read(path).map_err(|error| error.to_string())?;
    let pixels = crate::audit::decode(&file)?;
    Ok(SetPicture {
        sha256: sha256_hex(&file),
        hash: ImageHash::of(&pixels),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_told_by_what_it_holds_and_not_by_where_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, level: u8| {
            let folder = folder.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("questions.jsonl"), text).unwrap();
            let picture = image::RgbImage::from_pixel(20, 20, image::Rgb([level; 3]));
            picture.save(folder.join("a.png")).unwrap();
            EvaluationSet::read(&folder).unwrap()
        };
        let line = "{\"image\":\"a.png\",\"text\":\"What?\",\"answers\":[\"grey\"]}\n";
        let twice = format!("{line}\n{line}");
        let one = write("one", &twice, 9);
        assert_eq!((one.questions.len(), one.pictures.len()), (2, 1));
        assert_eq!(one.sha256, write("same", &twice, 9).sha256);
        assert_ne!(one.sha256, write("brighter", &twice, 10).sha256);
        assert_ne!(one.sha256, write("shorter", line, 9).sha256);
        let broken = folder.path().join("one/a.png");
        fs::write(&broken, "no picture").unwrap();
        let error = EvaluationSet::read(&folder.path().join("one")).unwrap_err();
        assert!(error.to_string().contains("a.png"), "{error}");
    }
}
