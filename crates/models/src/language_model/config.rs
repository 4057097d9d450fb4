//! The shape of a Llama, Qwen2 or Qwen3 decoder, from `config.json` or from GGUF metadata.
//!
//! A field that would change the result and is not implemented is refused by name: sliding windows,
//! YaRN and dynamic positions, partial rotation, other activations, quantised safetensors.

use std::path::Path;

use crate::config::{Error, Fields};
use crate::llama::OneOrMany;

/// Which of the three architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3 and what shares their layout (Vicuna, TinyLlama, SmolLM2, …).
    Llama,
    /// Qwen2 and Qwen2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen3 (dense): queries and keys normalised per head.
    Qwen3,
}

impl Family {
    /// The class that transformers loads it with, as `architectures` in `config.json` says.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by a factor (position interpolation).
    Linear(f64),
    /// Llama 3.1's rule: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_positions: f64,
    },
    /// A divisor per frequency, as GGUF stores Llama 3.1's rule.
    Divisors(Vec<f32>),
}

/// The decoder's shape. Counts are of heads, layers and tokens; widths of vectors.
#[derive(Debug, Clone)]
pub struct DecoderConfig {
    /// Architecture.
    pub family: Family,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layer_count: usize,
    /// Query heads.
    pub query_heads: usize,
    /// Key and value heads.
    pub key_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest sequence in tokens, prompt and answer together.
    pub max_positions: usize,
    /// Added to the mean square.
    pub rms_norm_eps: f64,
    /// Whether the head is the embedding table.
    pub tied: bool,
    pub(crate) rope_theta: f64,
    pub(crate) rope_scaling: RopeScaling,
    /// Rotation of neighbouring pairs (GGUF's Llama) instead of halves.
    pub(crate) rope_interleaved: bool,
    pub(crate) qkv_bias: bool,
    pub(crate) output_bias: bool,
    pub(crate) mlp_bias: bool,
    /// Tokens that end an answer, unless generation_config.json knows better.
    pub(crate) end_tokens: Vec<u32>,
}

/// The most positions: rotary tables are made for all of them when a model is loaded.
const MAX_POSITIONS: usize = 1 << 18;
/// The largest width or count: products of two still fit.
const MAX_SIZE: usize = 1 << 24;

/// Fields of `config.json` that do not change what inference computes. `max_window_layers` and
/// `sliding_window` say nothing where `use_sliding_window` is false, which is checked.
const HARMLESS: &[&str] = &[
    "architectures",
    "attention_dropout",
    "auto_map",
    "bad_words_ids",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "max_sequence_length",
    "max_window_layers",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];

impl DecoderConfig {
    /// Reads `config.json` in `folder`.
    ///
    /// # Errors
    /// Names the field that is missing, contradictory or not supported.
    pub(crate) fn read(folder: &Path) -> Result<Self, Error> {
        let mut fields = Fields::open(&folder.join("config.json"))?;
        let family = family(&mut fields)?;
        refuse_what_is_not_computed(&mut fields, family)?;
        let (rope_theta, rope_scaling) = rope(&mut fields)?;
        let attention_bias = fields.take_or("attention_bias", false)?;
        let hidden_size = fields.require("hidden_size")?;
        let query_heads: usize = fields.require("num_attention_heads")?;
        // Qwen3's class default is 128, whatever the heads are.
        let default_head_dim = match family {
            Family::Qwen3 => 128,
            _ => hidden_size / query_heads.max(1),
        };
        let config = Self {
            family,
            vocab_size: fields.require("vocab_size")?,
            hidden_size,
            intermediate_size: fields.require("intermediate_size")?,
            layer_count: fields.require("num_hidden_layers")?,
            query_heads,
            key_heads: fields.take_or("num_key_value_heads", query_heads)?,
            head_dim: fields.take_or("head_dim", default_head_dim)?,
            max_positions: fields.require("max_position_embeddings")?,
            rms_norm_eps: fields.take_or("rms_norm_eps", 1e-6)?,
            tied: fields.take_or("tie_word_embeddings", false)?,
            rope_theta,
            rope_scaling,
            rope_interleaved: false,
            qkv_bias: attention_bias || family == Family::Qwen2,
            output_bias: attention_bias && family != Family::Qwen2,
            mlp_bias: fields.take_or("mlp_bias", false)?,
            end_tokens: ids(fields.take("eos_token_id")?),
        };
        fields.ignore(HARMLESS);
        let valid = config
            .check()
            .map_err(|(field, reason)| fields.invalid(field, reason));
        fields.finish()?;
        valid.map(|()| config)
    }

