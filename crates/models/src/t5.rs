//! T5's encoder (Raffel et al. 2020, arXiv 1910.10683), version 1.1, for inference, as transformers'
//! `T5EncoderModel`: Stable Diffusion 3 and FLUX read long prompts with it.
//!
//! Own code, not candle-transformers': its products depend on what shares a batch, and its keys are
//! loaded without a look at what is left over.

use std::path::Path;

use candle_core::{Device, Tensor, bail};
use rayon::prelude::*;

use crate::blocks::{Linear, Source};
use crate::config::{self, Fields, LoadError};
use crate::ops::math::softmax_row;
use crate::ops::norm::rms_norm_rows;
use crate::ops::pointwise::gelu_tanh;
use crate::ops::product::{Matrix, Packed, add_product};
use crate::ops::simd::vectorized;
use crate::ops::values::values;
use crate::weights::{self, Weights};

/// The most tokens of one text: attention takes their square. Published pipelines ask for 256 or 512.
pub const MAX_TOKENS: usize = 512;

/// What `config.json` says of a T5 encoder.
#[derive(Clone, Debug)]
pub struct Config {
    /// Width of the states.
    pub hidden_size: usize,
    /// Tokens known.
    pub vocab_size: usize,
    layers: usize,
    heads: usize,
    head_dim: usize,
    inner: usize,
    buckets: usize,
    max_distance: usize,
    eps: f32,
}

impl Config {
    /// Reads `config.json`. transformers' files also hold dozens of settings of no effect here, such as
    /// those of the decoder, so unknown fields are let be.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub fn read(file: &Path) -> Result<Self, config::Error> {
        let mut fields = Fields::open(file)?;
        fields.only("model_type", "t5")?;
        // Version 1.0 has `relu`, which is also what a file without the field means.
        let activation = fields.take_or("feed_forward_proj", "relu".to_owned())?;
        if activation != "gated-gelu" {
            let supported = "only gated-gelu, which T5 1.1 has";
            return Err(fields.unsupported("feed_forward_proj", &activation.into(), supported));
        }
        let config = Self {
            hidden_size: fields.take_or("d_model", 512)?,
            vocab_size: fields.take_or("vocab_size", 32_128)?,
            layers: fields.take_or("num_layers", 6)?,
            heads: fields.take_or("num_heads", 8)?,
            head_dim: fields.take_or("d_kv", 64)?,
            inner: fields.take_or("d_ff", 2048)?,
            buckets: fields.take_or("relative_attention_num_buckets", 32)?,
            max_distance: fields.take_or("relative_attention_max_distance", 128)?,
            eps: fields.take_or("layer_norm_epsilon", 1e-6)?,
        };
        for (field, number) in [
            ("d_model", config.hidden_size),
            ("num_layers", config.layers),
            ("num_heads", config.heads),
            ("d_kv", config.head_dim),
            ("d_ff", config.inner),
        ] {
            if number == 0 {
                return Err(fields.invalid(field, "is zero"));
            }
        }
        if config.buckets < 4 || config.max_distance <= config.buckets / 4 {
            let reason = "must be 4 or more, and below 4 · relative_attention_max_distance";
            return Err(fields.invalid("relative_attention_num_buckets", reason));
        }
        Ok(config)
    }

    /// Width of all heads side by side, which need not be that of the states.
    fn attention_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The bucket of a key that stands `offset` tokens behind its query: near ones have their own, far
    /// ones share by the logarithm of the distance, and half of the buckets look ahead.
    fn bucket(&self, offset: isize) -> usize {
        let count = self.buckets / 2;
        let first = if offset > 0 { count } else { 0 };
        let (distance, exact) = (offset.unsigned_abs(), count / 2);
        if distance < exact {
            return first + distance;
        }
        // In f32 as PyTorch computes it, since the result is cut to an integer.
        let rate = (self.max_distance as f64 / exact as f64).ln() as f32;
        let far = (distance as f32 / exact as f32).ln() / rate * (count - exact) as f32;
        first + (exact + far as usize).min(count - 1)
    }
}

