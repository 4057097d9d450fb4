//! Sentence embeddings (Reimers and Gurevych 2019) in the folders of sentence-transformers: a BERT, a
//! pooling of its states, and often a norm, as `modules.json` lists them.
//!
//! One text per product and no padding, so a vector is the same bits in any company. RoBERTa, MPNet
//! and further modules (`Dense`) are refused by name.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{Tokenizer, TruncationParams};

use crate::bert::{self, Bert};
use crate::checkpoint::read_json;
use crate::clip_tokenizer;
use crate::config::{self, Fields};
use crate::encoder::unit;
use crate::measuring::Error;
use crate::weights::{Weights, checkpoint_sha256, deciding_files};

/// How the states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooling {
    /// The mean over all tokens, the special ones among them.
    Mean,
    /// The first token's state.
    Cls,
    /// The greatest of each dimension.
    Max,
}

/// A loaded folder.
pub struct SentenceEmbedder {
    tokenizer: Tokenizer,
    lowers_case: bool,
    /// What the checkpoint puts before every text.
    prompt: String,
    bert: Bert,
    pooling: Pooling,
    is_normalized: bool,
    width: usize,
    sha256: String,
    parameter_count: u64,
}

impl SentenceEmbedder {
    /// Loads a folder with `modules.json`.
    ///
    /// # Errors
    /// [`Error`], naming file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let modules = Modules::read(folder)?;
        let encoder = &modules.encoder;
        let mut fields = Fields::open(&encoder.join("config.json"))?;
        check_is_bert(&mut fields)?;
        let config = bert::Config::from_fields(&mut fields)?;
        let weights = Weights::open_in(encoder, &["model"])?;
        let parameter_count = weights.parameter_count();
        let weights = weights.with_optional_prefix("bert.");
        let settings: EncoderSettings = read_optional(&encoder.join("sentence_bert_config.json"))?;
        let most = config.max_position_embeddings;
        let length = settings.max_seq_length.map_or(most, |n| n.min(most));
        let prompt = default_prompt(folder)?;
        Ok(Self {
            tokenizer: load_tokenizer(encoder, length)?,
            lowers_case: settings.do_lower_case,
            pooling: read_pooling(&modules.pooling, config.width(), !prompt.is_empty())?,
            prompt,
            bert: Bert::from_weights(config, &weights)?,
            is_normalized: modules.is_normalized,
            width: config.width(),
            sha256: modules.sha256(folder)?,
            parameter_count,
        })
    }

    /// SHA-256 over the files of the checkpoint, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Length of its vectors.
    pub fn dim(&self) -> usize {
        self.width
    }

    /// Numbers in the checkpoint.
    pub fn parameter_count(&self) -> u64 {
        self.parameter_count
    }

    /// The vector of a text as sentence-transformers gives it, of length 1 where the folder has a
    /// `Normalize` module. What is over the folder's `max_seq_length` is cut.
    ///
    /// # Errors
    /// [`Error`], for a text that cannot be tokenized.
    pub fn encode(&self, text: &str) -> Result<Vec<f32>, Error> {
        let mut text = format!("{}{text}", self.prompt);
        if self.lowers_case {
            text = text.to_lowercase();
        }
        let encoding = self.tokenizer.encode_fast(text, true);
        let encoding = encoding.map_err(|e| clip_tokenizer::Error::Encode(e.to_string()))?;
        let states = self.bert.states(encoding.get_ids())?;
        let vector = self.pooling.of(&states, self.width);
        Ok(match self.is_normalized {
            true => unit(vector),
            false => vector,
        })
    }

    /// The unit vector of a text.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn embed_text(&self, text: &str) -> Result<Vec<f32>, Error> {
        self.encode(text).map(unit)
    }
}

impl Pooling {
    /// Of the states of at least one token.
    fn of(self, states: &[f32], width: usize) -> Vec<f32> {
        let (first, rest) = states.split_at(width);
        let mut pooled = first.to_vec();
        for row in rest.chunks_exact(width) {
            for (p, v) in pooled.iter_mut().zip(row) {
                match self {
                    Self::Mean => *p += *v,
                    Self::Max => *p = p.max(*v),
                    Self::Cls => {}
                }
            }
        }
        if self == Self::Mean {
            let count = (states.len() / width) as f32;
            pooled.iter_mut().for_each(|p| *p /= count);
        }
        pooled
    }
}

/// What `modules.json` lists, in the only order that is known: encoder, pooling, norm.
struct Modules {
    encoder: PathBuf,
    pooling: PathBuf,
    is_normalized: bool,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    class: String,
}

