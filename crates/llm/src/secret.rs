//! Keys of providers: from the environment or a file, read when needed, shown to nobody.

use std::path::PathBuf;

use reqwest::header::HeaderValue;

use crate::{Error, Options};

/// Variable that is looked at where the options name none.
const DEFAULT_VARIABLE: &str = "DIPTYCH_LLM_KEY";

/// Longest key file that is read, in bytes.
const MAX_KEY_FILE_BYTES: u64 = 64 << 10;

/// A text that must not be shown: `Debug` hides it, and nothing displays or serializes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Secret(hidden)")
    }
}

impl Secret {
    /// The secret `text`, without the space around it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// `text` with every occurrence of the secret blotted out: servers quote keys in refusals.
    pub(crate) fn hide_in(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        text.replace(&self.0, "[key]")
    }

    /// The `authorization` header, marked so that no HTTP library logs it.
    fn bearer(&self, from: &KeySource) -> Result<HeaderValue, Error> {
        let mut header = HeaderValue::try_from(format!("Bearer {}", self.0)).map_err(|_| {
            Error::Options(format!(
                "the key from {from} has characters that a header cannot carry"
            ))
        })?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// Where the key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// The server wants none.
    None,
    /// An environment variable, as it stood when the client was made.
    Variable(String, Secret),
    /// A file, read before every request, so that a rotated key counts at once.
    File(PathBuf),
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => out.write_str("nowhere (no key is set)"),
            Self::Variable(name, _) => write!(out, "the variable {name}"),
            Self::File(path) => write!(out, "the file {}", path.display()),
        }
    }
}

impl KeySource {
    /// As the options say: the file, else the variable named, else `DIPTYCH_LLM_KEY` where it is set.
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        if let Some(path) = &options.key_file {
            return Ok(Self::File(path.clone()));
        }
        let name = options.key_env.as_deref().unwrap_or(DEFAULT_VARIABLE);
        let value = std::env::var(name)
            .ok()
            .filter(|value| !value.trim().is_empty());
        match value {
            Some(value) => Ok(Self::Variable(name.to_owned(), Secret::new(&value))),
            None if options.key_env.is_none() => Ok(Self::None),
            None => Err(Error::Options(format!(
                "the variable {name} is not set: put the key there, or name another with --llm-key-env"
            ))),
        }
    }

    /// What to do when the server refuses the key.
    pub(crate) fn advice(&self) -> String {
        match self {
            Self::None => {
                format!(
                    "set the key in {DEFAULT_VARIABLE}, or give --llm-key-env or --llm-key-file"
                )
            }
            from => format!("put a valid key into {from}"),
        }
    }

    /// The key of now, and its header.
    pub(crate) async fn read(&self) -> Result<Option<(Secret, HeaderValue)>, Error> {
        let secret = match self {
            Self::None => return Ok(None),
            Self::Variable(_, secret) => secret.clone(),
            Self::File(path) => read_file(path.clone()).await?,
        };
        let header = secret.bearer(self)?;
        Ok(Some((secret, header)))
    }
}

async fn read_file(path: PathBuf) -> Result<Secret, Error> {
    let failed = |source| Error::File {
        what: "the key file",
        path: path.clone(),
        source,
    };
    let length = tokio::fs::metadata(&path).await.map_err(failed)?.len();
    if length > MAX_KEY_FILE_BYTES {
        let message = format!("it has {length} bytes, which no key has");
        return Err(failed(std::io::Error::other(message)));
    }
    let text = tokio::fs::read_to_string(&path).await.map_err(failed)?;
    if text.trim().is_empty() {
        return Err(failed(std::io::Error::other("it holds no key")));
    }
    Ok(Secret::new(&text))
}
