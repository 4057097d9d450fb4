//! A whole CLIP (transformers' `CLIPModel` layout): texts and pictures in one space.
//!
//! Both halves run on the ops that `--isa` pins, since gates decide by their cosines.

use std::path::Path;

use image::RgbImage;
use rayon::prelude::*;

use crate::blocks::{Linear, Source};
use crate::clip_image::ImagePreprocessor;
use crate::clip_text::{self, ClipText};
use crate::clip_tokenizer::ClipTokenizer;
use crate::config::{Fields, LoadError};
use crate::encoder::{Activation, Shape, unit};
use crate::image_tower::{self, ImageTower};
use crate::llava_error;
use crate::ops::values::values;
use crate::weights::{self, Weights, folder_sha256};

/// Why a CLIP cannot be loaded or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text half, or a file that both need.
    #[error(transparent)]
    Text(#[from] LoadError),
    /// The preprocessor of the image half.
    #[error(transparent)]
    Image(#[from] llava_error::Error),
    /// A text or a picture that cannot be encoded.
    #[error("cannot embed")]
    Compute(#[from] candle_core::Error),
}

/// A loaded CLIP.
pub struct Clip {
    tokenizer: ClipTokenizer,
    text: ClipText,
    images: ImageHalf,
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
        let mut image_fields = fields.nested("vision_config").map_err(LoadError::from)?;
        let image_config =
            image_tower::Config::from_fields(&mut image_fields, BASE).map_err(LoadError::from)?;
        let weights = Weights::open_in(folder, &["model"]).map_err(LoadError::from)?;
        let preprocessor = ImagePreprocessor::load(folder)?;
        preprocessor.check_side(folder, image_config.side_px)?;
        let dim = config.projection_dim;
        let images = ImageHalf::load(&Source::new(&weights), image_config, dim, preprocessor)
            .map_err(LoadError::from)?;
        let parameter_count = weights.parameter_count();
        let weights = weights.with_optional_prefix("text_model.");
        Ok(Self {
            tokenizer: ClipTokenizer::load(folder).map_err(LoadError::from)?,
            text: ClipText::from_weights(config, &weights).map_err(LoadError::from)?,
            images,
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
        let _vectors = self.embed_images(&[RgbImage::new(32, 32)])?;
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
        let framed = self.tokenizer.framed(&tokens, length);
        Ok(unit(self.text.encode(&framed)?.pooled))
    }

    /// The unit vectors of pictures, in order; each is the same bits in any company.
    ///
    /// # Errors
    /// [`Error::Compute`].
    pub fn embed_images(&self, pictures: &[RgbImage]) -> Result<Vec<Vec<f32>>, Error> {
        let embed = |picture| Ok(self.images.embed(picture)?);
        pictures.par_iter().map(embed).collect()
    }
}

/// transformers' `CLIPVisionConfig` without fields.
pub(crate) const BASE: image_tower::Config = image_tower::Config {
    shape: Shape {
        width: 768,
        inner: 3072,
        layers: 12,
        heads: 12,
        activation: Activation::QuickGelu,
        eps: 1e-5,
    },
    side_px: 224,
    patch_px: 32,
};

/// The image half: the class token's last state, projected.
struct ImageHalf {
    tower: ImageTower,
    projection: Linear,
    preprocessor: ImagePreprocessor,
}

impl ImageHalf {
    fn load(
        at: &Source<'_>,
        config: image_tower::Config,
        dim: usize,
        preprocessor: ImagePreprocessor,
    ) -> Result<Self, weights::Error> {
        let width = config.shape.width;
        Ok(Self {
            tower: ImageTower::load(&at.at("vision_model"), config, &image_tower::CLIP)?,
            projection: Linear::load(&at.at("visual_projection"), width, dim, false)?,
            preprocessor,
        })
    }

    fn embed(&self, picture: &RgbImage) -> candle_core::Result<Vec<f32>> {
        let state = self.tower.first_state(&self.preprocessor.square(picture))?;
        Ok(unit(values(&self.projection.forward(&state)?)?.to_vec()))
    }
}
