//! The Llama family's decoder, trainable and with a key–value cache (Touvron et al., 2023).
//!
//! RMS norms, rotary positions, grouped-query attention, SwiGLU, tied or untied head. Weights of a
//! layer lie in one flat [`Parameter`]; `ops::decoder_layer` says why. Attention and MLP biases and
//! scaled rotary positions are refused by name.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use serde::Deserialize;

use crate::llava_error::Error;
use crate::loss::{Target, head_loss};
use crate::ops::attention::Heads;
use crate::ops::decoder_layer::{LayerShape, decoder_layer, extend_one};
use crate::ops::gemm::Threads;
use crate::ops::linear::product;
use crate::ops::norm::{rms_norm, rms_norm_rows};
use crate::ops::rope::RopeTable;
use crate::ops::splice::{Source, splice};
use crate::parameter::Parameter;

/// `text_config` with the class defaults of transformers' `LlamaConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct LlamaConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; as many as query heads when absent.
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; `hidden_size / num_attention_heads` when absent.
    pub head_dim: Option<usize>,
    /// Longest sequence, image tokens included.
    pub max_position_embeddings: usize,
    /// Added to the mean square.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies (transformers 4).
    pub rope_theta: Option<f64>,
    /// Where transformers 5 keeps the base.
    pub rope_parameters: Option<RopeParameters>,
    /// Scaled positions; only absent or `default` is read.
    pub rope_scaling: Option<RopeParameters>,
    /// Whether the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Must be false.
    pub attention_bias: bool,
    /// Must be false.
    pub mlp_bias: bool,
    /// Must be `silu`.
    pub hidden_act: String,
    /// First token of a sequence; absent when the tokenizer has none.
    pub bos_token_id: Option<u32>,
    /// Token, or tokens, that end an answer.
    pub eos_token_id: Option<OneOrMany>,
    /// Padding; never seen by the model here.
    pub pad_token_id: Option<u32>,
}

impl Default for LlamaConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            rope_theta: None,
            rope_parameters: None,
            rope_scaling: None,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            hidden_act: "silu".into(),
            bos_token_id: Some(1),
            eos_token_id: Some(OneOrMany::One(2)),
            pad_token_id: None,
        }
    }
}

/// One id or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One id.
    One(u32),
    /// Several ids.
    Many(Vec<u32>),
}

/// The rotary settings of transformers 5, and `rope_scaling` of version 4.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RopeParameters {
    /// Base of the frequencies.
    pub rope_theta: Option<f64>,
    /// Kind of scaling.
    #[serde(alias = "type")]
    pub rope_type: Option<String>,
}

/// The most positions: the rotary table is made for all of them when a model is loaded.
const MAX_POSITIONS: usize = 1 << 18;

impl LlamaConfig {
    /// Base of the rotary frequencies.
    pub fn theta(&self) -> f64 {
        let nested = self.rope_parameters.as_ref().and_then(|r| r.rope_theta);
        nested.or(self.rope_theta).unwrap_or(10_000.0)
    }

    /// Key and value heads.
    pub fn key_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width of a head.
    pub fn head_width(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Tokens that end an answer.
    pub fn stop_tokens(&self) -> Vec<u32> {
        match &self.eos_token_id {
            None => Vec::new(),
            Some(OneOrMany::One(id)) => vec![*id],
            Some(OneOrMany::Many(ids)) => ids.clone(),
        }
    }

    /// Refuses what this implementation would compute wrongly.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let scaled = [&self.rope_parameters, &self.rope_scaling]
            .into_iter()
            .flatten()
            .any(|rope| {
                rope.rope_type
                    .as_deref()
                    .is_some_and(|kind| kind != "default")
            });
        let sizes = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.max_position_embeddings,
        ];
        let (heads, keys) = (self.num_attention_heads, self.key_heads());
        match () {
            () if self.attention_bias || self.mlp_bias => {
                Err("biases in text layers are not supported".into())
            }
            () if self.hidden_act != "silu" => Err(format!(
                "text activation `{}` is not supported",
                self.hidden_act
            )),
            () if scaled => Err("scaled rotary positions are not supported".into()),
            () if sizes.contains(&0) || self.num_hidden_layers == 0 => {
                Err("a size in text_config is 0".into())
            }
            () if self.max_position_embeddings > MAX_POSITIONS => Err(format!(
                "max_position_embeddings is {}, at most {MAX_POSITIONS} are supported",
                self.max_position_embeddings
            )),
            () if heads == 0 || keys == 0 || !heads.is_multiple_of(keys) => Err(format!(
                "{heads} attention heads cannot share {keys} key heads"
            )),
            () if self.head_width() == 0 || !self.head_width().is_multiple_of(2) => {
                Err("the width of a text head must be even".into())
            }
            () => Ok(()),
        }
    }

    fn layer_shape(&self) -> LayerShape {
        LayerShape {
            hidden: self.hidden_size,
            heads: Heads {
                queries: self.num_attention_heads,
                keys: self.key_heads(),
                dim: self.head_width(),
            },
            intermediate: self.intermediate_size,
            eps: self.rms_norm_eps as f32,
        }
    }
}

/// A decoder with its embedding and head.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    rope: Arc<RopeTable>,
    embedding: Parameter,
    layers: Vec<Parameter>,
    norm: Parameter,
    /// Absent when tied.
    head: Option<Parameter>,
}

