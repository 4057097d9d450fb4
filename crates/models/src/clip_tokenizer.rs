//! CLIP's tokenizer: byte-level BPE over lower-cased words, as transformers' `CLIPTokenizer` has it.
//!
//! Reads `tokenizer.json`, or `vocab.json` and `merges.txt` (as Stable Diffusion ships them), and the
//! special tokens and length from `tokenizer_config.json` and `special_tokens_map.json`. The BPE itself
//! is the `tokenizers` crate, set up as transformers 5 sets it up.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// The words, numbers and marks that CLIP splits a text into.
const PATTERN: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// What can be wrong with a tokenizer's files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is not a usable tokenizer file: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A special token is not in the vocabulary.
    #[error("the tokenizer in {} has no token `{token}`", folder.display())]
    NoToken {
        /// The folder.
        folder: PathBuf,
        /// The token.
        token: String,
    },
    /// A text cannot be encoded.
    #[error("cannot tokenize the text: {0}")]
    Encode(String),
}

/// A loaded tokenizer.
pub struct ClipTokenizer {
    inner: Tokenizer,
    /// First token of every prompt.
    pub start: u32,
    /// Last token of every prompt.
    pub end: u32,
    /// What shorter prompts are filled up with.
    pub pad: u32,
    /// Tokens of one prompt, `start` and `end` included, as `tokenizer_config.json` says.
    pub max_length: Option<usize>,
}

impl ClipTokenizer {
    /// Loads the tokenizer in `folder`.
    ///
    /// # Errors
    /// [`Error`], naming the file or the token.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let settings = read_object(&folder.join("tokenizer_config.json"))?;
        let map = read_object(&folder.join("special_tokens_map.json"))?;
        let special = |name: &str, default: &str| -> String {
            let found = settings.get(name).or_else(|| map.get(name));
            let text = found.and_then(|v| v.get("content").unwrap_or(v).as_str());
            text.unwrap_or(default).to_owned()
        };
        let (start, end) = (special("bos_token", START), special("eos_token", END));
        let mut inner = load_bpe(folder, &start, &end, &special("unk_token", END))?;
        let pad = special("pad_token", &end);
        if inner.token_to_id(&pad).is_some() {
            // Padding in a text is padding too: Stable Diffusion XL's second tokenizer pads with `!`, and
            // so reads every `!`.
            inner
                .add_special_tokens([AddedToken::from(pad.as_str(), true)])
                .map_err(|e| Error::Encode(e.to_string()))?;
        }
        let id = |token: String| {
            let missing = || Error::NoToken {
                folder: folder.into(),
                token: token.clone(),
            };
            inner.token_to_id(&token).ok_or_else(missing)
        };
        let pad = id(pad)?;
        let (start, end) = (id(start)?, id(end)?);
        // Files without a limit hold 1e30 here.
        let max_length = settings.get("model_max_length").and_then(Value::as_u64);
        let max_length = max_length
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n < 1 << 20);
        Ok(Self {
            inner,
            start,
            end,
            pad,
            max_length,
        })
    }

    /// The tokens of `text`, without start, end and padding.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| Error::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// `tokens` between start and end, cut and padded to `length` as diffusers does.
    pub fn framed(&self, tokens: &[u32], length: usize) -> Vec<u32> {
        let kept = &tokens[..tokens.len().min(length.saturating_sub(2))];
        let mut ids = vec![self.start];
        ids.extend_from_slice(kept);
        ids.push(self.end);
        ids.resize(length.max(ids.len()), self.pad);
        ids
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

fn load_bpe(folder: &Path, start: &str, end: &str, unknown: &str) -> Result<Tokenizer, Error> {
    let whole = folder.join("tokenizer.json");
    let bad = |file: &Path, reason: String| Error::Malformed {
        file: file.into(),
        reason,
    };
    if whole.is_file() {
        let mut inner = Tokenizer::from_file(&whole).map_err(|e| bad(&whole, e.to_string()))?;
        inner
            .with_truncation(None)
            .map_err(|e| bad(&whole, e.to_string()))?;
        inner.with_padding(None);
        return Ok(inner);
    }
    let vocab_file = folder.join("vocab.json");
    let vocab = Value::Object(read_existing(&vocab_file)?);
    let merges_file = folder.join("merges.txt");
    let text = std::fs::read_to_string(&merges_file).map_err(|source| Error::Read {
        file: merges_file.clone(),
        source,
    })?;
    let merges: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.trim().is_empty())
        .collect();
    if let Some(line) = merges.iter().find(|line| line.split(' ').count() != 2) {
        return Err(bad(&merges_file, format!("`{line}` is not a pair")));
    }
    let added: Vec<Value> = [start, end]
        .iter()
        .filter_map(|token| vocab.get(*token).map(|id| (token, id)))
        .map(|(token, id)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let description = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
            {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocab, "merges": merges},
    });
    Tokenizer::from_bytes(description.to_string()).map_err(|e| bad(&vocab_file, e.to_string()))
}

/// The object in `file`; empty when there is no such file.
fn read_object(file: &Path) -> Result<serde_json::Map<String, Value>, Error> {
    if file.is_file() {
        read_existing(file)
    } else {
        Ok(serde_json::Map::new())
    }
}

fn read_existing(file: &Path) -> Result<serde_json::Map<String, Value>, Error> {
    let text = std::fs::read(file).map_err(|source| Error::Read {
        file: file.into(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|e| Error::Malformed {
        file: file.into(),
        reason: e.to_string(),
    })
}
