//! Reads LLaVA JSON, in the forms that public files have.

use super::{Record, Speaker, Turn};
use crate::json_list::{Error, JsonList, id_of};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

/// Folder that a file's image paths start from when nobody says: the file's own, or `images` in it,
/// as [`export`](super::export) lays it out, where the first picture lies there.
pub fn image_folder(json: &Path) -> PathBuf {
    let own = json.parent().filter(|own| *own != Path::new(""));
    let own = own.unwrap_or(Path::new(".")).to_owned();
    let exported = own.join("images");
    let mut records = read(json).into_iter().flatten().take_while(Result::is_ok);
    let first = records.find_map(|record| record.ok()?.images.into_iter().next());
    match first {
        Some(image) if !own.join(&image).exists() && exported.join(&image).exists() => exported,
        _ => own,
    }
}

/// Opens a LLaVA JSON file.
///
/// # Errors
/// The file cannot be opened, or does not begin as a JSON list.
pub fn read(path: &Path) -> Result<Reader, Error> {
    JsonList::open(path).map(|list| Reader { list })
}

/// The records of a file, in its order.
#[derive(Debug)]
pub struct Reader {
    list: JsonList,
}

impl Iterator for Reader {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.list.next()?;
        Some(found.and_then(|(index, value)| {
            let id = id_of(&value);
            parse(value).map_err(|reason| self.list.refuse(index, id, reason))
        }))
    }
}

/// A record as other people write it.
#[derive(Deserialize)]
struct RawRecord {
    image: Option<OneOrSeveral>,
    conversations: Vec<Turn>,
    ability: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrSeveral {
    One(String),
    Several(Vec<String>),
}

impl OneOrSeveral {
    fn into_list(self) -> Vec<String> {
        match self {
            Self::One(path) => vec![path],
            Self::Several(paths) => paths,
        }
    }
}

fn parse(value: Value) -> Result<Record, String> {
    let id = id_of(&value);
    let raw: RawRecord = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let images = raw.image.map(OneOrSeveral::into_list).unwrap_or_default();
    Ok(Record {
        id,
        turns: turns(raw.conversations)?,
        images: image_paths(images)?,
        ability: raw.ability.unwrap_or_default(),
    })
}

/// As LLaVA's `preprocess_v1`: a first turn that is not the human's is skipped,
/// then the two take turns.
fn turns(mut turns: Vec<Turn>) -> Result<Vec<Turn>, String> {
    if turns
        .first()
        .is_some_and(|turn| turn.speaker != Speaker::Human)
    {
        turns.remove(0);
    }
    if turns.len() < 2 {
        return Err("it has no question with an answer".into());
    }
    let expected = [Speaker::Human, Speaker::Gpt].into_iter().cycle();
    match turns
        .iter()
        .zip(expected)
        .position(|(turn, speaker)| turn.speaker != speaker)
    {
        Some(turn) => Err(format!("human and gpt do not take turns at turn {turn}")),
        None => Ok(turns),
    }
}

/// Paths come from other people, so none may leave the image folder.
fn image_paths(images: Vec<String>) -> Result<Vec<PathBuf>, String> {
    let inside = |path: &Path| {
        path.components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    };
    let parse = |image: String| {
        let path = PathBuf::from(&image);
        let usable = !image.is_empty() && inside(&path);
        usable.then_some(path).ok_or_else(|| {
            format!("its image `{image}` is not a relative path inside the image folder")
        })
    };
    images.into_iter().map(parse).collect()
}
