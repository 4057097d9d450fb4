//! A LLaVA tokenizer: `tokenizer.json`, with `<image>` spliced in as LLaVA does it.
//!
//! The text is split at `<image>`, every chunk is tokenised on its own (so the chunk after an image
//! has its own dummy prefix), and only the first keeps the beginning-of-sequence token.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::llava_error::Error;

/// What stands for a picture in a text.
pub const IMAGE_MARK: &str = "<image>";

/// A tokenizer that was checked against its model.
#[derive(Debug)]
pub struct LlavaTokenizer {
    inner: Tokenizer,
    path: PathBuf,
    prefix: Vec<u32>,
    image_token: u32,
    end_token: u32,
}

/// A token and the bytes of the text that it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpannedToken {
    /// The token.
    pub id: u32,
    /// Bytes of the text; empty at 0 for the beginning-of-sequence token.
    pub span: Range<usize>,
}

/// What a tokenizer must agree on with its model.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// `image_token_index` of the model.
    pub image_token: u32,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// `bos_token_id` of the model.
    pub begin_token: Option<u32>,
    /// The first `eos_token_id` of the model.
    pub end_token: u32,
}

impl LlavaTokenizer {
    /// Reads `tokenizer.json` in `folder`.
    ///
    /// # Errors
    /// Names the file when it does not load, knows tokens that the model has no embedding for, or
    /// has another `<image>` than the model.
    pub fn load(folder: &Path, expected: Expected) -> Result<Self, Error> {
        let path = folder.join("tokenizer.json");
        let bad = |reason: String| Error::Tokenizer {
            path: path.clone(),
            reason,
        };
        let bytes = std::fs::read(&path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        let inner =
            Tokenizer::from_bytes(&bytes).map_err(|e| bad(format!("not a tokenizer: {e}")))?;
        let highest = inner
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id as usize + 1);
        if highest > expected.vocab_size {
            let rows = expected.vocab_size;
            return Err(bad(format!(
                "it knows {highest} tokens, but the model has {rows} embeddings"
            )));
        }
        let found = inner.token_to_id(IMAGE_MARK);
        if found != Some(expected.image_token) {
            let found = found.map_or("no such token".into(), |id| format!("token {id}"));
            let index = expected.image_token;
            return Err(bad(format!(
                "`<image>` is {found}, but the model's image_token_index is {index}"
            )));
        }
        let end_token = expected.end_token;
        let prefix = begin_tokens(&inner, folder, expected).map_err(&bad)?;
        Ok(Self {
            inner,
            prefix,
            image_token: expected.image_token,
            end_token,
            path,
        })
    }

    /// The token that stands for a picture.
    pub fn image_token(&self) -> u32 {
        self.image_token
    }

    /// The text of the token that ends an answer, as templates write it.
    pub fn end_mark(&self) -> String {
        self.inner
            .id_to_token(self.end_token)
            .unwrap_or_else(|| "</s>".into())
    }

    /// The token that ends an answer.
    pub fn end_token(&self) -> u32 {
        self.end_token
    }

    /// Tokens of `text`, pictures included, with the bytes that each covers.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<SpannedToken>, Error> {
        let mut tokens: Vec<SpannedToken> = self
            .prefix
            .iter()
            .map(|&id| SpannedToken { id, span: 0..0 })
            .collect();
        let mut start = 0;
        for (index, chunk) in text.split(IMAGE_MARK).enumerate() {
            if index > 0 {
                tokens.push(SpannedToken {
                    id: self.image_token,
                    span: start..start + IMAGE_MARK.len(),
                });
                start += IMAGE_MARK.len();
            }
            let encoding = self
                .inner
                .encode(chunk, false)
                .map_err(|e| Error::Tokenizer {
                    path: self.path.clone(),
                    reason: format!("cannot tokenise a text: {e}"),
                })?;
            let spans = encoding
                .get_offsets()
                .iter()
                .map(|&(from, to)| start + from..start + to);
            tokens.extend(
                encoding
                    .get_ids()
                    .iter()
                    .zip(spans)
                    .map(|(&id, span)| SpannedToken { id, span }),
            );
            start += chunk.len();
        }
        Ok(tokens)
    }

    /// The text of an answer; special tokens are left out, surrounding space is cut.
    ///
    /// # Errors
    /// When the tokenizer cannot decode.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        let text = self
            .inner
            .decode(tokens, true)
            .map_err(|e| Error::Tokenizer {
                path: self.path.clone(),
                reason: format!("cannot decode an answer: {e}"),
            })?;
        Ok(text.trim().to_owned())
    }
}

/// What the tokenizer puts before a text: its post-processor's tokens, or the model's beginning
/// token where `tokenizer_config.json` asks for it.
fn begin_tokens(inner: &Tokenizer, folder: &Path, expected: Expected) -> Result<Vec<u32>, String> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Settings {
        add_bos_token: bool,
    }
    let empty = inner
        .encode("", true)
        .map_err(|e| format!("cannot tokenise: {e}"))?;
    let tokens: Vec<u32> = empty
        .get_ids()
        .iter()
        .copied()
        .filter(|&id| id != expected.end_token)
        .collect();
    if !tokens.is_empty() {
        return Ok(tokens);
    }
    let settings = std::fs::read(folder.join("tokenizer_config.json")).unwrap_or_default();
    let settings: Settings = serde_json::from_slice(&settings).unwrap_or_default();
    Ok(expected
        .begin_token
        .filter(|_| settings.add_bos_token)
        .into_iter()
        .collect())
}
