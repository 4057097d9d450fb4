//! CLIP's text encoder (Radford et al. 2021) for inference, as transformers' `CLIPTextModel` and
//! `CLIPTextModelWithProjection` have it.
//!
//! Own code, not candle-transformers': that one knows preset sizes and quick GELU alone.

use std::path::Path;

use candle_core::{D, Device, Tensor, bail};

use crate::blocks::{Linear, Source, layer_norm};
use crate::config::{self, Fields, LoadError};
use crate::ops::group_norm::LayerNorm;
use crate::ops::packed_attention::{KeysValues, Mask, attend};
use crate::ops::pointwise::{gelu_all, quick_gelu_all};
use crate::ops::values::values;
use crate::weights::{self, Adapters, Weights};

/// What `config.json` says of a text encoder.
#[derive(Clone, Debug)]
pub struct Config {
    /// Width of the states.
    pub hidden_size: usize,
    /// The most tokens of one text.
    pub max_position_embeddings: usize,
    /// Tokens known.
    pub vocab_size: usize,
    /// Width of the shared space with pictures, used with a projection.
    pub projection_dim: usize,
    layers: usize,
    heads: usize,
    intermediate_size: usize,
    activation: Activation,
    eps: f32,
    eos_token_id: u32,
}

#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Activation {
    QuickGelu,
    Gelu,
}

impl Config {
    /// Reads `config.json` of a text encoder.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub fn read(file: &Path) -> Result<Self, config::Error> {
        let mut fields = Fields::open(file)?;
        let config = Self::from_fields(&mut fields)?;
        fields.only("pruned_heads", serde_json::json!({}))?;
        fields.ignore(WITHOUT_EFFECT);
        fields.finish()?;
        Ok(config)
    }

    /// Reads the fields of a text encoder, such as `text_config` of a whole CLIP, and lets what else
    /// stands there be.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub fn from_fields(fields: &mut Fields) -> Result<Self, config::Error> {
        if let Some(kind) = fields.take::<String>("model_type")?
            && kind != "clip_text_model"
        {
            return Err(fields.unsupported("model_type", &kind.into(), "only clip_text_model"));
        }
        let hidden_size = fields.take_or("hidden_size", 512)?;
        let config = Self {
            hidden_size,
            max_position_embeddings: fields.take_or("max_position_embeddings", 77)?,
            vocab_size: fields.take_or("vocab_size", 49408)?,
            projection_dim: fields.take_or("projection_dim", 512)?,
            layers: fields.take_or("num_hidden_layers", 12)?,
            heads: fields.take_or("num_attention_heads", 8)?,
            intermediate_size: fields.take_or("intermediate_size", 2048)?,
            activation: fields.take_or("hidden_act", Activation::QuickGelu)?,
            eps: fields.take_or("layer_norm_eps", 1e-5)?,
            eos_token_id: fields.take_or("eos_token_id", 49407)?,
        };
        if config.layers == 0 {
            return Err(fields.invalid("num_hidden_layers", "is zero"));
        }
        if config.heads == 0 || !hidden_size.is_multiple_of(config.heads) {
            return Err(fields.invalid(
                "num_attention_heads",
                format!("does not divide {hidden_size}"),
            ));
        }
        Ok(config)
    }
}

/// What transformers writes into `config.json` that changes no state: how to train, where the file is
/// from, and the settings of generation that every configuration of version 4 carries.
const WITHOUT_EFFECT: &[&str] = &[
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
];

/// A loaded text encoder.
pub struct ClipText {
    config: Config,
    /// `(vocab_size, hidden_size)`, row-major.
    tokens: Vec<f32>,
    /// `(max_position_embeddings, hidden_size)`, row-major.
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: LayerNorm,
    projection: Option<Linear>,
}

/// What the encoder makes of one text.
pub struct TextStates {
    /// The last hidden states after the final norm, `(tokens, hidden_size)`.
    pub hidden: Tensor,
    /// The states before the last layer, without a norm, `(tokens, hidden_size)`: what Stable
    /// Diffusion XL reads.
    pub penultimate: Tensor,
    /// The state at the end token, projected where the checkpoint has a projection:
    /// `(projection_dim)` or `(hidden_size)`.
    pub pooled: Vec<f32>,
}

