//! diffusers' `UNet2DConditionModel` for inference on the CPU, as its `config.json` says.
//!
//! Own code, not candle-transformers': that one ignores `norm_num_groups` in its down blocks, uses
//! the tanh form of GELU, takes one time step for a whole batch and is twice as slow as PyTorch.
//! Architecture: Rombach et al. 2022 (arXiv 2112.10752), after Ronneberger et al. 2015.
//!
//! A batch is cut among threads by samples, and every product sums one sample's numbers in a fixed
//! order, so a sample's result is the same bits alone and among others.

use std::path::Path;

use candle_core::{D, Device, Tensor, bail};
use rayon::prelude::*;

use crate::blocks::{Conv, Linear, ResnetBlock, ResnetShape, Source, group_norm, layer_norm};
use crate::config::{self, Fields, LoadError};
use crate::ops::conv::Placement;
use crate::ops::geglu::geglu;
use crate::ops::group_norm::{GroupNorm, LayerNorm};
use crate::ops::packed_attention::{KeysValues, Mask, attend};
use crate::ops::pointwise::silu_all;
use crate::ops::values::values;
use crate::weights::{self, Weights};

/// What `config.json` says of a UNet.
#[derive(Clone, Debug)]
pub struct Config {
    /// Height and width of the latents the model was trained on, when stated.
    pub sample_size: Option<usize>,
    /// Channels of the latents that come in.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Width of the text states.
    pub cross_attention_dim: usize,
    levels: Vec<LevelConfig>,
    /// Attention on the way up, by level from the bottom.
    up_attention: Vec<bool>,
    groups: usize,
    eps: f32,
    flip_sin_to_cos: bool,
    freq_shift: f64,
}

#[derive(Clone, Debug)]
struct LevelConfig {
    channels: usize,
    has_attention: bool,
    layers: usize,
    heads: usize,
    transformer_layers: usize,
}

impl Config {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub fn read(file: &Path) -> Result<Self, config::Error> {
        let mut fields = Fields::open(file)?;
        refuse_other_architectures(&mut fields)?;
        let channels: Vec<usize> = fields.require("block_out_channels")?;
        let count = channels.len();
        let down: Vec<String> = fields.require("down_block_types")?;
        let up: Vec<String> = fields.require("up_block_types")?;
        if count == 0 || down.len() != count || up.len() != count {
            return Err(fields.invalid(
                "down_block_types",
                "must list as many blocks as block_out_channels",
            ));
        }
        // diffusers' naming slip, kept for compatibility: `attention_head_dim` is the number of heads.
        let heads = fields.take_per_block("attention_head_dim", 8, count)?;
        let layers = fields.take_per_block("layers_per_block", 2, count)?;
        let depths = fields.take_per_block("transformer_layers_per_block", 1, count)?;
        let groups = fields.take_or("norm_num_groups", 32)?;
        let mut levels = Vec::new();
        for i in 0..count {
            let has_attention = block_kind(
                &fields,
                "down_block_types",
                &down[i],
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            )?;
            if groups == 0 || !channels[i].is_multiple_of(groups) {
                return Err(fields.invalid(
                    "norm_num_groups",
                    format!("{groups} does not divide {}", channels[i]),
                ));
            }
            if heads[i] == 0 || !channels[i].is_multiple_of(heads[i]) {
                let reason = format!("{} heads do not divide {} channels", heads[i], channels[i]);
                return Err(fields.invalid("attention_head_dim", reason));
            }
            levels.push(LevelConfig {
                channels: channels[i],
                has_attention,
                layers: layers[i],
                heads: heads[i],
                transformer_layers: depths[i],
            });
        }
        let up_attention = up
            .iter()
            .map(|kind| {
                block_kind(
                    &fields,
                    "up_block_types",
                    kind,
                    "CrossAttnUpBlock2D",
                    "UpBlock2D",
                )
            })
            .collect::<Result<_, _>>()?;
        let config = Self {
            sample_size: fields.take("sample_size")?,
            in_channels: fields.take_or("in_channels", 4)?,
            out_channels: fields.take_or("out_channels", 4)?,
            cross_attention_dim: fields.require("cross_attention_dim")?,
            levels,
            up_attention,
            groups,
            eps: fields.take_or("norm_eps", 1e-5)?,
            flip_sin_to_cos: fields.take_or("flip_sin_to_cos", true)?,
            freq_shift: fields.take_or("freq_shift", 0.)?,
        };
        fields.finish()?;
        Ok(config)
    }

    fn time_dim(&self) -> usize {
        4 * self.levels[0].channels
    }
}

