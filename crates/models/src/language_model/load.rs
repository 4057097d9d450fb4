//! Loading: a folder in the Hugging Face layout, or a GGUF file with or without tokenizer.json beside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::Device;
use serde_json::Value;

use super::LanguageModel;
use super::chat::ChatTemplate;
use super::config::{DecoderConfig, ids};
use super::decoder::Decoder;
use super::error::Error;
use super::gguf::{Gguf, GgufSource};
use super::gguf_tokenizer::read_tokenizer;
use super::source::Safetensors;
use super::tokenizer::TextTokenizer;
use crate::config::Fields;
use crate::llama::OneOrMany;
use crate::weights::{Weights, checkpoint_sha256, deciding_files};

/// Where and how a model is held.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The device; the CPU by default.
    pub device: Device,
    /// Widens the blocks of a GGUF file to `f32`: up to eight times the memory, and products that are
    /// exactly those of the file's values. Otherwise candle's products round their other side to
    /// eight bits, as llama.cpp's do. False by default; safetensors are always widened.
    pub dequantise: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dequantise: false,
        }
    }
}

/// Names of special tokens in `tokenizer_config.json`, as templates use them.
const SPECIALS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

impl LanguageModel {
    /// Loads a folder (`config.json`, safetensors single or sharded, `tokenizer.json`) or a `.gguf`
    /// file, on the CPU.
    ///
    /// # Errors
    /// Names the file, and the field or tensor in it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::load_with(path, &LoadOptions::default())
    }

    /// Loads a model; see [`LanguageModel::load`].
    ///
    /// # Errors
    /// Names the file, and the field or tensor in it.
    pub fn load_with(path: &Path, options: &LoadOptions) -> Result<Self, Error> {
        match path.extension().is_some_and(|ending| ending == "gguf") {
            true => load_gguf(path, options),
            false => load_folder(path, options),
        }
    }
}

/// The SHA-256 of everything on the disk that decides what the model at `path` answers, in hex:
/// configuration, tokenizer, chat template and weights. Reads all of it: seconds for large models.
///
/// # Errors
/// [`Error::Weights`] for a file that cannot be read.
pub fn model_sha256(path: &Path) -> Result<String, Error> {
    let is_folder = path.is_dir();
    let folder = match is_folder {
        true => path,
        false => path.parent().unwrap_or(Path::new("")),
    };
    let mut files = match is_folder {
        true => deciding_files(folder)?,
        false => vec![path.to_owned(), folder.join("tokenizer.json")],
    };
    if is_folder {
        files.push(folder.join("chat_template.jinja"));
    }
    files.retain(|file| file.is_file());
    Ok(checkpoint_sha256(folder, &files)?)
}

fn load_folder(folder: &Path, options: &LoadOptions) -> Result<LanguageModel, Error> {
    let config = DecoderConfig::read(folder)?;
    let tokenizer = TextTokenizer::open(&folder.join("tokenizer.json"), config.vocab_size)?;
    let end_tokens = match generation_end_tokens(folder)? {
        tokens if tokens.is_empty() => config.end_tokens.clone(),
        tokens => tokens,
    };
    let template = folder_template(folder)?;
    let weights = Weights::open_in(folder, &["model"])?;
    let mut source = Safetensors::new(weights, &options.device, config.tied);
    Ok(LanguageModel {
        decoder: Decoder::load(config, &mut source, &options.device)?,
        tokenizer,
        template,
        end_tokens,
        vocabulary: OnceLock::new(),
    })
}

fn load_gguf(path: &Path, options: &LoadOptions) -> Result<LanguageModel, Error> {
    let mut gguf = Gguf::open(path)?;
    let config = gguf.decoder_config(&options.device)?;
    let beside = path.with_file_name("tokenizer.json");
    let tokenizer = match beside.is_file() {
        true => TextTokenizer::open(&beside, config.vocab_size)?,
        false => TextTokenizer::new(read_tokenizer(&gguf)?, path, config.vocab_size)?,
    };
    let mut specials = BTreeMap::new();
    for (name, key) in SPECIALS.iter().zip(["bos", "eos", "unknown", "padding"]) {
        let token = gguf.token(&format!("tokenizer.ggml.{key}_token_id"))?;
        let text = token.and_then(|token| tokenizer.text_of(token));
        specials.extend(text.map(|text| ((*name).to_owned(), text)));
    }
    let template = gguf.text("tokenizer.chat_template")?;
    let template = template.map(|source| ChatTemplate::new(source, path, specials));
    let template = template.transpose()?;
    let end_tokens = config.end_tokens.clone();
    let mut source = GgufSource::new(&mut gguf, &options.device, options.dequantise);
    Ok(LanguageModel {
        decoder: Decoder::load(config, &mut source, &options.device)?,
        tokenizer,
        template,
        end_tokens,
        vocabulary: OnceLock::new(),
    })
}

/// What `generation_config.json` says; nothing where there is none.
fn generation_end_tokens(folder: &Path) -> Result<Vec<u32>, Error> {
    let file = folder.join("generation_config.json");
    if !file.is_file() {
        return Ok(Vec::new());
    }
    Ok(ids(Fields::open(&file)?.take::<OneOrMany>("eos_token_id")?))
}

/// The template in `chat_template.jinja`, or else in `tokenizer_config.json`.
fn folder_template(folder: &Path) -> Result<Option<ChatTemplate>, Error> {
    let file = folder.join("tokenizer_config.json");
    let mut settings = match file.is_file() {
        true => Some(Fields::open(&file)?),
        false => None,
    };
    let mut specials = BTreeMap::new();
    let mut inline = None;
    if let Some(settings) = &mut settings {
        for name in SPECIALS {
            let text = settings.take::<Value>(name)?.as_ref().and_then(token_text);
            specials.extend(text.map(|text| (name.to_owned(), text)));
        }
        inline = settings.take::<Value>("chat_template")?;
    }
    let Some((source, path)) = template_source(folder, &file, inline)? else {
        return Ok(None);
    };
    ChatTemplate::new(&source, &path, specials).map(Some)
}

fn template_source(
    folder: &Path,
    settings: &Path,
    inline: Option<Value>,
) -> Result<Option<(String, PathBuf)>, Error> {
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        let source = std::fs::read_to_string(&file).map_err(|source| Error::Read {
            path: file.clone(),
            source,
        })?;
        return Ok(Some((source, file)));
    }
    let source = match inline {
        None => return Ok(None),
        Some(Value::String(source)) => Some(source),
        // Several by name; the one called `default` is for plain conversations.
        Some(Value::Array(named)) => named
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str().map(str::to_owned)),
        Some(_) => None,
    };
    let source = source.ok_or_else(|| Error::Template {
        path: settings.into(),
        reason: "`chat_template` is neither a text nor a list with one called `default`".into(),
    })?;
    Ok(Some((source, settings.into())))
}

/// A special token is a text, or an object with the text in `content`.
fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value["content"].as_str());
    text.map(str::to_owned)
}
