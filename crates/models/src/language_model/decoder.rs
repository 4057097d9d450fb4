//! The decoder of Llama, Qwen2 and Qwen3 for inference, dense or quantised, with a key–value cache.
//!
//! One file for the three, which differ by biases (Qwen2) and by norms of queries and keys (Qwen3).
//! It stands on candle's tensors and on candle's quantised products (`QMatMul`), so it runs on every
//! device that candle has. The models of candle-transformers are not used: their caches live inside
//! the weights, so that one model serves one sequence at a time; `quantized_llama` stops at 4096
//! positions; and they ignore `attention_bias`, `rope_freqs` and scaled positions without a word.
//! `llama.rs` is the trainable sibling, for LLaVA, on the CPU alone.

use candle_core::quantized::QMatMul;
use candle_core::{D, Device, Module, Result, Tensor};
use candle_nn::kv_cache::KvCache;

use super::config::{DecoderConfig, Family};
use super::error::Error;
use super::rotary::Rotary;
use super::source::Source;
use crate::ops::gemm::Threads;
use crate::ops::linear::product;
use crate::ops::rms_norm;
use crate::ops::storage::{is_cpu_f32, read};

/// Tokens by which a cache grows when it is full.
const CACHE_STEP_TOKENS: usize = 256;

/// Embedding, layers and head.
pub(crate) struct Decoder {
    config: DecoderConfig,
    device: Device,
    rotary: Rotary,
    embedding: QMatMul,
    layers: Vec<Layer>,
    norm: Tensor,
    head: QMatMul,
}

/// Keys and values of the tokens that a sequence has so far.
pub(crate) struct Cache {
    layers: Vec<KvCache>,
    token_count: usize,
}

impl Cache {
    /// Tokens held.
    pub(crate) fn token_count(&self) -> usize {
        self.token_count
    }
}

impl Decoder {
    /// Takes every tensor from `source`, which must have no other.
    ///
    /// # Errors
    /// What `source` gives.
    pub(crate) fn load(
        config: DecoderConfig,
        source: &mut dyn Source,
        device: &Device,
    ) -> std::result::Result<Self, Error> {
        let table = [config.vocab_size, config.hidden_size];
        let embedding = source.matrix("model.embed_tokens.weight", table)?;
        let head = match config.tied {
            true => embedding.clone(),
            false => source.matrix("lm_head.weight", table)?,
        };
        let norm = source.vector("model.norm.weight", config.hidden_size)?;
        let layers = (0..config.layer_count)
            .map(|index| Layer::load(&config, source, &format!("model.layers.{index}")))
            .collect::<std::result::Result<_, _>>()?;
        source.finish()?;
        Ok(Self {
            rotary: Rotary::new(&config, device)?,
            device: device.clone(),
            config,
            embedding,
            layers,
            norm,
            head,
        })
    }

    /// The shape.
    pub(crate) fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// An empty cache.
    pub(crate) fn cache(&self) -> Cache {
        let one = || KvCache::new(2, CACHE_STEP_TOKENS);
        Cache {
            layers: (0..self.layers.len()).map(|_| one()).collect(),
            token_count: 0,
        }
    }

    /// Appends `tokens` to the sequence of `cache` and gives the logits after the last of them,
    /// (vocabulary). A sequence is computed by itself, so its bits do not depend on any other.
    ///
    /// # Errors
    /// [`Error::Input`] for no tokens, too many of them, or one beyond the vocabulary.
    pub(crate) fn extend(
        &self,
        cache: &mut Cache,
        tokens: &[u32],
    ) -> std::result::Result<Vec<f32>, Error> {
        let total = cache.token_count + tokens.len();
        let limit = self.config.max_positions;
        if tokens.is_empty() || total > limit {
            return Err(Error::Input(format!(
                "a sequence of {total} tokens; 1 to {limit} are possible"
            )));
        }
        let rows = self.config.vocab_size;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= rows) {
            let reason = format!("token {token} has no embedding; the model has {rows}");
            return Err(Error::Input(reason));
        }
        let logits = self.forward(cache, tokens)?;
        cache.token_count = total;
        Ok(logits)
    }

    fn forward(&self, cache: &mut Cache, tokens: &[u32]) -> Result<Vec<f32>> {
        let ids = Tensor::new(tokens, &self.device)?;
        let mut x = self.embedding.embedding(&ids)?; // (tokens, hidden)
        let place = Place {
            rotary: &self.rotary,
            position: cache.token_count,
            mask: causal_mask(tokens.len(), cache.token_count, &self.device)?,
        };
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            x = layer.forward(&self.config, &x, &place, cache)?;
        }
        let last = x.narrow(0, tokens.len() - 1, 1)?;
        let eps = self.config.rms_norm_eps as f32;
        let normed = rms_norm(&last, &self.norm, eps)?;
        multiply(&normed, &self.head)?.flatten_all()?.to_vec1()
    }
}

/// Where the new tokens of a sequence stand.
struct Place<'a> {
    rotary: &'a Rotary,
    position: usize,
    /// (tokens, position + tokens), 0 or −∞; absent for one token, which sees everything.
    mask: Option<Tensor>,
}

struct Linear {
    weight: QMatMul,
    bias: Option<Tensor>,
}

