//! Bearer tokens from files, read again when the file changes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::SystemTime,
};

use sha2::{Digest as _, Sha256};

use crate::StartError;

/// A bearer token in a file. Rotating it means replacing the file: a mounted Secret does that.
#[derive(Debug, Clone)]
pub(crate) struct TokenFile {
    path: PathBuf,
    seen: Arc<RwLock<Seen>>,
}

impl TokenFile {
    /// Reads the token. Fails when the file is absent, empty, or no header could carry it.
    pub(crate) fn open(path: &Path) -> Result<Self, StartError> {
        let seen = Seen::read(path).map_err(|source| StartError::File {
            what: "the token file",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            seen: Arc::new(RwLock::new(seen)),
        })
    }

    /// Whether `presented` is the token. Digests are compared, so that the time taken says nothing
    /// about how much of the token was right.
    pub(crate) fn accepts(&self, presented: &str) -> bool {
        let actual: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        let expected = self.current(|seen| seen.digest);
        let difference = actual
            .iter()
            .zip(expected)
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(difference) == 0
    }

    /// The value of the `authorization` header.
    pub(crate) fn header(&self) -> http::HeaderValue {
        self.current(|seen| seen.header.clone())
    }

    fn current<T>(&self, look: impl Fn(&Seen) -> T) -> T {
        let changed = modified(&self.path).ok();
        {
            let seen = self
                .seen
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if changed.is_none() || changed == Some(seen.modified) {
                // A file that is away for a moment (a Secret being swapped) keeps its last token.
                return look(&seen);
            }
        }
        let mut seen = self
            .seen
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match Seen::read(&self.path) {
            Ok(fresh) => *seen = fresh,
            Err(error) => tracing::warn!(%error, "keeping the last token: its file cannot be read"),
        }
        look(&seen)
    }
}

struct Seen {
    modified: (SystemTime, u64),
    digest: [u8; 32],
    header: http::HeaderValue,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Seen(token hidden)")
    }
}

impl Seen {
    fn read(path: &Path) -> std::io::Result<Self> {
        let invalid =
            |text: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, text.to_owned());
        let modified = modified(path)?;
        let text = std::fs::read_to_string(path)?;
        let token = text.trim();
        if token.is_empty() {
            return Err(invalid("the file holds no token"));
        }
        let mut header = http::HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| invalid("the token has characters that a header cannot carry"))?;
        header.set_sensitive(true);
        Ok(Self {
            modified,
            digest: Sha256::digest(token.as_bytes()).into(),
            header,
        })
    }
}

fn modified(path: &Path) -> std::io::Result<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}
