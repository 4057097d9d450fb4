//! The `config.json` files of published checkpoints.
//!
//! A field that the code has no answer for is refused by name and never ignored: candle's UNet once
//! ignored `norm_num_groups` and was wrong by 48 % without a word.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What can be wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a JSON object.
    #[error("{} is not a JSON object: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A field is missing, of the wrong type or out of range.
    #[error("{}: `{field}` {reason}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The field.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A field asks for something that is not implemented.
    #[error("{}: `{field}` = {value} is not supported ({supported})", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// The field.
        field: String,
        /// Its value, as JSON.
        value: String,
        /// What would be.
        supported: String,
    },
}

impl Error {
    /// The sentence without the file, for who is not to learn where it lies.
    pub fn without_file(&self) -> String {
        match self {
            Self::Read { .. } => "the configuration cannot be read".to_owned(),
            Self::Malformed { reason, .. } => {
                format!("the configuration is not a JSON object: {reason}")
            }
            Self::Invalid { field, reason, .. } => format!("the checkpoint's `{field}` {reason}"),
            Self::Unsupported {
                field,
                value,
                supported,
                ..
            } => format!("the checkpoint's `{field}` = {value} is not supported ({supported})"),
        }
    }
}

/// The fields of one file, taken one by one; [`Fields::finish`] refuses what is left.
#[derive(Clone)]
pub struct Fields {
    file: PathBuf,
    map: Map<String, Value>,
}

/// One value for all blocks, or one for each.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    /// The same everywhere.
    Same(T),
    /// Listed.
    Each(Vec<T>),
}

impl<T: Clone> PerBlock<T> {
    /// As a list of `count`; `None` when another number is listed.
    pub fn list(self, count: usize) -> Option<Vec<T>> {
        match self {
            Self::Same(value) => Some(vec![value; count]),
            Self::Each(values) => (values.len() == count).then_some(values),
        }
    }
}

impl Fields {
    /// Reads a JSON object.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Malformed`].
    pub fn open(file: &Path) -> Result<Self, Error> {
        let text = std::fs::read(file).map_err(|source| Error::Read {
            file: file.into(),
            source,
        })?;
        let map = serde_json::from_slice(&quote_words(&text)).map_err(|e| Error::Malformed {
            file: file.into(),
            reason: e.to_string(),
        })?;
        Ok(Self {
            file: file.to_path_buf(),
            map,
        })
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The object in `field`, as fields of the same file.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is missing or not an object.
    pub fn nested(&mut self, field: &str) -> Result<Self, Error> {
        let map = self.require::<Map<String, Value>>(field)?;
        Ok(Self {
            file: self.file.clone(),
            map,
        })
    }

    /// The object in `field`, as fields of the same file; `null` counts as absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is not an object.
    pub fn optional_nested(&mut self, field: &str) -> Result<Option<Self>, Error> {
        let map = self.take::<Map<String, Value>>(field)?;
        Ok(map.map(|map| Self {
            file: self.file.clone(),
            map,
        }))
    }

    /// Takes `field`; `null` counts as absent.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is of another type.
    pub fn take<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>, Error> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|e| self.invalid(field, format!("has the wrong type: {e}"))),
        }
    }

    /// Takes `field`, which must be there.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn require<T: DeserializeOwned>(&mut self, field: &str) -> Result<T, Error> {
        self.take(field)?
            .ok_or_else(|| self.invalid(field, "is missing"))
    }

    /// Takes `field`, or `default`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is of another type.
    pub fn take_or<T: DeserializeOwned>(&mut self, field: &str, default: T) -> Result<T, Error> {
        Ok(self.take(field)?.unwrap_or(default))
    }

    /// Puts `value` in the place of what the file says.
    pub fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.map.insert(field.to_owned(), value.into());
    }

    /// Takes a value per block.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is of another type or lists another number of blocks.
    pub fn take_per_block<T>(
        &mut self,
        field: &str,
        default: T,
        count: usize,
    ) -> Result<Vec<T>, Error>
    where
        T: DeserializeOwned + Clone,
    {
        let values = self
            .take::<PerBlock<T>>(field)?
            .unwrap_or(PerBlock::Same(default));
        values
            .list(count)
            .ok_or_else(|| self.invalid(field, format!("must list {count} blocks")))
    }

    /// Takes `field` and refuses every value but `only` (absent and `null` are fine).
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn only(&mut self, field: &str, only: impl Into<Value>) -> Result<(), Error> {
        let only = only.into();
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(()),
            Some(value) if same(&value, &only) => Ok(()),
            Some(Value::Array(values)) if values.iter().all(|v| same(v, &only)) => Ok(()),
            Some(value) => Err(self.unsupported(field, &value, &format!("only {only}"))),
        }
    }

    /// Forgets fields that do not change the result of inference.
    pub fn ignore(&mut self, fields: &[&str]) {
        for field in fields {
            self.map.remove(*field);
        }
    }

    /// Refuses fields that nothing took. Private fields (`_class_name`, …) and `null` are fine.
    ///
    /// # Errors
    /// [`Error::Unsupported`], for the first of them.
    pub fn finish(self) -> Result<(), Error> {
        match self
            .map
            .iter()
            .find(|(key, value)| !key.starts_with('_') && !value.is_null())
        {
            Some((key, value)) => {
                Err(self.unsupported(key, value, "a field unknown to this version"))
            }
            None => Ok(()),
        }
    }

    /// The error that `field` is wrong because of `reason`.
    pub fn invalid(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::Invalid {
            file: self.file.clone(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    /// The error that `field` asks for what is not there.
    pub fn unsupported(&self, field: &str, value: &Value, supported: &str) -> Error {
        Error::Unsupported {
            file: self.file.clone(),
            field: field.to_owned(),
            value: value.to_string(),
            supported: supported.to_owned(),
        }
    }
}

/// Python writes numbers that are none as bare words, which is no JSON: they become texts, so that a
/// field that may have one can say so.
fn quote_words(text: &[u8]) -> Vec<u8> {
    let words: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut quoted = Vec::with_capacity(text.len());
    let (mut rest, mut is_text, mut is_escaped) = (text, false, false);
    while let [first, ..] = rest {
        let word = words.iter().find(|w| !is_text && rest.starts_with(w));
        if let Some(word) = word {
            quoted.extend([b"\"", *word, b"\""].concat());
        } else {
            quoted.push(*first);
        }
        is_text ^= *first == b'"' && !is_escaped;
        is_escaped = is_text && *first == b'\\' && !is_escaped;
        rest = &rest[word.map_or(1, |w| w.len())..];
    }
    quoted
}

/// Equality that takes 1 and 1.0 for the same.
fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}

/// What can go wrong while a model is loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A configuration file.
    #[error(transparent)]
    Config(#[from] Error),
    /// A weights file.
    #[error(transparent)]
    Weights(#[from] crate::weights::Error),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] crate::clip_tokenizer::Error),
}
