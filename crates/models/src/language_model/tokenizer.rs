//! A tokenizer whose every token is known as bytes, so that a text can stream and a grammar can look
//! inside tokens.
//!
//! Byte-level BPE (GPT-2's alphabet) and SentencePiece with byte fallback are known; a decoder of
//! another kind is refused.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use super::error::Error;

/// A tokenizer that was checked against its model.
pub(crate) struct TextTokenizer {
    inner: Tokenizer,
    path: PathBuf,
    /// Per token: its bytes; empty for control tokens, which are no text, and for holes.
    bytes: Vec<Box<[u8]>>,
    /// The texts of control tokens.
    controls: Vec<String>,
    strips_first_space: bool,
}

/// How tokens spell bytes.
#[derive(Clone, Copy)]
enum Spelling {
    /// Every character stands for one byte.
    ByteLevel,
    /// `▁` is a space and `<0x0A>` a byte.
    SentencePiece,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// Names the file.
    pub(crate) fn open(path: &Path, vocab_size: usize) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read {
            path: path.into(),
            source,
        })?;
        let inner = Tokenizer::from_bytes(&bytes).map_err(|e| Error::Tokenizer {
            path: path.into(),
            reason: format!("not a tokenizer: {e}"),
        })?;
        Self::new(inner, path, vocab_size)
    }

    /// Checks a tokenizer that was read from `path`.
    ///
    /// # Errors
    /// Refuses one that knows tokens beyond `vocab_size`, or whose tokens are no bytes.
    pub(crate) fn new(inner: Tokenizer, path: &Path, vocab_size: usize) -> Result<Self, Error> {
        let bad = |reason: String| Error::Tokenizer {
            path: path.into(),
            reason,
        };
        let decoder = serde_json::to_string(&inner.get_decoder()).unwrap_or_default();
        let spelling = match () {
            () if decoder.contains("\"ByteLevel\"") => Spelling::ByteLevel,
            () if decoder.contains("\"ByteFallback\"") => Spelling::SentencePiece,
            () => {
                let reason =
                    format!("its decoder is not supported (ByteLevel, ByteFallback): {decoder}");
                return Err(bad(reason));
            }
        };
        let mut bytes = vec![Box::<[u8]>::default(); vocab_size];
        for (token, id) in inner.get_vocab(true) {
            let place = bytes.get_mut(id as usize).ok_or_else(|| {
                bad(format!(
                    "it knows token {id}, but the model has {vocab_size} embeddings"
                ))
            })?;
            *place = spelling.bytes_of(&token);
        }
        let mut controls = Vec::new();
        for (id, added) in inner.get_added_tokens_decoder() {
            let Some(place) = bytes.get_mut(id as usize) else {
                continue;
            };
            *place = match added.special {
                true => Box::default(),
                false => added.content.as_bytes().into(),
            };
            if added.special && !added.content.is_empty() {
                controls.push(added.content);
            }
        }
        controls.sort();
        Ok(Self {
            strips_first_space: decoder.contains("\"Strip\""),
            path: path.into(),
            inner,
            bytes,
            controls,
        })
    }

    /// Tokens of a text. With `framed`, what the tokenizer puts around a text is added; a chat
    /// template writes that itself.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub(crate) fn encode(&self, text: &str, framed: bool) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode(text, framed);
        let encoding = encoding.map_err(|e| Error::Tokenizer {
            path: self.path.clone(),
            reason: format!("cannot tokenise a text: {e}"),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The bytes of every token; empty for control tokens and holes.
    pub(crate) fn bytes(&self) -> &[Box<[u8]>] {
        &self.bytes
    }

    /// The bytes of one token.
    pub(crate) fn bytes_of(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], AsRef::as_ref)
    }

    /// The first control token that `text` spells out.
    pub(crate) fn control_in(&self, text: &str) -> Option<&str> {
        let found = self.controls.iter().find(|c| text.contains(c.as_str()));
        found.map(String::as_str)
    }

    /// The text of a token, as templates write it.
    pub(crate) fn text_of(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// Whether an answer's first space belongs to the tokenizer and not to the answer.
    pub(crate) fn strips_first_space(&self) -> bool {
        self.strips_first_space
    }
}

impl Spelling {
    fn bytes_of(self, token: &str) -> Box<[u8]> {
        match self {
            Self::ByteLevel => token.chars().flat_map(byte_level).collect(),
            Self::SentencePiece => {
                let hex = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
                match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => [byte].into(),
                    None => token.replace('▁', " ").into_bytes().into(),
                }
            }
        }
    }
}

/// The byte behind a character of GPT-2's alphabet: printable Latin-1 stands for itself, and the
/// other bytes, in order, follow from U+0100 on.
fn byte_level(character: char) -> Vec<u8> {
    let printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let code = u32::from(character);
    if let Some(byte) = u8::try_from(code).ok().filter(printable) {
        return vec![byte];
    }
    let mut others = (0..=u8::MAX).filter(|byte| !printable(byte));
    let nth = code.checked_sub(0x100).and_then(|n| others.nth(n as usize));
    nth.map_or_else(|| character.to_string().into_bytes(), |byte| vec![byte])
}
