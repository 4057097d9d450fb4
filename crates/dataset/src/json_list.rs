//! Reads a JSON list record by record: files of millions of records are common, and only one is
//! ever in memory.

use serde_json::Value;
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
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
    #[error("{path} is not a JSON list of records: {reason}")]
    NotAList {
        /// File.
        path: PathBuf,
        /// What is wrong, as the rest of the sentence.
        reason: &'static str,
    },
    /// A record is not JSON. Reading ends here.
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
    /// A record is JSON and lacks a key, or breaks a rule. The next one may be read.
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

impl Error {
    /// Whether the records behind this one can still be read.
    pub fn is_of_one_record(&self) -> bool {
        matches!(self, Self::Record { .. })
    }
}

/// The records of a file, in its order, each with its number.
#[derive(Debug)]
pub(crate) struct JsonList {
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

impl JsonList {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be opened, or does not begin as a JSON list.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })?;
        let input = Counted {
            input: BufReader::new(file),
            byte_count: 0,
        };
        let mut list = Self {
            path: path.to_owned(),
            input,
            record_count: 0,
            place: Place::Start,
        };
        match list.next_mark()? {
            Some(b'[') => Ok(list),
            Some(b'{') => Err(list.not_a_list("it begins with `{`; a list of records is expected")),
            _ => Err(list.not_a_list("it does not begin with `[`")),
        }
    }

    /// The error of a record that breaks a rule.
    pub(crate) fn refuse(&self, index: u64, id: String, reason: String) -> Error {
        Error::Record {
            path: self.path.clone(),
            index,
            id,
            reason,
        }
    }

    fn next_record(&mut self) -> Result<Option<(u64, Value)>, Error> {
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
            Some(b'{') => self.object().map(Some),
            Some(_) => Err(self.not_a_list("it holds something that is not a record")),
            None => Err(self.not_a_list("it ends before its closing bracket")),
        }
    }

    /// The rest of an object whose brace was read.
    fn object(&mut self) -> Result<(u64, Value), Error> {
        use serde::Deserialize as _;
        let (index, offset) = (self.record_count, self.input.byte_count - 1);
        // An object ends at its own brace, so the parser reads no byte too many.
        let record = (&b"{"[..]).chain(&mut self.input);
        let value = Value::deserialize(&mut serde_json::Deserializer::from_reader(record));
        let value = value.map_err(|source| Error::Json {
            path: self.path.clone(),
            index,
            offset,
            source,
        })?;
        self.record_count += 1;
        self.place = Place::AfterRecord;
        Ok((index, value))
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

impl Iterator for JsonList {
    type Item = Result<(u64, Value), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.place == Place::End {
            return None;
        }
        self.next_record().transpose()
    }
}

/// A record's id as people write it: a text, a number, or none.
pub(crate) fn id_of(record: &Value) -> String {
    match record.get("id") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
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
