//! BERT's encoder (Devlin et al. 2019) for inference, as transformers' `BertModel` without its pooler.
//!
//! Own code, not candle-transformers': its products go through `gemm`, which picks kernels by the
//! machine and by the batch, so an embedding would not have the same bits everywhere.

use candle_core::{Device, Tensor, bail};

use crate::blocks::{Source, layer_norm};
use crate::config::{self, Fields};
use crate::encoder::{Activation, BERT_NAMES, Layer, Shape};
use crate::ops::group_norm::LayerNorm;
use crate::ops::values::values;
use crate::weights::{self, Weights};

/// What `config.json` says of a BERT.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    shape: Shape,
    vocab_size: usize,
    token_types: usize,
    /// The most tokens of one text.
    pub max_position_embeddings: usize,
}

impl Config {
    /// Takes the fields of a BERT; those of no effect on inference are let be.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub fn from_fields(fields: &mut Fields) -> Result<Self, config::Error> {
        let base = Shape {
            width: 768,
            inner: 3072,
            layers: 12,
            heads: 12,
            activation: Activation::Gelu,
            eps: 1e-12,
        };
        fields.only("position_embedding_type", "absolute")?;
        fields.only("is_decoder", false)?;
        Ok(Self {
            shape: Shape::from_fields(fields, base)?,
            vocab_size: fields.take_or("vocab_size", 30_522)?,
            token_types: fields.take_or("type_vocab_size", 2)?,
            max_position_embeddings: fields.take_or("max_position_embeddings", 512)?,
        })
    }

    /// Width of the states.
    pub fn width(&self) -> usize {
        self.shape.width
    }
}

/// A loaded encoder.
pub struct Bert {
    config: Config,
    /// `(vocab_size, width)`, row-major.
    words: Vec<f32>,
    /// Position plus the first token type, `(positions, width)`, row-major: texts are never pairs here.
    positions: Vec<f32>,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl Bert {
    /// Takes the encoder out of opened weights.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub fn from_weights(config: Config, weights: &Weights) -> Result<Self, weights::Error> {
        let at = Source::new(weights);
        let (embeddings, width) = (at.at("embeddings"), config.shape.width);
        let table = |name: &str, rows| embeddings.values(name, &[rows, width]);
        let types = table("token_type_embeddings.weight", config.token_types)?;
        let mut positions = table("position_embeddings.weight", config.max_position_embeddings)?;
        for row in positions.chunks_mut(width) {
            row.iter_mut().zip(&types).for_each(|(p, t)| *p += t);
        }
        Ok(Self {
            words: table("word_embeddings.weight", config.vocab_size)?,
            positions,
            norm: layer_norm(&embeddings.at("LayerNorm"), width, config.shape.eps)?,
            layers: Layer::load_stack(&at, "encoder.layer", &BERT_NAMES, config.shape)?,
            config,
        })
    }

    /// The last hidden states of one text, `tokens · width` numbers.
    ///
    /// # Errors
    /// When it is empty, longer than the model's positions, or has tokens outside its vocabulary.
    pub fn states(&self, ids: &[u32]) -> candle_core::Result<Vec<f32>> {
        let mut hidden = self.norm.forward(&self.embed(ids)?)?;
        for layer in &self.layers {
            hidden = layer.forward_norm_last(&hidden)?;
        }
        Ok(values(&hidden)?.to_vec())
    }

    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let (width, most) = (self.config.shape.width, self.config.max_position_embeddings);
        if ids.is_empty() || ids.len() > most {
            bail!("a text of {} tokens for {most} positions", ids.len());
        }
        let mut all = Vec::with_capacity(ids.len() * width);
        for (&id, position) in ids.iter().zip(self.positions.chunks(width)) {
            let Some(word) = self.words.chunks(width).nth(id as usize) else {
                bail!("token {id} is outside the vocabulary");
            };
            all.extend(word.iter().zip(position).map(|(w, p)| w + p));
        }
        Tensor::from_vec(all, (1, ids.len(), width), &Device::Cpu)
    }
}
