//! SigLIP (Zhai et al. 2023, arXiv 2303.15343), as transformers' `SiglipModel`: texts and pictures in
//! one space. SigLIP 2 of fixed resolution (arXiv 2502.14786) is the same class with another
//! tokenizer, and loads here; its NaFlex variant (`model_type` `siglip2`) does not.
//!
//! What is given is the unit vector of either half, so that their product is a cosine. The model was
//! trained on `sigmoid(scale · cosine + bias)`; scale and bias order no two texts otherwise than the
//! cosine does, and are not applied.

use std::path::Path;

use candle_core::{Device, Tensor, bail};
use image::RgbImage;

use crate::blocks::{Linear, Source, layer_norm};
use crate::clip_image::{Filter, ImagePreprocessor};
use crate::config::Fields;
use crate::encoder::{Activation, AttentionPool, CLIP_NAMES, Layer, Shape, unit};
use crate::image_tower::{self, ImageTower};
use crate::measuring::Error;
use crate::ops::group_norm::LayerNorm;
use crate::ops::values::values;
use crate::siglip_tokenizer::SiglipTokenizer;
use crate::weights::{Weights, folder_sha256};

/// transformers' `SiglipTextConfig` and `SiglipVisionConfig` without fields.
const BASE: Shape = Shape {
    width: 768,
    inner: 3072,
    layers: 12,
    heads: 12,
    activation: Activation::GeluTanh,
    eps: 1e-6,
};

/// A loaded SigLIP.
pub struct Siglip {
    tokenizer: SiglipTokenizer,
    text: TextTower,
    images: ImageTower,
    pool: AttentionPool,
    preprocessor: ImagePreprocessor,
    dim: usize,
    sha256: String,
    parameter_count: u64,
}

impl Siglip {
    /// Loads a folder with `config.json`, `model.safetensors`, `tokenizer.json`,
    /// `tokenizer_config.json` and `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error`], naming file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let mut fields = Fields::open(&folder.join("config.json"))?;
        let mut text_fields = fields.nested("text_config")?;
        let mut image_fields = fields.nested("vision_config")?;
        image_fields.only("vision_use_head", true)?;
        let defaults = image_tower::Config {
            shape: BASE,
            side_px: 224,
            patch_px: 16,
        };
        let config = image_tower::Config::from_fields(&mut image_fields, defaults)?;
        let weights = Weights::open_in(folder, &["model"])?;
        let at = Source::new(&weights);
        let text = TextTower::load(&at.at("text_model"), &mut text_fields)?;
        let vision = at.at("vision_model");
        let dim = config.shape.width;
        if text.head_width != dim {
            let reason = format!("makes vectors of {}, pictures have {dim}", text.head_width);
            return Err(text_fields.invalid("projection_size", reason).into());
        }
        let preprocessor = ImagePreprocessor::load_exact(folder, Filter::Bicubic)?;
        preprocessor.check_side(folder, config.side_px)?;
        Ok(Self {
            tokenizer: SiglipTokenizer::load(folder, text.length)?,
            text,
            images: ImageTower::load(&vision, config, &image_tower::SIGLIP)?,
            pool: AttentionPool::load(&vision.at("head"), config.shape)?,
            preprocessor,
            dim,
            sha256: folder_sha256(folder)?,
            parameter_count: weights.parameter_count(),
        })
    }

    /// SHA-256 over the files of the checkpoint, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Length of its vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Numbers in the checkpoint.
    pub fn parameter_count(&self) -> u64 {
        self.parameter_count
    }

    /// The unit vector of a text; what is over the encoder's length is cut, what is under it padded,
    /// and the padding is seen, as in training.
    ///
    /// # Errors
    /// [`Error`], for a text that cannot be tokenized.
    pub fn embed_text(&self, text: &str) -> Result<Vec<f32>, Error> {
        let ids = self.tokenizer.encode(text)?;
        Ok(unit(self.text.encode(&ids)?))
    }

    /// The unit vector of a picture.
    ///
    /// # Errors
    /// [`Error::Compute`].
    pub fn embed_image(&self, picture: &RgbImage) -> Result<Vec<f32>, Error> {
        let states = self.images.states(&self.preprocessor.square(picture))?;
        Ok(unit(self.pool.forward(&states)?))
    }

    /// The tokens of a text as the encoder sees them, padding included.
    ///
    /// # Errors
    /// As [`embed_text`](Self::embed_text).
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.tokenizer.encode(text)
    }

    /// The pixels of a picture as the encoder sees them, `(3, side, side)`.
    pub fn pixels(&self, picture: &RgbImage) -> Vec<f32> {
        self.preprocessor.square(picture)
    }
}

/// The text half: no mask at all, and the last token stands for the text.
struct TextTower {
    width: usize,
    /// Tokens of every text.
    length: usize,
    head_width: usize,
    /// `(vocab_size, width)`, row-major.
    tokens: Vec<f32>,
    /// `(length, width)`, row-major.
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: LayerNorm,
    head: Linear,
}

impl TextTower {
    fn load(at: &Source<'_>, fields: &mut Fields) -> Result<Self, Error> {
        let shape = Shape::from_fields(fields, BASE)?;
        let vocab_size = fields.take_or("vocab_size", 32_000)?;
        let length = fields.take_or("max_position_embeddings", 64)?;
        let head_width = fields.take_or("projection_size", shape.width)?;
        let width = shape.width;
        let embeddings = at.at("embeddings");
        Ok(Self {
            width,
            length,
            head_width,
            tokens: embeddings.values("token_embedding.weight", &[vocab_size, width])?,
            positions: embeddings.values("position_embedding.weight", &[length, width])?,
            layers: Layer::load_stack(at, "encoder.layers", &CLIP_NAMES, shape)?,
            norm: layer_norm(&at.at("final_layer_norm"), width, shape.eps)?,
            head: Linear::load(&at.at("head"), width, head_width, true)?,
        })
    }

    fn encode(&self, ids: &[u32]) -> candle_core::Result<Vec<f32>> {
        let mut hidden = self.embed(ids)?;
        for layer in &self.layers {
            hidden = layer.forward_norm_first(&hidden)?;
        }
        let last = hidden.narrow(1, ids.len() - 1, 1)?.contiguous()?;
        let pooled = self.head.forward(&self.norm.forward(&last)?)?;
        Ok(values(&pooled)?.to_vec())
    }

    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        if ids.is_empty() || ids.len() > self.length {
            bail!(
                "a text of {} tokens for {} positions",
                ids.len(),
                self.length
            );
        }
        let mut all = Vec::with_capacity(ids.len() * self.width);
        for (&id, position) in ids.iter().zip(self.positions.chunks(self.width)) {
            let Some(token) = self.tokens.chunks(self.width).nth(id as usize) else {
                bail!("token {id} is outside the vocabulary");
            };
            all.extend(token.iter().zip(position).map(|(t, p)| t + p));
        }
        Tensor::from_vec(all, (1, ids.len(), self.width), &Device::Cpu)
    }
}
