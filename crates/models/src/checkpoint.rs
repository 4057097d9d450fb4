//! Writing LLaVA checkpoints in the canonical Hugging Face layout.
//!
//! The layout with `vision_tower.vision_model.*`, `language_model.model.*` and metadata
//! `{"format": "pt"}` is the only one that every transformers from 4.37 to 5.x loads with no
//! missing key, so it is the one written.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::llava::Llava;
use crate::llava_error::Error;
use crate::parameter::Parameter;

/// Files that are copied from the model that training started from, where it has them.
const COPIED: [&str; 10] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "chat_template.json",
    "chat_template.jinja",
];

/// Reads and parses a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        path: path.into(),
        source,
    })
}

/// A tensor to be written: name, shape, values.
pub type Entry = (String, Vec<usize>, Vec<f32>);

/// Writes `f32` tensors to a safetensors file and makes sure that they are on the disk.
///
/// # Errors
/// Names the file.
pub fn write_tensors(
    path: &Path,
    entries: &[Entry],
    metadata: HashMap<String, String>,
) -> Result<(), Error> {
    let failed = |source: std::io::Error| Error::Write {
        path: path.into(),
        source,
    };
    let bytes: Vec<Vec<u8>> = entries
        .iter()
        .map(|(_, _, values)| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        })
        .collect();
    let mut views = Vec::new();
    for ((name, shape, _), bytes) in entries.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        views.push((
            name,
            view.map_err(|e| failed(std::io::Error::other(e.to_string())))?,
        ));
    }
    serialize_to_file(views, Some(metadata), path)
        .map_err(|e| failed(std::io::Error::other(e.to_string())))?;
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(failed)
}

/// Fills a new folder and gives it its name only when it is whole; one that stands there is
/// replaced.
///
/// # Errors
/// What `fill` gives, or the folder that cannot be written.
pub fn write_folder<E: From<Error>>(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source: std::io::Error| E::from(Error::Write { path, source })
    };
    let sibling = |ending: &str| {
        let name = folder
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        folder.with_file_name(format!(".{name}.{ending}"))
    };
    let (new, old) = (sibling("new"), sibling("old"));
    for leftover in [&new, &old] {
        if leftover.exists() {
            std::fs::remove_dir_all(leftover).map_err(failed(leftover))?;
        }
    }
    std::fs::create_dir_all(&new).map_err(failed(&new))?;
    fill(&new)?;
    sync_folder(&new).map_err(failed(&new))?;
    if folder.exists() {
        std::fs::rename(folder, &old).map_err(failed(folder))?;
    }
    std::fs::rename(&new, folder).map_err(failed(folder))?;
    sync_folder(folder.parent().unwrap_or(Path::new("."))).map_err(failed(folder))?;
    if old.exists() {
        std::fs::remove_dir_all(&old).map_err(failed(&old))?;
    }
    Ok(())
}

/// Writes a file and makes sure that it is on the disk.
///
/// # Errors
/// Names the file.
pub fn write_file(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(contents)?;
        file.sync_all()
    };
    write().map_err(|source| Error::Write {
        path: path.into(),
        source,
    })
}

impl Llava {
    /// Writes the model to `folder`, whole or not at all: `model.safetensors`, a full `config.json`,
    /// tokenizer and preprocessor files, and `extra` files by name (a model card, metrics).
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn export(&self, folder: &Path, extra: &[(&str, &[u8])]) -> Result<(), Error> {
        write_folder(folder, |new| {
            let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            write_tensors(&new.join("model.safetensors"), &self.entries()?, metadata)?;
            let config = serde_json::to_vec_pretty(&self.full_config()?).unwrap_or_default();
            write_file(&new.join("config.json"), &config)?;
            for name in COPIED {
                let source = self.folder.join(name);
                if source.is_file() {
                    let bytes = std::fs::read(&source).map_err(|e| Error::Read {
                        path: source,
                        source: e,
                    })?;
                    write_file(&new.join(name), &bytes)?;
                }
            }
            extra
                .iter()
                .try_for_each(|(name, bytes)| write_file(&new.join(name), bytes))
        })
    }

    /// Parameters of projector and language model by canonical name.
    ///
    /// # Errors
    /// candle's.
    pub fn parameter_entries(&self) -> Result<Vec<Entry>, Error> {
        self.parameters()
            .map(pieces_of)
            .collect::<Result<Vec<_>, _>>()
            .map(|all| all.concat())
    }