/// Fields that change the architecture, with the one value this model has an answer for.
fn refuse_other_architectures(fields: &mut Fields) -> Result<(), config::Error> {
    for (field, only) in [
        ("act_fn", "silu"),
        ("mid_block_type", "UNetMidBlock2DCrossAttn"),
        ("resnet_time_scale_shift", "default"),
        ("time_embedding_type", "positional"),
        ("attention_type", "default"),
    ] {
        fields.only(field, only)?;
    }
    for field in [
        "center_input_sample",
        "only_cross_attention",
        "dual_cross_attention",
        "resnet_skip_time_act",
        "class_embeddings_concat",
    ] {
        fields.only(field, false)?;
    }
    for (field, only) in [
        ("conv_in_kernel", 3),
        ("conv_out_kernel", 3),
        ("downsample_padding", 1),
        ("mid_block_scale_factor", 1),
        ("resnet_out_scale_factor", 1),
    ] {
        fields.only(field, only)?;
    }
    // Taken by shape from the weights, unused without `addition_embed_type`, or training only.
    fields.ignore(&[
        "use_linear_projection",
        "upcast_attention",
        "addition_embed_type_num_heads",
        "dropout",
    ]);
    Ok(())
}

fn block_kind(
    fields: &Fields,
    field: &str,
    kind: &str,
    cross: &str,
    plain: &str,
) -> Result<bool, config::Error> {
    match kind {
        kind if kind == cross => Ok(true),
        kind if kind == plain => Ok(false),
        other => Err(fields.unsupported(field, &other.into(), &format!("{cross} and {plain}"))),
    }
}

/// A loaded UNet.
pub struct Unet {
    config: Config,
    conv_in: Conv,
    time1: Linear,
    time2: Linear,
    down: Vec<Level>,
    mid: (ResnetBlock, Transformer, ResnetBlock),
    up: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv,
}

/// Text states as the attention layers of one UNet want them: made once per prompt.
pub struct Context {
    layers: Vec<KeysValues>,
}

impl Unet {
    /// Loads `config.json` and the weights beside it.
    ///
    /// # Errors
    /// [`LoadError`], naming file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        let config = Config::read(&folder.join("config.json"))?;
        let weights = Weights::open_in(folder, &["diffusion_pytorch_model"])?;
        let unet = Self::build(config, &Source::new(&weights))?;
        weights.finish(&[])?;
        Ok(unet)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Prepares text states `(tokens, cross_attention_dim)`.
    ///
    /// # Errors
    /// When the width is another.
    pub fn context(&self, states: &Tensor) -> candle_core::Result<Context> {
        let blocks: Vec<&TransformerBlock> = self.transformers().flat_map(|t| &t.blocks).collect();
        let layers = blocks
            .par_iter()
            .map(|block| block.remember(states))
            .collect::<candle_core::Result<_>>()?;
        Ok(Context { layers })
    }

