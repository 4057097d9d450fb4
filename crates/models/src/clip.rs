//! A whole CLIP (transformers' `CLIPModel` layout): texts and pictures in one space.

use std::path::Path;

use image::RgbImage;

use crate::clip_text::{self, ClipText};
use crate::clip_tokenizer::ClipTokenizer;
use crate::clip_vision::ClipImageEmbedder;
use crate::config::{Fields, LoadError};
use crate::llava_error;
use crate::weights::{Weights, folder_sha256};

/// Why a CLIP cannot be loaded or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text half, or a file that both need.
    #[error(transparent)]
    Text(#[from] LoadError),
    /// The image half.
    #[error(transparent)]
    Image(#[from] llava_error::Error),
    /// A text that cannot be encoded.
    #[error("cannot embed the text")]
    Compute(#[from] candle_core::Error),
}

/// A loaded CLIP.
pub struct Clip {
    tokenizer: ClipTokenizer,
    text: ClipText,
    images: ClipImageEmbedder,
    sha256: String,
    parameter_count: u64,
}

impl Clip {
    /// Loads a folder with `config.json`, `model.safetensors`, tokenizer and preprocessor.
    ///
    /// # Errors
    /// [`Error`], naming file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let mut fields = Fields::open(&folder.join("config.json")).map_err(LoadError::from)?;
        let mut text_fields = fields.nested("text_config").map_err(LoadError::from)?;
        let mut config =
            clip_text::Config::from_fields(&mut text_fields).map_err(LoadError::from)?;
        if let Some(width) = fields.take("projection_dim").map_err(LoadError::from)? {
            config.projection_dim = width;
        }
        let weights = Weights::open_in(folder, &["model"]).map_err(LoadError::from)?;
        let parameter_count = weights.parameter_count();
        let weights = weights.with_optional_prefix("text_model.");
        Ok(Self {
            tokenizer: ClipTokenizer::load(folder).map_err(LoadError::from)?,
            text: ClipText::from_weights(config, &weights).map_err(LoadError::from)?,
            images: ClipImageEmbedder::load(folder)?,
            sha256: folder_sha256(folder).map_err(LoadError::from)?,
            parameter_count,
        })
    }

    /// SHA-256 over the files of the checkpoint, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Length of its vectors.
    pub fn dim(&self) -> usize {
        self.text.config().projection_dim
    }

    /// Numbers in the checkpoint.
    pub fn parameter_count(&self) -> u64 {
        self.parameter_count
    }

    /// Embeds a picture and a text, so that whoever asks first waits no longer than the others.
    ///
    /// # Errors
    /// As [`embed_text`](Self::embed_text).
    pub fn warm_up(&self) -> Result<(), Error> {
        let _vectors = self.embed_images(&[RgbImage::new(32, 32)]);
        self.embed_text("a picture").map(|_vector| ())
    }

    /// The unit vector of a text; what is over the encoder's length is cut.
    ///
    /// # Errors
    /// [`Error`], for a text that cannot be tokenized.
    pub fn embed_text(&self, text: &str) -> Result<Vec<f32>, Error> {
        let most = self.text.config().max_position_embeddings;
        let length = self.tokenizer.max_length.map_or(most, |n| n.min(most));
        let tokens = self.tokenizer.encode(text).map_err(LoadError::from)?;
        let mut vector = self
            .text
            .encode(&self.tokenizer.framed(&tokens, length))?
            .pooled;
        let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
        vector.iter_mut().for_each(|v| *v /= norm);
        Ok(vector)
    }

    /// The unit vectors of pictures, in order; each is the same bits in any company.
    pub fn embed_images(&self, pictures: &[RgbImage]) -> Vec<Vec<f32>> {
        self.images.embed(pictures)
    }
}
