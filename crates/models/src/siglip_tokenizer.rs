//! The tokenizers of SigLIP and of SigLIP 2: `tokenizer.json`, the words before it made plain as the
//! classes of transformers do, and padding to the encoder's length.
//!
//! `SiglipTokenizer` lowers the case, drops ASCII punctuation and joins white space; Gemma's, which
//! SigLIP 2 has, lowers the case alone (transformers' `Siglip2Tokenizer`). Doing it twice changes
//! nothing, so a `tokenizer.json` that does it too is read the same.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::{PaddingDirection, PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};

use crate::checkpoint::read_json;
use crate::clip_tokenizer;
use crate::measuring::Error;

/// A loaded tokenizer that gives `length` tokens for every text.
pub(crate) struct SiglipTokenizer {
    inner: Tokenizer,
    drops_punctuation: bool,
    lowers_case: bool,
}

impl SiglipTokenizer {
    /// Loads the tokenizer in `folder` for texts of `length` tokens.
    pub(crate) fn load(folder: &Path, length: usize) -> Result<Self, Error> {
        let file = folder.join("tokenizer.json");
        let bad = |reason: String| {
            Error::from(clip_tokenizer::Error::Malformed {
                file: file.clone(),
                reason,
            })
        };
        if !file.is_file() {
            let has_spiece = folder.join("spiece.model").is_file();
            return Err(bad(match has_spiece {
                true => "is missing: spiece.model alone is not read, save the tokenizer as tokenizer.json",
                false => "is missing",
            }
            .to_owned()));
        }
        let settings_file = folder.join("tokenizer_config.json");
        let settings: Map<String, Value> = read_json(&settings_file)?;
        let drops_punctuation = drops_punctuation(&settings, &settings_file)?;
        let mut inner = Tokenizer::from_file(&file).map_err(|e| bad(e.to_string()))?;
        let truncation = TruncationParams {
            max_length: length,
            ..TruncationParams::default()
        };
        inner
            .with_truncation(Some(truncation))
            .map_err(|e| bad(e.to_string()))?;
        let pad_token = token(&settings, "pad_token").unwrap_or("</s>").to_owned();
        let pad_id = inner.token_to_id(&pad_token);
        let pad_id = pad_id.ok_or_else(|| bad(format!("has no padding token `{pad_token}`")))?;
        let side = settings.get("padding_side").and_then(Value::as_str);
        inner.with_padding(Some(PaddingParams {
            strategy: PaddingStrategy::Fixed(length),
            direction: match side {
                Some("left") => PaddingDirection::Left,
                _ => PaddingDirection::Right,
            },
            pad_id,
            pad_token,
            ..PaddingParams::default()
        }));
        let lowers_case = settings.get("do_lower_case").and_then(Value::as_bool);
        Ok(Self {
            inner,
            drops_punctuation,
            lowers_case: lowers_case.unwrap_or(true),
        })
    }

    /// The tokens of a text, cut and padded.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut plain = match self.lowers_case {
            true => text.to_lowercase(),
            false => text.to_owned(),
        };
        if self.drops_punctuation {
            plain = canonical(plain);
        }
        let encoding = self.inner.encode_fast(plain, true);
        let encoding = encoding.map_err(|e| clip_tokenizer::Error::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// By the tokenizer's class, which must be one of those that SigLIP came with.
fn drops_punctuation(settings: &Map<String, Value>, file: &Path) -> Result<bool, Error> {
    let class = settings.get("tokenizer_class").and_then(Value::as_str);
    match class.map(|name| name.trim_end_matches("Fast")) {
        Some("SiglipTokenizer") => Ok(true),
        Some("Siglip2Tokenizer" | "GemmaTokenizer") => Ok(false),
        other => Err(crate::config::Error::Unsupported {
            file: file.into(),
            field: "tokenizer_class".to_owned(),
            value: other.unwrap_or("nothing").to_owned(),
            supported: "SiglipTokenizer, Siglip2Tokenizer, GemmaTokenizer".to_owned(),
        }
        .into()),
    }
}

/// A special token, written as a string or as an object with its `content`.
fn token<'a>(settings: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let value = settings.get(name)?;
    value.get("content").unwrap_or(value).as_str()
}

/// No ASCII punctuation, single spaces.
fn canonical(mut plain: String) -> String {
    plain.retain(|c| !c.is_ascii_punctuation());
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}