    /// The prediction for noisy `latents` `(batch, in_channels, height, width)`, each sample at its own
    /// time step with its own text: `(batch, out_channels, height, width)`.
    ///
    /// # Errors
    /// When the counts or shapes disagree.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        contexts: &[&Context],
    ) -> candle_core::Result<Tensor> {
        let batch = latents.dim(0)?;
        if batch == 0 || timesteps.len() != batch || contexts.len() != batch {
            bail!(
                "{batch} latents, {} time steps, {} contexts",
                timesteps.len(),
                contexts.len()
            );
        }
        let share = batch.div_ceil(rayon::current_num_threads());
        let starts: Vec<usize> = (0..batch).step_by(share).collect();
        let parts: Vec<Tensor> = starts
            .par_iter()
            .map(|&first| {
                let range = first..(first + share).min(batch);
                let part = latents.narrow(0, first, range.len())?;
                self.forward_part(&part, &timesteps[range.clone()], &contexts[range])
            })
            .collect::<candle_core::Result<_>>()?;
        Tensor::cat(&parts, 0)
    }

    fn forward_part(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        contexts: &[&Context],
    ) -> candle_core::Result<Tensor> {
        let time = self.embed_time(timesteps)?;
        let at = At {
            time: &time,
            contexts,
        };
        let mut hidden = self
            .conv_in
            .forward(&latents.permute((0, 2, 3, 1))?.contiguous()?)?;
        let mut skips = vec![hidden.clone()];
        for level in &self.down {
            for (i, resnet) in level.resnets.iter().enumerate() {
                hidden = level.layer(i, resnet, &hidden, &at)?;
                skips.push(hidden.clone());
            }
            if let Some(conv) = &level.resample {
                hidden = conv.forward(&hidden)?;
                skips.push(hidden.clone());
            }
        }
        hidden = self.mid.0.forward(&hidden, Some(at.time))?;
        hidden = self.mid.1.forward(&hidden, &at)?;
        hidden = self.mid.2.forward(&hidden, Some(at.time))?;
        for level in &self.up {
            for (i, resnet) in level.resnets.iter().enumerate() {
                let Some(skip) = skips.pop() else {
                    bail!("a block without its skip connection")
                };
                let joined = Tensor::cat(&[&hidden, &skip], D::Minus1)?;
                hidden = level.layer(i, resnet, &joined, &at)?;
            }
            if let (Some(conv), Some(skip)) = (&level.resample, skips.last()) {
                // The size of the skip connection, so that odd sizes come back as they went.
                let (_, height, width, _) = skip.dims4()?;
                hidden = conv.forward_upsampled(&hidden, height, width)?;
            }
        }
        let hidden = self
            .conv_out
            .forward(&self.norm_out.forward(&hidden, true)?)?;
        hidden.permute((0, 3, 1, 2))?.contiguous()
    }

    /// Sinusoids of the time step (Vaswani et al. 2017) through two layers, and SiLU after them, which
    /// every block begins with: `(batch, time_dim)`.
    fn embed_time(&self, timesteps: &[f32]) -> candle_core::Result<Tensor> {
        let dim = self.config.levels[0].channels;
        let half = dim / 2;
        let rate = -(10_000f64.ln()) / (half as f64 - self.config.freq_shift);
        let mut rows = Vec::with_capacity(timesteps.len() * dim);
        for t in timesteps {
            let angles: Vec<f32> = (0..half)
                .map(|i| t * ((rate * i as f64) as f32).exp())
                .collect();
            let (sines, cosines) = (
                angles.iter().map(|a| a.sin()),
                angles.iter().map(|a| a.cos()),
            );
            if self.config.flip_sin_to_cos {
                rows.extend(cosines.chain(sines));
            } else {
                rows.extend(sines.chain(cosines));
            }
            rows.extend(std::iter::repeat_n(0., dim % 2));
        }
        let rows = Tensor::from_vec(rows, (timesteps.len(), dim), &Device::Cpu)?;
        let hidden = silu_of(&self.time1.forward(&rows)?)?;
        silu_of(&self.time2.forward(&hidden)?)
    }

    fn transformers(&self) -> impl Iterator<Item = &Transformer> {
        let down = self.down.iter().flat_map(|level| &level.attentions);
        let up = self.up.iter().flat_map(|level| &level.attentions);
        down.chain(std::iter::once(&self.mid.1)).chain(up)
    }

    fn build(config: Config, at: &Source<'_>) -> Result<Self, weights::Error> {
        let mut cross_layers = 0;
        let first = config.levels[0].channels;
        let time_dim = config.time_dim();
        let down = Level::load_down(&config, at, &mut cross_layers)?;
        let mid = Self::load_mid(&config, &at.at("mid_block"), &mut cross_layers)?;
        let up = Level::load_up(&config, at, &mut cross_layers)?;
        let time = at.at("time_embedding");
        Ok(Self {
            conv_in: Conv::load(&at.at("conv_in"), config.in_channels, first, 3)?,
            time1: Linear::load(&time.at("linear_1"), first, time_dim, true)?,
            time2: Linear::load(&time.at("linear_2"), time_dim, time_dim, true)?,
            down,
            mid,
            up,
            norm_out: group_norm(&at.at("conv_norm_out"), first, config.groups, config.eps)?,
            conv_out: Conv::load(&at.at("conv_out"), first, config.out_channels, 3)?,
            config,
        })
    }

    fn load_mid(
        config: &Config,
        at: &Source<'_>,
        cross_layers: &mut usize,
    ) -> Result<(ResnetBlock, Transformer, ResnetBlock), weights::Error> {
        let Some(last) = config.levels.last() else {
            unreachable!("Config::read refuses an empty list")
        };
        let shape = resnet_shape(config, last.channels, last.channels);
        Ok((
            ResnetBlock::load(&at.at("resnets.0"), shape)?,
            Transformer::load(&at.at("attentions.0"), config, last, cross_layers)?,
            ResnetBlock::load(&at.at("resnets.1"), shape)?,
        ))
    }
}

/// What every layer of one forward pass shares.
struct At<'a> {
    /// `(batch, time_dim)`.
    time: &'a Tensor,
    contexts: &'a [&'a Context],
}

