//! Text embedding by the text tower of a CLIP checkpoint (transformers' `CLIPModel`,
//! with `text_projection`; Radford et al. 2021).

use crate::error::Error;
use models::{
    clip_text::{ClipText, Config},
    clip_tokenizer::ClipTokenizer,
    config::Fields,
    weights::{Weights, checkpoint_sha256},
};
use std::path::Path;

/// A loaded text tower.
pub(crate) struct Embedder {
    name: String,
    sha256: String,
    tower: ClipText,
    tokenizer: ClipTokenizer,
}

impl Embedder {
    /// Loads a folder with `config.json`, weights and tokenizer.
    pub(crate) fn load(name: &str, folder: &Path) -> Result<Self, Error> {
        let failed = |error: &dyn std::error::Error| Error::Model {
            model: name.to_owned(),
            reason: runtime::error::chain(error),
        };
        let mut fields =
            Fields::open(&folder.join("config.json")).map_err(|error| failed(&error))?;
        let shared_width: usize = fields
            .take_or("projection_dim", 512)
            .map_err(|error| failed(&error))?;
        let mut text = fields
            .nested("text_config")
            .map_err(|error| failed(&error))?;
        let mut config = Config::from_fields(&mut text).map_err(|error| failed(&error))?;
        // The whole model's width counts; the tower's own copy is often left at its default.
        config.projection_dim = shared_width;
        let weights = Weights::open_in(folder, &["model"]).map_err(|error| failed(&error))?;
        let weights = weights.with_optional_prefix("text_model.");
        let files =
            ["config.json", "model.safetensors", "tokenizer.json"].map(|file| folder.join(file));
        let files: Vec<_> = files.into_iter().filter(|file| file.exists()).collect();
        Ok(Self {
            name: name.to_owned(),
            sha256: checkpoint_sha256(folder, &files).map_err(|error| failed(&error))?,
            tower: ClipText::from_weights(config, &weights).map_err(|error| failed(&error))?,
            tokenizer: ClipTokenizer::load(folder).map_err(|error| failed(&error))?,
        })
    }

    /// Name to give in requests.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 over configuration, weights and tokenizer.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The vector of a text, of length 1. What is longer than the model reads is cut.
    pub(crate) fn embed(&self, text: &str) -> Result<Vec<f32>, Error> {
        let failed = |error: &dyn std::error::Error| Error::Embed(error.to_string());
        let tokens = self
            .tokenizer
            .encode(text)
            .map_err(|error| failed(&error))?;
        let length = self.tower.config().max_position_embeddings;
        let states = self
            .tower
            .encode(&self.tokenizer.framed(&tokens, length))
            .map_err(|error| failed(&error))?;
        let norm = states
            .pooled
            .iter()
            .map(|value| value * value)
            .sum::<f32>()
            .sqrt();
        Ok(states
            .pooled
            .iter()
            .map(|value| value / norm.max(f32::MIN_POSITIVE))
            .collect())
    }
}
