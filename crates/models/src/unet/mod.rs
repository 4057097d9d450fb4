//! diffusers' `UNet2DConditionModel` for inference on the CPU, as its `config.json` says.
//!
//! Own code, not candle-transformers': that one ignores `norm_num_groups` in its down blocks, uses
//! the tanh form of GELU, takes one time step for a whole batch and is twice as slow as PyTorch.
//! Architecture: Rombach et al. 2022 (arXiv 2112.10752), after Ronneberger et al. 2015.
//!
//! A batch is cut among threads by samples, and every product sums one sample's numbers in a fixed
//! order, so a sample's result is the same bits alone and among others.

mod config;
mod level;
mod transformer;

use std::path::Path;

use candle_core::{D, Device, Tensor, bail};
use rayon::prelude::*;

pub use self::config::Config;
use self::level::{Level, resnet_shape};
use self::transformer::{Transformer, TransformerBlock};
use crate::blocks::{Conv, Linear, ResnetBlock, Source, group_norm};
use crate::config::LoadError;
use crate::ops::group_norm::GroupNorm;
use crate::ops::packed_attention::KeysValues;
use crate::ops::pointwise::silu_all;
use crate::ops::values::values;
use crate::weights::{self, Weights};

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

fn silu_of(input: &Tensor) -> candle_core::Result<Tensor> {
    let mut out = values(input)?.to_vec();
    silu_all(&mut out);
    Tensor::from_vec(out, input.shape(), input.device())
}
