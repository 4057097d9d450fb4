//! The files that the authors of StableLLaVA released (icoz69/StableLLAVA, `dataset/*.json`): one
//! list of rows per ability, named by the file. There are prompts and dialogues and no pictures.
//!
//! ```json
//! [{"id": "0", "image": "animal/0.jpg", "prompt": "((Peacock)), garden, realistic",
//!   "question": "<image>\nDescribe the image concisely.", "answer": "A peacock in a garden."}]
//! ```

use crate::json_list::{Error, JsonList, id_of};
use serde::Deserialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Number of the row in its file, from 0.
    pub index: u64,
    /// Id as written; each file counts from 0.
    pub id: String,
    /// Where the picture lay; it was not released.
    pub image: String,
    /// Image prompt, the subject first and in double brackets.
    pub prompt: String,
    /// Question, with the image token before or behind it.
    pub question: String,
    /// Answer.
    pub answer: String,
}

#[derive(Deserialize)]
struct RawRow {
    #[serde(default)]
    image: String,
    prompt: String,
    question: String,
    answer: String,
}

/// The `*.json` files of a folder in the order of their names, or the one file that `path` is.
///
/// # Errors
/// The folder cannot be read, or holds no such file.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|name| name == "json") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        let missing = io::Error::new(io::ErrorKind::NotFound, "the folder holds no .json file");
        return Err(failed(missing));
    }
    Ok(files)
}

/// Opens one file.
///
/// # Errors
/// The file cannot be opened, or does not begin as a JSON list.
pub fn read(path: &Path) -> Result<Reader, Error> {
    JsonList::open(path).map(|list| Reader { list })
}

/// The rows of a file, in its order.
#[derive(Debug)]
pub struct Reader {
    list: JsonList,
}

impl Iterator for Reader {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.list.next()?;
        Some(found.and_then(|(index, value)| {
            let id = id_of(&value);
            let row = serde_json::from_value::<RawRow>(value);
            let row =
                row.map_err(|error| self.list.refuse(index, id.clone(), error.to_string()))?;
            Ok(Row {
                index,
                id,
                image: row.image,
                prompt: row.prompt,
                question: row.question,
                answer: row.answer,
            })
        }))
    }
}

/// Ability of a file: its name, in the characters that abilities have.
pub fn ability(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let allowed = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '_',
    };
    let name: String = stem.chars().take(64).map(allowed).collect();
    if name.is_empty() {
        "imported".into()
    } else {
        name
    }
}

/// The words in a prompt's double brackets, wherever these are closed.
pub fn subject(prompt: &str) -> Option<&str> {
    let (_, rest) = prompt.split_once("((")?;
    let (subject, _) = rest.split_once("))")?;
    Some(subject.trim()).filter(|subject| !subject.is_empty())
}