impl ClipText {
    /// Loads a folder with `config.json` and the weights of a text encoder alone.
    ///
    /// # Errors
    /// [`LoadError`], naming file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        Self::load_adapted(folder, Vec::new())
    }

    /// The same, with adapters merged into its weights, in order.
    ///
    /// # Errors
    /// [`LoadError`], naming file, field or tensor.
    pub fn load_adapted(folder: &Path, adapters: Adapters) -> Result<Self, LoadError> {
        let config = Config::read(&folder.join("config.json"))?;
        let weights = Weights::open_in(folder, &["model"])?
            .with_optional_prefix("text_model.")
            .with_adapters(adapters);
        let text = Self::from_weights(config, &weights)?;
        // A buffer of counting numbers that old files carry.
        weights.finish(&["position_ids"])?;
        Ok(text)
    }

    /// Takes the text encoder out of opened weights, such as those of a whole CLIP.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub fn from_weights(config: Config, weights: &Weights) -> Result<Self, weights::Error> {
        let at = Source::new(weights);
        let width = config.hidden_size;
        let embeddings = at.at("embeddings");
        let positions = config.max_position_embeddings;
        let layer = |i| Layer::load(&at.at(format_args!("encoder.layers.{i}")), &config);
        let projection = || {
            Linear::load(
                &at.at("text_projection"),
                width,
                config.projection_dim,
                false,
            )
        };
        Ok(Self {
            tokens: embeddings.values("token_embedding.weight", &[config.vocab_size, width])?,
            positions: embeddings.values("position_embedding.weight", &[positions, width])?,
            layers: (0..config.layers).map(layer).collect::<Result<_, _>>()?,
            norm: layer_norm(&at.at("final_layer_norm"), width, config.eps)?,
            projection: at
                .has("text_projection.weight")
                .then(projection)
                .transpose()?,
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Layers of the encoder.
    pub fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// Width of [`TextStates::pooled`] when it is projected into the space of pictures.
    pub fn projected_dim(&self) -> Option<usize> {
        self.projection.as_ref().map(|_| self.config.projection_dim)
    }

    /// Encodes one framed text (start, words, end, padding).
    ///
    /// # Errors
    /// When it is empty, longer than the model's positions, or has tokens outside its vocabulary.
    pub fn encode(&self, ids: &[u32]) -> candle_core::Result<TextStates> {
        self.encode_skipping(ids, 0)
    }

    /// The same, with the states of `skipped` layers earlier: `hidden` goes through the final norm all
    /// the same, and `pooled` is that of all layers. As diffusers' `clip_skip`.
    ///
    /// # Errors
    /// As [`ClipText::encode`], and when no layer would be left.
    pub fn encode_skipping(&self, ids: &[u32], skipped: usize) -> candle_core::Result<TextStates> {
        let Some(kept) = self.layers.len().checked_sub(skipped).filter(|n| *n > 0) else {
            bail!("{skipped} layers to skip of {}", self.layers.len());
        };
        let mut states = vec![self.embed(ids)?];
        for layer in &self.layers {
            states.push(layer.forward(&states[states.len() - 1])?);
        }
        let last = self.norm.forward(&states[self.layers.len()])?.squeeze(0)?;
        let end = last.narrow(0, self.end_position(ids), 1)?;
        let hidden = match skipped {
            0 => last,
            _ => self.norm.forward(&states[kept])?.squeeze(0)?,
        };
        let pooled = self
            .projection
            .as_ref()
            .map_or(Ok(end.clone()), |p| p.forward(&end))?;
        let pooled = values(&pooled)?.to_vec();
        Ok(TextStates {
            hidden,
            penultimate: states[kept - 1].squeeze(0)?,
            pooled,
        })
    }

    /// `(1, tokens, hidden_size)`.
    fn embed(&self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let width = self.config.hidden_size;
        if ids.is_empty() || ids.len() > self.config.max_position_embeddings {
            bail!(
                "a text of {} tokens for {} positions",
                ids.len(),
                self.config.max_position_embeddings
            );
        }
        let mut out = Vec::with_capacity(ids.len() * width);
        for (&id, position) in ids.iter().zip(self.positions.chunks(width)) {
            let Some(token) = self.tokens.chunks(width).nth(id as usize) else {
                bail!(
                    "token {id} is outside a vocabulary of {}",
                    self.config.vocab_size
                );
            };
            out.extend(token.iter().zip(position).map(|(t, p)| t + p));
        }
        Tensor::from_vec(out, (1, ids.len(), width), &Device::Cpu)
    }

    /// Where the text ends. Files from before the end token was written down right say 2, and mean the
    /// largest id; so transformers reads them.
    fn end_position(&self, ids: &[u32]) -> usize {
        let end = match self.config.eos_token_id {
            2 => ids.iter().copied().max().unwrap_or_default(),
            id => id,
        };
        ids.iter().position(|id| *id == end).unwrap_or(0)
    }
}

struct Layer {
    heads: usize,
    activation: Activation,
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: LayerNorm,
    widen: Linear,
    narrow: Linear,
}

impl Layer {
    fn load(at: &Source<'_>, config: &Config) -> Result<Self, weights::Error> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let attention = |name: &str| Linear::load(&at.at("self_attn").at(name), width, width, true);
        Ok(Self {
            heads: config.heads,
            activation: config.activation,
            norm1: layer_norm(&at.at("layer_norm1"), width, config.eps)?,
            query: attention("q_proj")?,
            key: attention("k_proj")?,
            value: attention("v_proj")?,
            out: attention("out_proj")?,
            norm2: layer_norm(&at.at("layer_norm2"), width, config.eps)?,
            widen: Linear::load(&at.at("mlp.fc1"), width, inner, true)?,
            narrow: Linear::load(&at.at("mlp.fc2"), inner, width, true)?,
        })
    }

    fn forward(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        let normal = self.norm1.forward(input)?;
        let (keys, vals) = (self.key.forward(&normal)?, self.value.forward(&normal)?);
        let memory = KeysValues::pack(
            &values(&keys)?,
            &values(&vals)?,
            keys.dim(D::Minus1)?,
            self.heads,
        );
        let mixed = attend(&self.query.forward(&normal)?, &[&memory], Mask::Causal)?;
        let hidden = self.out.forward_add(&mixed, input)?;

        let wide = self.widen.forward(&self.norm2.forward(&hidden)?)?;
        let mut active = values(&wide)?.to_vec();
        match self.activation {
            Activation::QuickGelu => quick_gelu_all(&mut active),
            Activation::Gelu => gelu_all(&mut active),
        }
        let active = Tensor::from_vec(active, wide.shape(), &Device::Cpu)?;
        self.narrow.forward_add(&active, &hidden)
    }
}