    /// Replaces parameters of projector and language model by those that `take(name, shape)` gives.
    ///
    /// # Errors
    /// What `take` gives.
    pub fn replace_parameters(
        &mut self,
        mut take: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, Error>,
    ) -> Result<(), Error> {
        for parameter in self.parameters_mut() {
            let mut values = Vec::with_capacity(parameter.tensor().elem_count());
            for piece in parameter.pieces() {
                values.extend(take(&piece.name, &piece.shape)?);
            }
            parameter.set_values(values)?;
        }
        Ok(())
    }

    /// SHA-256 of the frozen image tower, in hexadecimal: with it, a picture's features are known.
    pub fn tower_sha256(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.config.vision_feature_layer.to_le_bytes());
        hasher.update(&self.config.vision_feature_select_strategy);
        for (name, _, values) in self.vision.tensors() {
            hasher.update(name);
            values
                .iter()
                .for_each(|value| hasher.update(value.to_le_bytes()));
        }
        crate::weights::hex(&hasher.finalize())
    }

    fn entries(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = self.parameter_entries()?;
        for (name, shape, values) in self.vision.tensors() {
            entries.push((
                format!("vision_tower.vision_model.{name}"),
                shape,
                values.to_vec(),
            ));
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    /// The source's `config.json` with every value spelt out, in the names of all versions.
    fn full_config(&self) -> Result<Value, Error> {
        let path: PathBuf = self.folder.join("config.json");
        let mut config: Value = read_json(&path)?;
        let text = &self.config.text_config;
        let vision = &self.config.vision_config;
        let stops = text.stop_tokens();
        overlay(
            &mut config,
            json!({
                "architectures": ["LlavaForConditionalGeneration"],
                "model_type": "llava",
                "torch_dtype": "float32",
                "dtype": "float32",
                "ignore_index": -100,
                "image_token_index": self.config.image_token_index,
                "image_seq_length": self.config.tokens_per_image(),
                "multimodal_projector_bias": true,
                "projector_hidden_act": "gelu",
                "tie_word_embeddings": text.tie_word_embeddings,
                "vision_feature_layer": self.config.vision_feature_layer,
                "vision_feature_select_strategy": self.config.vision_feature_select_strategy,
                "text_config": {
                    "architectures": ["LlamaForCausalLM"],
                    "model_type": "llama",
                    "torch_dtype": "float32",
                    "dtype": "float32",
                    "vocab_size": text.vocab_size,
                    "hidden_size": text.hidden_size,
                    "intermediate_size": text.intermediate_size,
                    "num_hidden_layers": text.num_hidden_layers,
                    "num_attention_heads": text.num_attention_heads,
                    "num_key_value_heads": text.key_heads(),
                    "head_dim": text.head_width(),
                    "max_position_embeddings": text.max_position_embeddings,
                    "rms_norm_eps": text.rms_norm_eps,
                    "rope_theta": text.theta(),
                    "rope_parameters": { "rope_theta": text.theta(), "rope_type": "default" },
                    "rope_scaling": null,
                    "hidden_act": "silu",
                    "attention_bias": false,
                    "mlp_bias": false,
                    "tie_word_embeddings": text.tie_word_embeddings,
                    "bos_token_id": text.bos_token_id,
                    "eos_token_id": if stops.len() == 1 { json!(stops[0]) } else { json!(stops) },
                },
                "vision_config": {
                    "model_type": "clip_vision_model",
                    "torch_dtype": "float32",
                    "dtype": "float32",
                    "hidden_size": vision.hidden_size,
                    "intermediate_size": vision.intermediate_size,
                    "num_hidden_layers": vision.num_hidden_layers,
                    "num_attention_heads": vision.num_attention_heads,
                    "num_channels": 3,
                    "image_size": vision.image_size,
                    "patch_size": vision.patch_size,
                    "projection_dim": vision.projection_dim,
                    "layer_norm_eps": vision.layer_norm_eps,
                    "hidden_act": vision.hidden_act,
                },
            }),
        );
        Ok(config)
    }
}

fn overlay(target: &mut Value, source: Value) {
    match (target, source) {
        (Value::Object(target), Value::Object(source)) => {
            for (key, value) in source {
                overlay(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, source) => *target = source,
    }
}

fn pieces_of(parameter: &Parameter) -> Result<Vec<Entry>, Error> {
    let values = parameter.values()?;
    let entry = |piece: &crate::parameter::Piece| {
        let part = values[piece.offset..piece.offset + piece.element_count()].to_vec();
        (piece.name.clone(), piece.shape.clone(), part)
    };
    Ok(parameter.pieces().iter().map(entry).collect())
}

fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}
