//! The tokenizer inside a GGUF file, put into the form of `tokenizer.json`.
//!
//! Supported is `tokenizer.ggml.model` = "gpt2" (byte-level BPE) with the splitting rules named
//! below. SentencePiece vocabularies ("llama") have scores instead of merges and are refused, as are
//! rules with another name: put the model's tokenizer.json beside the file. candle's own reader takes
//! every unknown rule for GPT-2's, which cuts Llama 3's numbers wrongly.

use candle_core::quantized::gguf_file::Value as Entry;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::error::Error;
use super::gguf::Gguf;

/// A token that the model may emit and a text must not contain, in llama.cpp's numbering.
const CONTROL: i64 = 3;
/// A token that is found in a text before it is split.
const USER_DEFINED: i64 = 4;
/// A hole in the vocabulary.
const UNUSED: i64 = 5;

/// Builds the tokenizer.
///
/// # Errors
/// [`Error::Gguf`] naming the entry that is missing or not supported.
pub(crate) fn read_tokenizer(gguf: &Gguf) -> Result<Tokenizer, Error> {
    let kind = gguf.text("tokenizer.ggml.model")?.unwrap_or("nothing");
    if kind != "gpt2" {
        return Err(gguf.bad(format!(
            "`tokenizer.ggml.model` = \"{kind}\" is not supported (gpt2); put the model's tokenizer.json beside the file"
        )));
    }
    let tokens = texts(gguf, "tokenizer.ggml.tokens")?;
    let merges = merges(gguf)?;
    let vocabulary: Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), id.into()))
        .collect();
    let rules = rules(gguf)?;
    let state = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added(gguf, &tokens)?,
        "normalizer": rules.normalizer,
        "pre_tokenizer": rules.splitting,
        "post_processor": begin(gguf, &tokens)?,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges, "ignore_merges": rules.ignore_merges},
    });
    Tokenizer::from_bytes(state.to_string().as_bytes())
        .map_err(|e| gguf.bad(format!("its tokenizer: {e}")))
}

struct Rules {
    normalizer: Value,
    splitting: Value,
    /// Whether a piece that is a token stays whole even if no merges lead to it.
    ignore_merges: bool,
}

/// How a text is cut before merges apply: what the published tokenizer.json of each family says.
fn rules(gguf: &Gguf) -> Result<Rules, Error> {
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex});
    let split = |digits: &str| {
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let cut = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [cut, byte_level(false)]})
    };
    match gguf.text("tokenizer.ggml.pre")? {
        Some("llama-bpe" | "llama3" | "llama-v3") => Ok(Rules {
            normalizer: Value::Null,
            splitting: split(r"\p{N}{1,3}"),
            ignore_merges: true,
        }),
        Some("qwen2") => Ok(Rules {
            normalizer: json!({"type": "NFC"}),
            splitting: split(r"\p{N}"),
            ignore_merges: false,
        }),
        Some("gpt-2") => Ok(Rules {
            normalizer: Value::Null,
            splitting: byte_level(true),
            ignore_merges: false,
        }),
        other => Err(gguf.bad(format!(
            "`tokenizer.ggml.pre` = {other:?} is not supported (llama-bpe, qwen2, gpt-2); put the model's tokenizer.json beside the file"
        ))),
    }
}

fn merges(gguf: &Gguf) -> Result<Vec<[&str; 2]>, Error> {
    let pair = |merge: &'_ str| -> Option<usize> { merge.find(' ') };
    texts(gguf, "tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| match pair(merge) {
            Some(at) => Ok([&merge[..at], &merge[at + 1..]]),
            None => Err(gguf.bad(format!("`{merge}` in `tokenizer.ggml.merges` is no pair"))),
        })
        .collect()
}

fn added(gguf: &Gguf, tokens: &[&str]) -> Result<Vec<Value>, Error> {
    let kinds = gguf.list("tokenizer.ggml.token_type")?.unwrap_or_default();
    let kind = |entry: &Entry| entry.to_i32().map(i64::from).or_else(|_| entry.to_i64());
    let mut added = Vec::new();
    for (id, (token, entry)) in tokens.iter().zip(kinds).enumerate() {
        let kind =
            kind(entry).map_err(|_| gguf.bad("`tokenizer.ggml.token_type` is no list of kinds"))?;
        if [CONTROL, USER_DEFINED, UNUSED].contains(&kind) {
            added.push(json!({
                "id": id, "content": token, "special": kind != USER_DEFINED,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }));
        }
    }
    Ok(added)
}

/// The beginning-of-sequence token before a plain text, where the file asks for it.
fn begin(gguf: &Gguf, tokens: &[&str]) -> Result<Value, Error> {
    let wanted = gguf.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(false);
    let Some(id) = gguf
        .token("tokenizer.ggml.bos_token_id")?
        .filter(|_| wanted)
    else {
        return Ok(Value::Null);
    };
    let token = tokens
        .get(id as usize)
        .ok_or_else(|| gguf.bad("`tokenizer.ggml.bos_token_id` is beyond the vocabulary"))?;
    let sequence = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [special, sequence("A")],
        "pair": [special, sequence("A"), sequence("B")],
        "special_tokens": {*token: {"id": token, "ids": [id], "tokens": [token]}},
    }))
}

fn texts<'a>(gguf: &'a Gguf, key: &str) -> Result<Vec<&'a str>, Error> {
    let missing = || gguf.bad(format!("`{key}` is missing"));
    let entries = gguf.list(key)?.ok_or_else(missing)?;
    let text = |entry: &'a Entry| match entry {
        Entry::String(text) => Ok(text.as_str()),
        _ => Err(gguf.bad(format!("`{key}` holds what is not a string"))),
    };
    entries.iter().map(text).collect()
}