impl Linear {
    fn load(
        source: &mut dyn Source,
        name: &str,
        shape: [usize; 2],
        bias: bool,
    ) -> std::result::Result<Self, Error> {
        let weight = source.matrix(&format!("{name}.weight"), shape)?;
        let bias = match bias {
            true => Some(source.vector(&format!("{name}.bias"), shape[0])?),
            false => None,
        };
        Ok(Self { weight, bias })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = multiply(x, &self.weight)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

/// `x · weightᵀ`, `x`: (tokens, inputs). Dense products on the CPU are not candle's, which reads
/// /proc/cpuinfo before each of them unless `RAYON_NUM_THREADS` is set.
fn multiply(x: &Tensor, weight: &QMatMul) -> Result<Tensor> {
    let QMatMul::Tensor(dense) = weight else {
        return weight.forward(x);
    };
    if !is_cpu_f32(x) {
        return weight.forward(x);
    }
    let (tokens, inputs) = x.dims2()?;
    let outputs = dense.dim(0)?;
    let x = x.contiguous()?;
    let values = read(&x, |x| {
        read(dense, |w| Ok(product(x, w, inputs, Threads::Pool)))
    })?;
    Tensor::from_vec(values, (tokens, outputs), dense.device())
}

struct Layer {
    input_norm: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    /// Weights of the norms of queries and keys, (head_dim) each.
    head_norms: Option<(Tensor, Tensor)>,
    mlp_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn load(
        config: &DecoderConfig,
        source: &mut dyn Source,
        prefix: &str,
    ) -> std::result::Result<Self, Error> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let queries = config.query_heads * config.head_dim;
        let keys = config.key_heads * config.head_dim;
        let mut linear = |leaf: &str, shape, bias| {
            let name = format!("{prefix}.{leaf}");
            Linear::load(source, &name, shape, bias)
        };
        let qkv_bias = config.qkv_bias;
        let query = linear("self_attn.q_proj", [queries, hidden], qkv_bias)?;
        let key = linear("self_attn.k_proj", [keys, hidden], qkv_bias)?;
        let value = linear("self_attn.v_proj", [keys, hidden], qkv_bias)?;
        let output = linear("self_attn.o_proj", [hidden, queries], config.output_bias)?;
        let gate = linear("mlp.gate_proj", [wide, hidden], config.mlp_bias)?;
        let up = linear("mlp.up_proj", [wide, hidden], config.mlp_bias)?;
        let down = linear("mlp.down_proj", [hidden, wide], config.mlp_bias)?;
        let mut norm = |leaf: &str, length| source.vector(&format!("{prefix}.{leaf}"), length);
        let head_norms = match config.family {
            Family::Qwen3 => Some((
                norm("self_attn.q_norm.weight", config.head_dim)?,
                norm("self_attn.k_norm.weight", config.head_dim)?,
            )),
            Family::Llama | Family::Qwen2 => None,
        };
        Ok(Self {
            input_norm: norm("input_layernorm.weight", hidden)?,
            mlp_norm: norm("post_attention_layernorm.weight", hidden)?,
            query,
            key,
            value,
            output,
            head_norms,
            gate,
            up,
            down,
        })
    }

    fn forward(
        &self,
        config: &DecoderConfig,
        x: &Tensor,
        place: &Place<'_>,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let eps = config.rms_norm_eps as f32;
        let normed = rms_norm(x, &self.input_norm, eps)?;
        let x = (x + self.attention(config, &normed, place, cache)?)?;
        let normed = rms_norm(&x, &self.mlp_norm, eps)?;
        let gated = (self.gate.forward(&normed)?.silu()? * self.up.forward(&normed)?)?;
        x + self.down.forward(&gated)?
    }

    /// Grouped-query attention: query heads that share a key head are rows of one product.
    fn attention(
        &self,
        config: &DecoderConfig,
        x: &Tensor,
        place: &Place<'_>,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let (tokens, dim) = (x.dim(0)?, config.head_dim);
        let (heads, keys) = (config.query_heads, config.key_heads);
        let norms = self.head_norms.as_ref();
        let eps = config.rms_norm_eps as f32;
        let split = |x: Tensor, heads: usize, norm: Option<&Tensor>| {
            let x = x.reshape((1, tokens, heads, dim))?;
            let x = norm.map_or(Ok(x.clone()), |weight| rms_norm(&x, weight, eps))?;
            x.transpose(1, 2)?.contiguous() // (1, heads, tokens, head_dim)
        };
        let q = split(self.query.forward(x)?, heads, norms.map(|n| &n.0))?;
        let k = split(self.key.forward(x)?, keys, norms.map(|n| &n.1))?;
        let v = split(self.value.forward(x)?, keys, None)?;
        let q = (place.rotary.rotate(&q, place.position)? / (dim as f64).sqrt())?;
        let k = place.rotary.rotate(&k, place.position)?;
        let (k, v) = cache.append(&k.contiguous()?, &v)?;
        let known = k.dim(2)?;
        let grouped = (1, keys, heads / keys * tokens, dim);
        let scores = q.reshape(grouped)?.matmul(&k.t()?)?;
        let scores = scores.reshape((1, heads, tokens, known))?;
        let scores = match &place.mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
        let weights = weights.reshape((1, keys, heads / keys * tokens, known))?;
        let mixed = weights.matmul(&v)?.reshape((1, heads, tokens, dim))?;
        let mixed = mixed.transpose(1, 2)?.reshape((tokens, heads * dim))?;
        self.output.forward(&mixed)
    }
}

fn causal_mask(tokens: usize, before: usize, device: &Device) -> Result<Option<Tensor>> {
    if tokens == 1 {
        return Ok(None);
    }
    let total = before + tokens;
    let value = |seen: bool| if seen { 0.0 } else { f32::NEG_INFINITY };
    let row = |row: usize| (0..total).map(move |column| value(column <= before + row));
    let mask: Vec<f32> = (0..tokens).flat_map(row).collect();
    Tensor::from_vec(mask, (tokens, total), device).map(Some)
}
