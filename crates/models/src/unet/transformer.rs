//! Attention over the pixels of one resolution, and to the text.

use candle_core::{Tensor, bail};

use super::At;
use super::config::{Config, LevelConfig};
use crate::blocks::{Linear, Source, group_norm, layer_norm};
use crate::ops::geglu::geglu;
use crate::ops::group_norm::{GroupNorm, LayerNorm};
use crate::ops::packed_attention::{KeysValues, Mask, attend};
use crate::ops::values::values;
use crate::weights;

/// diffusers' `Transformer2DModel` over the pixels of one resolution.
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    pub(super) blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl Transformer {
    pub(super) fn load(
        at: &Source<'_>,
        config: &Config,
        level: &LevelConfig,
        cross_layers: &mut usize,
    ) -> Result<Self, weights::Error> {
        let channels = level.channels;
        let mut blocks = Vec::new();
        for k in 0..level.transformer_layers {
            let at = at.at(format_args!("transformer_blocks.{k}"));
            blocks.push(TransformerBlock::load(
                &at,
                level,
                config.cross_attention_dim,
                *cross_layers,
            )?);
            *cross_layers += 1;
        }
        Ok(Self {
            norm: group_norm(&at.at("norm"), channels, config.groups, 1e-6)?,
            proj_in: Linear::load(&at.at("proj_in"), channels, channels, true)?,
            blocks,
            proj_out: Linear::load(&at.at("proj_out"), channels, channels, true)?,
        })
    }

    pub(super) fn forward(&self, input: &Tensor, at: &At<'_>) -> candle_core::Result<Tensor> {
        let (batch, height, width, channels) = input.dims4()?;
        let tokens = self
            .norm
            .forward(input, false)?
            .reshape((batch, height * width, channels))?;
        let mut hidden = self.proj_in.forward(&tokens)?;
        for block in &self.blocks {
            hidden = block.forward(&hidden, at)?;
        }
        self.proj_out
            .forward_add(&hidden, input)?
            .reshape(input.shape())
    }
}

/// diffusers' `BasicTransformerBlock`: self-attention, cross-attention, gated feed-forward.
pub(super) struct TransformerBlock {
    heads: usize,
    /// Place of this block's keys and values in a [`Context`].
    cross_index: usize,
    norm1: LayerNorm,
    to_self: Attention,
    norm2: LayerNorm,
    to_text: Attention,
    norm3: LayerNorm,
    widen: Linear,
    narrow: Linear,
}

struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl Attention {
    pub(super) fn load(
        at: &Source<'_>,
        channels: usize,
        memory_dim: usize,
    ) -> Result<Self, weights::Error> {
        Ok(Self {
            query: Linear::load(&at.at("to_q"), channels, channels, false)?,
            key: Linear::load(&at.at("to_k"), memory_dim, channels, false)?,
            value: Linear::load(&at.at("to_v"), memory_dim, channels, false)?,
            out: Linear::load(&at.at("to_out.0"), channels, channels, true)?,
        })
    }

    /// One [`KeysValues`] per sample of `memory` `(batch, tokens, memory_dim)`.
    fn remember(&self, memory: &Tensor, heads: usize) -> candle_core::Result<Vec<KeysValues>> {
        let (keys, vals) = (self.key.forward(memory)?, self.value.forward(memory)?);
        let (_, tokens, width) = keys.dims3()?;
        let (keys, vals) = (values(&keys)?, values(&vals)?);
        let sample = tokens * width;
        Ok(keys
            .chunks(sample)
            .zip(vals.chunks(sample))
            .map(|(k, v)| KeysValues::pack(k, v, width, heads))
            .collect())
    }
}

impl TransformerBlock {
    pub(super) fn load(
        at: &Source<'_>,
        level: &LevelConfig,
        cross_dim: usize,
        cross_index: usize,
    ) -> Result<Self, weights::Error> {
        let channels = level.channels;
        let inner = 4 * channels;
        Ok(Self {
            heads: level.heads,
            cross_index,
            norm1: layer_norm(&at.at("norm1"), channels, 1e-5)?,
            to_self: Attention::load(&at.at("attn1"), channels, channels)?,
            norm2: layer_norm(&at.at("norm2"), channels, 1e-5)?,
            to_text: Attention::load(&at.at("attn2"), channels, cross_dim)?,
            norm3: layer_norm(&at.at("norm3"), channels, 1e-5)?,
            widen: Linear::load(&at.at("ff.net.0.proj"), channels, 2 * inner, true)?,
            narrow: Linear::load(&at.at("ff.net.2"), inner, channels, true)?,
        })
    }

    pub(super) fn remember(&self, states: &Tensor) -> candle_core::Result<KeysValues> {
        match self
            .to_text
            .remember(&states.unsqueeze(0)?, self.heads)?
            .pop()
        {
            Some(memory) => Ok(memory),
            None => bail!("text states without tokens"),
        }
    }

    /// `(batch, tokens, channels)` to the same.
    pub(super) fn forward(&self, input: &Tensor, at: &At<'_>) -> candle_core::Result<Tensor> {
        let normal = self.norm1.forward(input)?;
        let own = self.to_self.remember(&normal, self.heads)?;
        let own: Vec<&KeysValues> = own.iter().collect();
        let mixed = attend(&self.to_self.query.forward(&normal)?, &own, Mask::None)?;
        let hidden = self.to_self.out.forward_add(&mixed, input)?;

        let text: Vec<&KeysValues> = at
            .contexts
            .iter()
            .map(|c| &c.layers[self.cross_index])
            .collect();
        let query = self.to_text.query.forward(&self.norm2.forward(&hidden)?)?;
        let hidden = self
            .to_text
            .out
            .forward_add(&attend(&query, &text, Mask::None)?, &hidden)?;

        let wide = geglu(&self.widen.forward(&self.norm3.forward(&hidden)?)?)?;
        self.narrow.forward_add(&wide, &hidden)
    }
}