impl Modules {
    fn read(folder: &Path) -> Result<Self, Error> {
        let file = folder.join("modules.json");
        let modules: Vec<Module> = read_json(&file)?;
        let kinds: Vec<&str> = modules.iter().map(Module::kind).collect();
        let is_known = matches!(
            kinds.as_slice(),
            ["Transformer", "Pooling"] | ["Transformer", "Pooling", "Normalize"]
        );
        if !is_known {
            return Err(unsupported(
                &file,
                "type",
                &kinds.join(", "),
                "Transformer, Pooling and an optional Normalize, in this order",
            ));
        }
        let place = |module: &Module| {
            // A module is a folder below its list, never a path to elsewhere.
            let is_inside = Path::new(&module.path)
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)));
            match is_inside {
                true => Ok(folder.join(&module.path)),
                false => Err(unsupported(&file, "path", &module.path, "a folder below")),
            }
        };
        Ok(Self {
            encoder: place(&modules[0])?,
            pooling: place(&modules[1])?.join("config.json"),
            is_normalized: modules.len() == 3,
        })
    }

    fn sha256(&self, folder: &Path) -> Result<String, Error> {
        let mut files = deciding_files(folder)?;
        if self.encoder != folder {
            files.extend(deciding_files(&self.encoder)?);
        }
        files.push(self.pooling.clone());
        files.sort();
        files.dedup();
        Ok(checkpoint_sha256(folder, &files)?)
    }
}

impl Module {
    /// The class without its module, which moves from version to version.
    fn kind(&self) -> &str {
        self.class.rsplit('.').next().unwrap_or_default()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EncoderSettings {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
}

/// The file's content, or the defaults where there is no such file.
fn read_optional<T: Default + serde::de::DeserializeOwned>(file: &Path) -> Result<T, Error> {
    match file.is_file() {
        true => Ok(read_json(file)?),
        false => Ok(T::default()),
    }
}

fn check_is_bert(fields: &mut Fields) -> Result<(), Error> {
    let model_type: String = fields.require("model_type")?;
    match model_type.as_str() {
        "bert" => Ok(()),
        other => Err(unsupported(
            fields.file(),
            "model_type",
            other,
            "sentence-transformers over bert",
        )),
    }
}

fn load_tokenizer(folder: &Path, length: usize) -> Result<Tokenizer, Error> {
    let file = folder.join("tokenizer.json");
    let bad = |reason: String| clip_tokenizer::Error::Malformed {
        file: file.clone(),
        reason,
    };
    if !file.is_file() {
        return Err(bad("is missing".to_owned()).into());
    }
    let mut tokenizer = Tokenizer::from_file(&file).map_err(|e| bad(e.to_string()))?;
    let truncation = TruncationParams {
        max_length: length,
        ..TruncationParams::default()
    };
    tokenizer
        .with_truncation(Some(truncation))
        .map_err(|e| bad(e.to_string()))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// What `config_sentence_transformers.json` says to put before every text.
fn default_prompt(folder: &Path) -> Result<String, Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Settings {
        prompts: Option<std::collections::BTreeMap<String, String>>,
        default_prompt_name: Option<String>,
    }
    let settings: Settings = read_optional(&folder.join("config_sentence_transformers.json"))?;
    let name = settings.default_prompt_name.unwrap_or_default();
    let prompt = settings.prompts.and_then(|mut all| all.remove(&name));
    Ok(prompt.unwrap_or_default())
}

/// Reads both forms of the file: one switch per mode (until version 5), and the mode's name.
fn read_pooling(file: &Path, width: usize, has_prompt: bool) -> Result<Pooling, Error> {
    let mut fields = Fields::open(file)?;
    let dim = fields.take("word_embedding_dimension")?;
    let dim = dim.or(fields.take("embedding_dimension")?);
    if dim.is_some_and(|dim: usize| dim != width) {
        let reason = format!("is {}, the encoder has {width}", dim.unwrap_or_default());
        return Err(fields.invalid("word_embedding_dimension", reason).into());
    }
    if has_prompt {
        fields.only("include_prompt", true)?;
    }
    let mut modes: Vec<String> = Vec::new();
    for (field, mode) in [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
        ("pooling_mode_lasttoken", "lasttoken"),
    ] {
        modes.extend(fields.take_or(field, false)?.then(|| mode.to_owned()));
    }
    match fields.take::<Value>("pooling_mode")? {
        Some(Value::String(mode)) => modes.push(mode),
        Some(Value::Array(listed)) => {
            modes.extend(listed.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        _ => {}
    }
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["mean"] => Ok(Pooling::Mean),
        ["cls"] => Ok(Pooling::Cls),
        ["max"] => Ok(Pooling::Max),
        _ => Err(unsupported(
            file,
            "pooling_mode",
            &modes.join(", "),
            "one of mean, cls, max",
        )),
    }
}

fn unsupported(file: &Path, field: &str, value: &str, supported: &str) -> Error {
    config::Error::Unsupported {
        file: file.into(),
        field: field.to_owned(),
        value: value.to_owned(),
        supported: supported.to_owned(),
    }
    .into()
}
