//! T5's tokenizer: `tokenizer.json` as transformers' `T5TokenizerFast` writes it, an end token, padding.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::clip_tokenizer::Error;

/// A loaded tokenizer.
pub struct T5Tokenizer {
    inner: Tokenizer,
    end: u32,
    pad: u32,
}

impl T5Tokenizer {
    /// Loads the tokenizer in `folder`.
    ///
    /// # Errors
    /// [`Error`], naming the file or the token.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let file = folder.join("tokenizer.json");
        let bad = |reason: String| Error::Malformed {
            file: file.clone(),
            reason,
        };
        if !file.is_file() {
            return Err(bad(match folder.join("spiece.model").is_file() {
                true => "is missing: spiece.model alone is not read, save the tokenizer as tokenizer.json",
                false => "is missing",
            }
            .to_owned()));
        }
        let mut inner = Tokenizer::from_file(&file).map_err(|e| bad(e.to_string()))?;
        inner
            .with_truncation(None)
            .map_err(|e| bad(e.to_string()))?;
        inner.with_padding(None);
        let settings = read_settings(&folder.join("tokenizer_config.json"))?;
        let id = |name: &str, default: &str| {
            let stated = settings.get(name);
            let stated = stated.and_then(|v| v.get("content").unwrap_or(v).as_str());
            let token = stated.unwrap_or(default).to_owned();
            let folder = folder.to_path_buf();
            let found = inner.token_to_id(&token);
            found.ok_or(Error::NoToken { folder, token })
        };
        let (end, pad) = (id("eos_token", "</s>")?, id("pad_token", "<pad>")?);
        Ok(Self { inner, end, pad })
    }

    /// The tokens of `text`, without end and padding.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|e| Error::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// `tokens` and the end, cut and padded to `length`, as diffusers' pipelines do.
    pub fn framed(&self, tokens: &[u32], length: usize) -> Vec<u32> {
        let mut ids = tokens[..tokens.len().min(length.saturating_sub(1))].to_vec();
        ids.push(self.end);
        ids.resize(length.max(ids.len()), self.pad);
        ids
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// The object in `file`; empty when there is no such file.
fn read_settings(file: &Path) -> Result<Map<String, Value>, Error> {
    if !file.is_file() {
        return Ok(Map::new());
    }
    let text = std::fs::read(file).map_err(|source| Error::Read {
        file: file.into(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|e| Error::Malformed {
        file: file.into(),
        reason: e.to_string(),
    })
}
