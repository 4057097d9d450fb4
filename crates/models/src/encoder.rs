//! The transformer layers of the models that only measure: SigLIP, ViT, BERT, and CLIP's image half.
//!
//! They differ in names, in where the norm stands, and in the activation. All products go through
//! `ops::product`, one sample each, so an answer is the same bits in any company, on any number of
//! threads, and on any machine with the instruction set that is pinned.

use candle_core::{D, Device, Tensor};

use crate::blocks::{Linear, Source, layer_norm};
use crate::config::{self, Fields};
use crate::ops::group_norm::LayerNorm;
use crate::ops::packed_attention::{KeysValues, Mask, attend};
use crate::ops::pointwise::{gelu_all, gelu_tanh_all, quick_gelu_all};
use crate::ops::values::values;
use crate::weights;

/// What the feed-forward half bends its states with, by transformers' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activation {
    QuickGelu,
    Gelu,
    #[serde(rename = "gelu_pytorch_tanh", alias = "gelu_new")]
    GeluTanh,
}

impl Activation {
    fn apply(self, wide: &Tensor) -> candle_core::Result<Tensor> {
        let mut active = values(wide)?.to_vec();
        match self {
            Self::QuickGelu => quick_gelu_all(&mut active),
            Self::Gelu => gelu_all(&mut active),
            Self::GeluTanh => gelu_tanh_all(&mut active),
        }
        Tensor::from_vec(active, wide.shape(), &Device::Cpu)
    }
}

/// The numbers that shape a stack of layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Width of the states.
    pub(crate) width: usize,
    /// Width inside the feed-forward half.
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    /// Added to the variance in every norm.
    pub(crate) eps: f32,
}

impl Shape {
    /// Reads a stack's fields of `config.json`; what is not written has its value in `defaults`.
    pub(crate) fn from_fields(fields: &mut Fields, defaults: Self) -> Result<Self, config::Error> {
        let shape = Self {
            width: fields.take_or("hidden_size", defaults.width)?,
            inner: fields.take_or("intermediate_size", defaults.inner)?,
            layers: fields.take_or("num_hidden_layers", defaults.layers)?,
            heads: fields.take_or("num_attention_heads", defaults.heads)?,
            activation: fields.take_or("hidden_act", defaults.activation)?,
            eps: fields.take_or("layer_norm_eps", defaults.eps)?,
        };
        if shape.width == 0 || shape.inner == 0 {
            return Err(fields.invalid("hidden_size", "must be over 0, as `intermediate_size`"));
        }
        if shape.heads == 0 || !shape.width.is_multiple_of(shape.heads) {
            let reason = format!("does not divide {}", shape.width);
            return Err(fields.invalid("num_attention_heads", reason));
        }
        Ok(shape)
    }
}

/// What the parts of a layer are called in the file.
pub(crate) struct Names {
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) out: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) widen: &'static str,
    pub(crate) narrow: &'static str,
    pub(crate) feed_forward_norm: &'static str,
}

/// CLIP's names, and SigLIP's.
pub(crate) const CLIP_NAMES: Names = Names {
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    out: "self_attn.out_proj",
    attention_norm: "layer_norm1",
    widen: "mlp.fc1",
    narrow: "mlp.fc2",
    feed_forward_norm: "layer_norm2",
};

/// ViT's names.
pub(crate) const VIT_NAMES: Names = Names {
    query: "attention.attention.query",
    key: "attention.attention.key",
    value: "attention.attention.value",
    out: "attention.output.dense",
    attention_norm: "layernorm_before",
    widen: "intermediate.dense",
    narrow: "output.dense",
    feed_forward_norm: "layernorm_after",
};

/// BERT's names.
pub(crate) const BERT_NAMES: Names = Names {
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    widen: "intermediate.dense",
    narrow: "output.dense",
    feed_forward_norm: "output.LayerNorm",
};

/// One layer; every token sees all others.
pub(crate) struct Layer {
    heads: usize,
    activation: Activation,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    attention_norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
    feed_forward_norm: LayerNorm,
}

impl Layer {
    /// Loads a stack: `prefix.0`, `prefix.1` and so on.
    pub(crate) fn load_stack(
        at: &Source<'_>,
        prefix: &str,
        names: &Names,
        shape: Shape,
    ) -> Result<Vec<Self>, weights::Error> {
        (0..shape.layers)
            .map(|index| Self::load(&at.at(format_args!("{prefix}.{index}")), names, shape))
            .collect()
    }