/// A loaded encoder.
pub struct T5 {
    config: Config,
    /// `(vocab_size, hidden_size)`, row-major.
    words: Vec<f32>,
    /// `(buckets, heads)`, row-major, shared by all layers.
    distances: Vec<f32>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
}

impl T5 {
    /// Loads a folder with `config.json` and the weights of an encoder.
    ///
    /// # Errors
    /// [`LoadError`], naming file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        let config = Config::read(&folder.join("config.json"))?;
        let weights = Weights::open_in(folder, &["model"])?;
        let encoder = Self::build(config, &Source::new(&weights))?;
        // The same table under its other name, in files that have both.
        weights.finish(&["embed_tokens.weight"])?;
        Ok(encoder)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn build(config: Config, at: &Source<'_>) -> Result<Self, weights::Error> {
        let encoder = at.at("encoder");
        let shape = [config.vocab_size, config.hidden_size];
        let words = match at.has("shared.weight") {
            true => at.values("shared.weight", &shape)?,
            false => encoder.values("embed_tokens.weight", &shape)?,
        };
        let layer = |i| Layer::load(&encoder.at(format_args!("block.{i}")), &config);
        Ok(Self {
            words,
            distances: encoder.values(
                "block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                &[config.buckets, config.heads],
            )?,
            layers: (0..config.layers).map(layer).collect::<Result<_, _>>()?,
            norm: encoder.values("final_layer_norm.weight", &[config.hidden_size])?,
            config,
        })
    }

    /// The states of one text, `(tokens, hidden_size)`. Every token sees every other, padding too, as
    /// the pipelines that this encoder serves were trained.
    ///
    /// # Errors
    /// When it is empty, longer than [`MAX_TOKENS`], or has tokens outside the vocabulary.
    pub fn encode(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let mut hidden = self.embed(ids)?;
        let bias = self.bias(ids.len());
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &bias, &self.config)?;
        }
        normalized(&hidden, &self.norm, self.config.eps)
    }

    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let width = self.config.hidden_size;
        if ids.is_empty() || ids.len() > MAX_TOKENS {
            bail!("a text of {} tokens, at most {MAX_TOKENS}", ids.len());
        }
        let mut out = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            let Some(word) = self.words.chunks(width).nth(id as usize) else {
                let known = self.config.vocab_size;
                bail!("token {id} is outside a vocabulary of {known}");
            };
            out.extend_from_slice(word);
        }
        Tensor::from_vec(out, (ids.len(), width), &Device::Cpu)
    }

    /// For each head what is added to the score of a key by its distance, from `len - 1` tokens before
    /// its query to `len - 1` behind it.
    fn bias(&self, len: usize) -> Vec<Vec<f32>> {
        let last = len as isize - 1;
        let rows: Vec<usize> = (-last..=last).map(|o| self.config.bucket(o)).collect();
        let heads = self.config.heads;
        let of_head = |head| {
            rows.iter()
                .map(move |row| self.distances[row * heads + head])
        };
        (0..heads).map(|head| of_head(head).collect()).collect()
    }
}

struct Layer {
    norm1: Vec<f32>,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: Vec<f32>,
    gate: Linear,
    widen: Linear,
    narrow: Linear,
}

impl Layer {
    fn load(at: &Source<'_>, config: &Config) -> Result<Self, weights::Error> {
        let (width, inner, own) = (config.hidden_size, config.inner, config.attention_width());
        let (attention, dense) = (at.at("layer.0"), at.at("layer.1"));
        let heads = |name: &str| {
            let at = attention.at("SelfAttention").at(name);
            Linear::load(&at, width, own, false)
        };
        let feed = |name: &str, inputs, outputs| {
            let at = dense.at("DenseReluDense").at(name);
            Linear::load(&at, inputs, outputs, false)
        };
        Ok(Self {
            norm1: attention.values("layer_norm.weight", &[width])?,
            query: heads("q")?,
            key: heads("k")?,
            value: heads("v")?,
            out: Linear::load(&attention.at("SelfAttention.o"), own, width, false)?,
            norm2: dense.values("layer_norm.weight", &[width])?,
            gate: feed("wi_0", width, inner)?,
            widen: feed("wi_1", width, inner)?,
            narrow: feed("wo", inner, width)?,
        })
    }

