//! What can be wrong with an ability file.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why abilities could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no TOML, lacks a key, or has one that is not known.
    #[error("{}, line {line}: {reason}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong, with the key.
        reason: String,
    },
    /// A key has a value that makes no sense.
    #[error("{}: `{key}`: {reason}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Path of the key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A folder without abilities.
    #[error("{} holds no ability file (*.toml)", folder.display())]
    Empty {
        /// Which folder.
        folder: PathBuf,
    },
}

/// Why style weights were refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum StyleWeightsError {
    /// No prompt of the ability has this style.
    #[error("no prompt of ability `{ability}` has the style `{style}`; its styles are {known}")]
    Unknown {
        /// The style asked for.
        style: String,
        /// The ability.
        ability: String,
        /// The styles it has.
        known: String,
    },
    /// A weight is negative or not a number.
    #[error("the weight of style `{style}` is {weight}; it must be 0 or more")]
    Weight {
        /// The style.
        style: String,
        /// Its weight.
        weight: f64,
    },
    /// Every weight is 0.
    #[error("every style has the weight 0")]
    None,
}

/// A fault at a key of a file yet unnamed.
#[derive(Debug)]
pub(crate) struct AtKey {
    key: String,
    reason: String,
}

impl AtKey {
    pub(super) fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            reason: reason.into(),
        }
    }

    pub(super) fn in_file(self, path: &Path) -> Error {
        Error::Invalid {
            path: path.to_owned(),
            key: self.key,
            reason: self.reason,
        }
    }
}