    fn load(at: &Source<'_>, names: &Names, shape: Shape) -> Result<Self, weights::Error> {
        let Shape {
            width, inner, eps, ..
        } = shape;
        let square = |name| Linear::load(&at.at(name), width, width, true);
        Ok(Self {
            heads: shape.heads,
            activation: shape.activation,
            query: square(names.query)?,
            key: square(names.key)?,
            value: square(names.value)?,
            out: square(names.out)?,
            attention_norm: layer_norm(&at.at(names.attention_norm), width, eps)?,
            widen: Linear::load(&at.at(names.widen), width, inner, true)?,
            narrow: Linear::load(&at.at(names.narrow), inner, width, true)?,
            feed_forward_norm: layer_norm(&at.at(names.feed_forward_norm), width, eps)?,
        })
    }

    /// `(1, tokens, width)` to the same: norms stand before the halves (CLIP, SigLIP, ViT).
    pub(crate) fn forward_norm_first(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        let normal = self.attention_norm.forward(input)?;
        let hidden = self.out.forward_add(&self.mix(&normal)?, input)?;
        let wide = self
            .widen
            .forward(&self.feed_forward_norm.forward(&hidden)?)?;
        self.narrow
            .forward_add(&self.activation.apply(&wide)?, &hidden)
    }

    /// `(1, tokens, width)` to the same: norms stand behind the halves and their residuals (BERT).
    pub(crate) fn forward_norm_last(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        let hidden = self.out.forward_add(&self.mix(input)?, input)?;
        let hidden = self.attention_norm.forward(&hidden)?;
        let wide = self.widen.forward(&hidden)?;
        let hidden = self
            .narrow
            .forward_add(&self.activation.apply(&wide)?, &hidden)?;
        self.feed_forward_norm.forward(&hidden)
    }

    fn mix(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        let (keys, vals) = (self.key.forward(input)?, self.value.forward(input)?);
        let memory = KeysValues::pack(
            &values(&keys)?,
            &values(&vals)?,
            keys.dim(D::Minus1)?,
            self.heads,
        );
        attend(&self.query.forward(input)?, &[&memory], Mask::None)
    }
}

/// The pooling head of SigLIP: one learned query attends to all states, then a feed-forward half.
pub(crate) struct AttentionPool {
    heads: usize,
    activation: Activation,
    /// The query after its projection, `(1, 1, width)`: it is the same for every picture.
    query: Tensor,
    key: Linear,
    value: Linear,
    out: Linear,
    norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
}

impl AttentionPool {
    /// Loads it; the three projections lie in one tensor, as `torch.nn.MultiheadAttention` has them.
    pub(crate) fn load(at: &Source<'_>, shape: Shape) -> Result<Self, crate::measuring::Error> {
        let (width, inner) = (shape.width, shape.inner);
        let attention = at.at("attention");
        let weight = attention.values("in_proj_weight", &[3 * width, width])?;
        let bias = attention.values("in_proj_bias", &[3 * width])?;
        let third = |index: usize| {
            let rows = &weight[index * width * width..(index + 1) * width * width];
            Linear::from_values(
                rows,
                bias[index * width..(index + 1) * width].to_vec(),
                width,
            )
        };
        let probe = at.values("probe", &[1, 1, width])?;
        let probe = Tensor::from_vec(probe, (1, 1, width), &Device::Cpu)?;
        Ok(Self {
            heads: shape.heads,
            activation: shape.activation,
            query: third(0).forward(&probe)?,
            key: third(1),
            value: third(2),
            out: Linear::load(&attention.at("out_proj"), width, width, true)?,
            norm: layer_norm(&at.at("layernorm"), width, shape.eps)?,
            widen: Linear::load(&at.at("mlp.fc1"), width, inner, true)?,
            narrow: Linear::load(&at.at("mlp.fc2"), inner, width, true)?,
        })
    }

    /// `(1, tokens, width)` to `width` numbers.
    pub(crate) fn forward(&self, states: &Tensor) -> candle_core::Result<Vec<f32>> {
        let (keys, vals) = (self.key.forward(states)?, self.value.forward(states)?);
        let width = keys.dim(D::Minus1)?;
        let memory = KeysValues::pack(&values(&keys)?, &values(&vals)?, width, self.heads);
        let mixed = attend(&self.query, &[&memory], Mask::None)?;
        let hidden = self.out.forward(&mixed)?;
        let wide = self.widen.forward(&self.norm.forward(&hidden)?)?;
        let pooled = self
            .narrow
            .forward_add(&self.activation.apply(&wide)?, &hidden)?;
        Ok(values(&pooled)?.to_vec())
    }
}

/// The vector of length 1 in the direction of `vector`.
pub(crate) fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|v| *v /= norm);
    vector
}