    /// `(tokens, hidden_size)` to the same.
    fn forward(
        &self,
        input: &Tensor,
        bias: &[Vec<f32>],
        config: &Config,
    ) -> candle_core::Result<Tensor> {
        let normal = normalized(input, &self.norm1, config.eps)?;
        let mixed = attend(
            &self.query.forward(&normal)?,
            &self.key.forward(&normal)?,
            &self.value.forward(&normal)?,
            bias,
        )?;
        let hidden = self.out.forward_add(&mixed, input)?;
        let normal = normalized(&hidden, &self.norm2, config.eps)?;
        let gate = self.gate.forward(&normal)?;
        let mut wide = values(&self.widen.forward(&normal)?)?.to_vec();
        gate_all(&mut wide, &values(&gate)?);
        let wide = Tensor::from_vec(wide, gate.shape(), &Device::Cpu)?;
        self.narrow.forward_add(&wide, &hidden)
    }
}

/// Root mean square normalisation, without a mean and without a shift.
fn normalized(input: &Tensor, weight: &[f32], eps: f32) -> candle_core::Result<Tensor> {
    let rows = rms_norm_rows(&values(input)?, weight, eps);
    Tensor::from_vec(rows, input.shape(), &Device::Cpu)
}

/// Attention of a text to itself, `(tokens, heads side by side)` each, without the usual 1/√head_dim,
/// which T5 has in its weights, and with `bias` by distance for each head.
fn attend(
    queries: &Tensor,
    keys: &Tensor,
    vals: &Tensor,
    bias: &[Vec<f32>],
) -> candle_core::Result<Tensor> {
    let (len, width) = queries.dims2()?;
    let dim = width / bias.len();
    let (queries_of, keys, vals) = (values(queries)?, values(keys)?, values(vals)?);
    // Plain slices, which other threads may see.
    let (from, keys, vals): (&[f32], &[f32], &[f32]) = (&queries_of, &keys, &vals);
    let head = |(head, bias): (usize, &Vec<f32>)| {
        let offset = head * dim;
        // Row `q` begins with the key that stands `q` tokens before its query.
        let mut scores = Vec::with_capacity(len * len);
        (0..len).for_each(|q| scores.extend_from_slice(&bias[len - 1 - q..][..len]));
        let packed = Packed::from_fn(dim, len, |d, token| keys[token * width + offset + d]);
        let of_head = Matrix {
            values: from,
            stride: width,
            offset,
            depth: dim,
        };
        add_product(&of_head, &packed, &mut scores);
        softmax_rows(&mut scores, len);
        let packed = Packed::from_fn(len, dim, |token, d| vals[token * width + offset + d]);
        let mut mixed = vec![0.; len * dim];
        add_product(&Matrix::whole(&scores, len), &packed, &mut mixed);
        mixed
    };
    let heads: Vec<Vec<f32>> = bias.par_iter().enumerate().map(head).collect();
    let mut out = Vec::with_capacity(len * width);
    for token in 0..len {
        for mixed in &heads {
            out.extend_from_slice(&mixed[token * dim..(token + 1) * dim]);
        }
    }
    Tensor::from_vec(out, (len, width), &Device::Cpu)
}

vectorized! {
    fn softmax_rows(scores: &mut [f32], len: usize) {
        for row in scores.chunks_exact_mut(len) {
            softmax_row(row);
        }
    }
}

vectorized! {
    /// `wide[i] *= GELU(gate[i])`, by the tanh form.
    fn gate_all(wide: &mut [f32], gate: &[f32]) {
        for (w, g) in wide.iter_mut().zip(gate) {
            *w *= gelu_tanh(*g);
        }
    }
}