/// Keys and values of the tokens that a sequence has so far.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    token_count: usize,
}

impl Cache {
    /// Tokens held.
    pub fn token_count(&self) -> usize {
        self.token_count
    }
}

impl Llama {
    /// Builds the decoder; `take(name, shape)` gives the values of a tensor by canonical name.
    ///
    /// # Errors
    /// What `take` gives, and candle's.
    pub(crate) fn load(
        config: LlamaConfig,
        mut take: impl FnMut(&str, &[usize]) -> std::result::Result<Vec<f32>, Error>,
    ) -> std::result::Result<Self, Error> {
        let table = [config.vocab_size, config.hidden_size];
        let mut single = |name: &str, shape: &[usize]| {
            Ok::<_, Error>(Parameter::single(name, shape, take(name, shape)?)?)
        };
        let embedding = single("language_model.model.embed_tokens.weight", &table)?;
        let norm = single("language_model.model.norm.weight", &[config.hidden_size])?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(single("language_model.lm_head.weight", &table)?),
        };
        let mut layers = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let mut parts = Vec::new();
            for (leaf, shape) in config.layer_shape().pieces() {
                let name = format!("language_model.model.layers.{layer}.{leaf}");
                let values = take(&name, &shape)?;
                parts.push((name, shape, values));
            }
            layers.push(Parameter::flat(parts)?);
        }
        let theta = config.theta() as f32;
        let rope = RopeTable::new(config.head_width(), config.max_position_embeddings, theta);
        Ok(Self {
            rope: Arc::new(rope),
            config,
            embedding,
            layers,
            norm,
            head,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// All parameters, in a fixed order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> + Clone {
        std::iter::once(&self.embedding)
            .chain(&self.layers)
            .chain([&self.norm])
            .chain(&self.head)
    }

    /// All parameters, to be changed.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        std::iter::once(&mut self.embedding)
            .chain(&mut self.layers)
            .chain([&mut self.norm])
            .chain(&mut self.head)
    }

    /// Embeddings of sequences that lie end to end, image features in their places.
    pub(crate) fn embed(&self, plan: &Arc<[Source]>, features: &Tensor) -> Result<Tensor> {
        splice(plan, self.embedding.tensor(), features)
    }

    /// Hidden states before the final norm. `x`: (tokens, hidden), sequences of `lengths` end to end.
    pub(crate) fn hidden(&self, x: Tensor, lengths: &Arc<[usize]>) -> Result<Tensor> {
        let shape = self.config.layer_shape();
        self.layers.iter().try_fold(x, |x, layer| {
            decoder_layer(shape, &self.rope, lengths, &x, layer.tensor())
        })
    }

    /// Mean cross-entropy; see [`head_loss`].
    pub(crate) fn loss(
        &self,
        hidden: &Tensor,
        targets: &Arc<[Target]>,
        divisor: usize,
    ) -> Result<Tensor> {
        let eps = self.config.rms_norm_eps as f32;
        head_loss(
            hidden,
            self.norm.tensor(),
            self.head_tensor(),
            targets,
            divisor,
            eps,
        )
    }

    /// Logits for every row: (tokens, vocabulary).
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let eps = self.config.rms_norm_eps as f32;
        rms_norm(hidden, self.norm.tensor(), eps)?.matmul(&self.head_tensor().t()?)
    }

    /// An empty cache.
    pub fn cache(&self) -> Cache {
        Cache {
            layers: vec![Default::default(); self.layers.len()],
            token_count: 0,
        }
    }

    /// Appends embedded tokens to one sequence and gives the logits after the last of them.
    ///
    /// Works on the calling thread and on this sequence alone, so an answer has the same bits
    /// whatever else is being answered. CPU only.
    ///
    /// # Errors
    /// Refuses a sequence longer than the model's positions.
    pub fn extend(&self, cache: &mut Cache, mut x: Vec<f32>) -> Result<Vec<f32>> {
        let (shape, hidden) = (self.config.layer_shape(), self.config.hidden_size);
        let new = x.len() / hidden;
        if new == 0 || cache.token_count + new > self.config.max_position_embeddings {
            let limit = self.config.max_position_embeddings;
            let count = cache.token_count + new;
            return Err(candle_core::Error::Msg(format!(
                "a sequence of {count} tokens; 1 to {limit} are possible"
            )));
        }
        for (layer, (keys, values)) in self.layers.iter().zip(&mut cache.layers) {
            layer.read(|weights| {
                extend_one(shape, &self.rope, weights, &mut x, keys, values);
                Ok(())
            })?;
        }
        cache.token_count += new;
        let last = &x[(new - 1) * hidden..];
        let normed = self
            .norm
            .read(|norm| Ok(rms_norm_rows(last, norm, shape.eps)))?;
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        head.read(|head| Ok(product(&normed, head, hidden, Threads::One)))
    }

    /// Appends the embedding of `token` to `x`.
    ///
    /// # Errors
    /// Refuses a token beyond the vocabulary.
    pub fn embed_token(&self, token: u32, x: &mut Vec<f32>) -> Result<()> {
        let hidden = self.config.hidden_size;
        self.embedding.read(|table| {
            let start = token as usize * hidden;
            let row = table.get(start..start + hidden);
            let missing = || candle_core::Error::Msg(format!("token {token} has no embedding"));
            x.extend_from_slice(row.ok_or_else(missing)?);
            Ok(())
        })
    }

    fn head_tensor(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding).tensor()
    }
}