    /// Numbers that were trained, each once: a head that is the embedding table adds none.
    pub fn parameter_count(&self) -> u64 {
        let [vocabulary, hidden, inner, head_dim] = [
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.head_dim,
        ]
        .map(|size| size as u64);
        let queries = self.query_heads as u64 * head_dim;
        let keys = self.key_heads as u64 * head_dim;
        let if_any = |is_there: bool, count: u64| if is_there { count } else { 0 };
        let attention = hidden * (2 * queries + 2 * keys)
            + if_any(self.qkv_bias, queries + 2 * keys)
            + if_any(self.output_bias, hidden)
            + if_any(self.family == Family::Qwen3, 2 * head_dim);
        let feed_forward = 3 * hidden * inner + if_any(self.mlp_bias, 2 * inner + hidden);
        let layer = attention + feed_forward + 2 * hidden;
        let tables = if self.tied { 1 } else { 2 };
        tables * vocabulary * hidden + self.layer_count as u64 * layer + hidden
    }

    /// Refuses sizes that contradict each other, with the field's name.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layer_count),
            ("num_attention_heads", self.query_heads),
            ("num_key_value_heads", self.key_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_positions),
        ];
        let possible = 1..=MAX_SIZE;
        if let Some((field, _)) = sizes.iter().find(|(_, size)| !possible.contains(size)) {
            return Err((*field, format!("must be 1 to {MAX_SIZE}")));
        }
        if !self.query_heads.is_multiple_of(self.key_heads) {
            let reason = format!("must divide num_attention_heads = {}", self.query_heads);
            return Err(("num_key_value_heads", reason));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(("head_dim", "must be even".into()));
        }
        if self.max_positions > MAX_POSITIONS {
            let reason = format!("may be {MAX_POSITIONS} at most");
            return Err(("max_position_embeddings", reason));
        }
        let numbers = [self.rms_norm_eps, self.rope_theta];
        match numbers.iter().all(|n| n.is_finite() && *n > 0.0) {
            true => Ok(()),
            false => Err((
                "rope_theta",
                "and rms_norm_eps must be finite and above 0".into(),
            )),
        }
    }
}

/// One id, several, or none.
pub(crate) fn ids(value: Option<OneOrMany>) -> Vec<u32> {
    match value {
        None => Vec::new(),
        Some(OneOrMany::One(id)) => vec![id],
        Some(OneOrMany::Many(ids)) => ids,
    }
}

fn family(fields: &mut Fields) -> Result<Family, Error> {
    let name: String = fields.require("model_type")?;
    match name.as_str() {
        "llama" => Ok(Family::Llama),
        "qwen2" => Ok(Family::Qwen2),
        "qwen3" => Ok(Family::Qwen3),
        _ => Err(fields.unsupported("model_type", &name.into(), "llama, qwen2, qwen3")),
    }
}

fn refuse_what_is_not_computed(fields: &mut Fields, family: Family) -> Result<(), Error> {
    fields.only("hidden_act", "silu")?;
    fields.only("use_sliding_window", false)?;
    fields.only("layer_types", "full_attention")?;
    fields.only("partial_rotary_factor", 1.0)?;
    fields.only("pretraining_tp", 1)?;
    fields.only("is_encoder_decoder", false)?;
    fields.only("rope_interleaved", false)?;
    fields.only("use_mrope", false)?;
    // Qwen's files name a window and switch it off; a Llama with a window means it.
    if family != Family::Llama {
        fields.ignore(&["sliding_window"]);
    }
    Ok(())
}

/// Base and scaling; transformers 4 has `rope_theta` and `rope_scaling`, 5 has `rope_parameters`.
fn rope(fields: &mut Fields) -> Result<(f64, RopeScaling), Error> {
    let mut theta: Option<f64> = fields.take("rope_theta")?;
    let mut scaling = RopeScaling::None;
    for field in ["rope_scaling", "rope_parameters"] {
        let Some(mut object) = fields.optional_nested(field)? else {
            continue;
        };
        theta = object.take("rope_theta")?.or(theta);
        object.only("partial_rotary_factor", 1.0)?;
        scaling = rope_scaling(&mut object)?;
        object.finish()?;
    }
    Ok((theta.unwrap_or(10_000.0), scaling))
}

fn rope_scaling(object: &mut Fields) -> Result<RopeScaling, Error> {
    let old: Option<String> = object.take("type")?;
    let kind = object.take("rope_type")?.or(old);
    let factor = |object: &mut Fields, field: &str| -> Result<f64, Error> {
        let value: f64 = object.require(field)?;
        match value.is_finite() && value > 0.0 {
            true => Ok(value),
            false => Err(object.invalid(field, "must be finite and above 0")),
        }
    };
    match kind.as_deref() {
        None | Some("default") => {
            object.ignore(&["factor"]);
            Ok(RopeScaling::None)
        }
        Some("linear") => Ok(RopeScaling::Linear(factor(object, "factor")?)),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: factor(object, "factor")?,
            low_freq_factor: factor(object, "low_freq_factor")?,
            high_freq_factor: factor(object, "high_freq_factor")?,
            original_positions: factor(object, "original_max_position_embeddings")?,
        }),
        Some(other) => {
            Err(object.unsupported("rope_type", &other.into(), "default, linear, llama3"))
        }
    }
}
