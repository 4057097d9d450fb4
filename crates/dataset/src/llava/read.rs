//! Reads LLaVA JSON record by record: files of millions of records are common,
//! and only one is ever in memory.

use super::{Record, Speaker, Turn};
use serde::Deserialize;
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Component, Path, PathBuf},
};

/// Why a file or one of its records cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("cannot read {path}")]
    Io {
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The file is not a JSON list.
    #[error("{path} is not LLaVA's JSON: {reason}")]
    NotAList {
        /// File.
        path: PathBuf,
        /// What is wrong, as the rest of the sentence.
        reason: &'static str,
    },
    /// A record is not JSON, or lacks a key. Reading ends here.
    #[error("record {index} of {path}, at byte {offset}, cannot be read")]
    Json {
        /// File.
        path: PathBuf,
        /// Number of the record, from 0.
        index: u64,
        /// Where the record begins, in bytes from the start of the file.
        offset: u64,
        /// Cause.
        source: serde_json::Error,
    },
    /// A record is JSON and breaks a rule. The next one may be read.
    #[error("record {index} of {path} (id `{id}`) is refused: {reason}")]
    Record {
        /// File.
        path: PathBuf,
        /// Number of the record, from 0.
        index: u64,
        /// Its id.
        id: String,
        /// What is wrong, as the rest of the sentence.
        reason: String,
    },
}

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
    let file = File::open(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    let input = Counted {
        input: BufReader::new(file),
        byte_count: 0,
    };
    let mut reader = Reader {
        path: path.to_owned(),
        input,
        record_count: 0,
        place: Place::Start,
    };
    match reader.next_mark()? {
        Some(b'[') => Ok(reader),
        Some(b'{') => Err(reader.not_a_list("it begins with `{`; a list of records is expected")),
        _ => Err(reader.not_a_list("it does not begin with `[`")),
    }
}

/// The records of a file, in its order.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    input: Counted<BufReader<File>>,
    record_count: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Behind the opening bracket.
    Start,
    /// Behind a record.
    AfterRecord,
    /// Behind the closing bracket, or an error that ends reading.
    End,
}

impl Iterator for Reader {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.place == Place::End {
            return None;
        }
        let found = self.next_raw().transpose()?;
        Some(found.and_then(|(index, raw)| self.parse(index, raw)))
    }
}

impl Reader {
    /// The next record as JSON, with its number.
    fn next_raw(&mut self) -> Result<Option<(u64, RawRecord)>, Error> {
        let place = std::mem::replace(&mut self.place, Place::End);
        let mut mark = self.next_mark()?;
        if mark == Some(b']') {
            return Ok(None);
        }
        if place == Place::AfterRecord {
            if mark != Some(b',') {
                return Err(self.not_a_list("its records are not separated by commas"));
            }
            mark = self.next_mark()?;
        }
        match mark {
            Some(b'{') => {}
            Some(_) => return Err(self.not_a_list("it holds something that is not a record")),
            None => return Err(self.not_a_list("it ends before its closing bracket")),
        }
        let (index, offset) = (self.record_count, self.input.byte_count - 1);
        // An object ends at its own brace, so the parser reads no byte too many.
        let record = (&b"{"[..]).chain(&mut self.input);
        let raw = RawRecord::deserialize(&mut serde_json::Deserializer::from_reader(record));
        let raw = raw.map_err(|source| Error::Json {
            path: self.path.clone(),
            index,
            offset,
            source,
        })?;
        self.record_count += 1;
        self.place = Place::AfterRecord;
        Ok(Some((index, raw)))
    }

    fn parse(&self, index: u64, raw: RawRecord) -> Result<Record, Error> {
        let RawRecord {
            id,
            image,
            conversations,
        } = raw;
        let id = id.map(Id::into_text).unwrap_or_default();
        let images = image.map(OneOrSeveral::into_list).unwrap_or_default();
        match turns(conversations).and_then(|turns| Ok((turns, image_paths(images)?))) {
            Ok((turns, images)) => Ok(Record { id, images, turns }),
            Err(reason) => Err(Error::Record {
                path: self.path.clone(),
                index,
                id,
                reason,
            }),
        }
    }

    /// The next byte that is no white space.
    fn next_mark(&mut self) -> Result<Option<u8>, Error> {
        let mut byte = [0];
        loop {
            match self.input.read(&mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) if byte[0].is_ascii_whitespace() => {}
                Ok(_) => return Ok(Some(byte[0])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Io {
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
    }

    fn not_a_list(&self, reason: &'static str) -> Error {
        Error::NotAList {
            path: self.path.clone(),
            reason,
        }
    }
}

/// A record as other people write it.
#[derive(Deserialize)]
struct RawRecord {
    id: Option<Id>,
    image: Option<OneOrSeveral>,
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(serde_json::Number),
}

impl Id {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
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

/// Counts the bytes it passes on.
#[derive(Debug)]
struct Counted<R> {
    input: R,
    byte_count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.byte_count += count as u64;
        Ok(count)
    }
}