/// One resolution, on the way down or up.
struct Level {
    resnets: Vec<ResnetBlock>,
    /// As many as `resnets`, or none.
    attentions: Vec<Transformer>,
    /// The convolution to the next resolution.
    resample: Option<Conv>,
}

impl Level {
    fn layer(
        &self,
        index: usize,
        resnet: &ResnetBlock,
        input: &Tensor,
        at: &At<'_>,
    ) -> candle_core::Result<Tensor> {
        let hidden = resnet.forward(input, Some(at.time))?;
        match self.attentions.get(index) {
            Some(attention) => attention.forward(&hidden, at),
            None => Ok(hidden),
        }
    }

    fn load_down(
        config: &Config,
        at: &Source<'_>,
        cross_layers: &mut usize,
    ) -> Result<Vec<Self>, weights::Error> {
        let mut levels = Vec::new();
        let mut inputs = config.levels[0].channels;
        for (i, level) in config.levels.iter().enumerate() {
            let at = at.at(format_args!("down_blocks.{i}"));
            let channels = level.channels;
            let mut loaded = Self {
                resnets: Vec::new(),
                attentions: Vec::new(),
                resample: None,
            };
            for j in 0..level.layers {
                let shape = resnet_shape(config, inputs, channels);
                loaded.resnets.push(ResnetBlock::load(
                    &at.at(format_args!("resnets.{j}")),
                    shape,
                )?);
                inputs = channels;
                if level.has_attention {
                    let at = at.at(format_args!("attentions.{j}"));
                    loaded
                        .attentions
                        .push(Transformer::load(&at, config, level, cross_layers)?);
                }
            }
            if i + 1 < config.levels.len() {
                let halve = Placement {
                    stride: 2,
                    ..Placement::same(3)
                };
                let at = at.at("downsamplers.0.conv");
                loaded.resample = Some(Conv::load_placed(&at, (channels, channels), 3, halve)?);
            }
            levels.push(loaded);
        }
        Ok(levels)
    }

    fn load_up(
        config: &Config,
        at: &Source<'_>,
        cross_layers: &mut usize,
    ) -> Result<Vec<Self>, weights::Error> {
        let from_bottom: Vec<&LevelConfig> = config.levels.iter().rev().collect();
        let mut levels = Vec::new();
        let mut inputs = from_bottom[0].channels;
        for (i, level) in from_bottom.iter().enumerate() {
            let at = at.at(format_args!("up_blocks.{i}"));
            let channels = level.channels;
            let next = from_bottom
                .get(i + 1)
                .map_or(channels, |next| next.channels);
            let mut loaded = Self {
                resnets: Vec::new(),
                attentions: Vec::new(),
                resample: None,
            };
            for j in 0..=level.layers {
                // The last layer meets the skip connection from before the level below was widened.
                let skip = if j == level.layers { next } else { channels };
                let shape = resnet_shape(config, inputs + skip, channels);
                loaded.resnets.push(ResnetBlock::load(
                    &at.at(format_args!("resnets.{j}")),
                    shape,
                )?);
                inputs = channels;
                if config.up_attention[i] {
                    let at = at.at(format_args!("attentions.{j}"));
                    loaded
                        .attentions
                        .push(Transformer::load(&at, config, level, cross_layers)?);
                }
            }
            if i + 1 < from_bottom.len() {
                loaded.resample = Some(Conv::load(
                    &at.at("upsamplers.0.conv"),
                    channels,
                    channels,
                    3,
                )?);
            }
            levels.push(loaded);
        }
        Ok(levels)
    }
}

fn resnet_shape(config: &Config, inputs: usize, outputs: usize) -> ResnetShape {
    let time_dim = Some(config.time_dim());
    ResnetShape {
        inputs,
        outputs,
        time_dim,
        groups: config.groups,
        eps: config.eps,
    }
}

/// diffusers' `Transformer2DModel` over the pixels of one resolution.
struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl Transformer {
    fn load(
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

    fn forward(&self, input: &Tensor, at: &At<'_>) -> candle_core::Result<Tensor> {
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
struct TransformerBlock {
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
    fn load(at: &Source<'_>, channels: usize, memory_dim: usize) -> Result<Self, weights::Error> {
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
    fn load(
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

    fn remember(&self, states: &Tensor) -> candle_core::Result<KeysValues> {
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
    fn forward(&self, input: &Tensor, at: &At<'_>) -> candle_core::Result<Tensor> {
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

fn silu_of(input: &Tensor) -> candle_core::Result<Tensor> {
    let mut out = values(input)?.to_vec();
    silu_all(&mut out);
    Tensor::from_vec(out, input.shape(), input.device())
}
