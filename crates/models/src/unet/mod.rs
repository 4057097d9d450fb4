//! diffusers' `UNet2DConditionModel` for inference on the CPU, as its `config.json` says.
//!
//! Own code, not candle-transformers': that one ignores `norm_num_groups` in its down blocks, uses
//! the tanh form of GELU, takes one time step for a whole batch and is twice as slow as PyTorch.
//! Architecture: Rombach et al. 2022 (arXiv 2112.10752), after Ronneberger et al. 2015.
//!
//! A batch is cut among threads by samples, and every product sums one sample's numbers in a fixed
//! order, so a sample's result is the same bits alone and among others.

mod config;
pub(crate) mod embedding;
mod level;
mod transformer;

use std::path::Path;

use candle_core::{D, Device, Tensor, bail};
use rayon::prelude::*;

pub use self::config::{AdditionConfig, Config, SIZES};
use self::embedding::{Embedding, sinusoids};
use self::level::{Level, resnet_shape};
use self::transformer::{Transformer, TransformerBlock};
use crate::blocks::{Conv, ResnetBlock, Source, group_norm};
use crate::config::LoadError;
use crate::ops::group_norm::GroupNorm;
use crate::ops::packed_attention::KeysValues;
use crate::ops::pointwise::{add_assign, silu_all};
use crate::ops::precision::Precision;
use crate::ops::values::values;
use crate::weights::{self, Adapters, Weights};

/// A loaded UNet.
pub struct Unet {
    config: Config,
    conv_in: Conv,
    time: Embedding,
    addition: Option<Embedding>,
    down: Vec<Level>,
    mid: (ResnetBlock, Transformer, ResnetBlock),
    up: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv,
}

/// Text states as the attention layers of one UNet want them: made once per prompt.
pub struct Context {
    layers: Vec<KeysValues>,
    /// Added to the embedding of every time step, where the model takes an [`Addition`].
    addition: Option<Vec<f32>>,
}

/// Conditions beside the text states, for models whose [`Config::addition`] says so.
pub struct Addition<'a> {
    /// The pooled text, as wide as the configuration says.
    pub pooled: &'a [f32],
    /// In pixels: height and width of the original, top and left of the crop, height and width wanted.
    pub sizes: [f32; SIZES],
}

impl Unet {
    /// Loads `config.json` and the weights beside it.
    ///
    /// # Errors
    /// [`LoadError`], naming file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        Self::load_adapted(folder, Vec::new(), Precision::F32)
    }

    /// The same, with adapters merged into its weights, in order, and computing in `precision`.
    ///
    /// # Errors
    /// [`LoadError`], naming file, field or tensor.
    pub fn load_adapted(
        folder: &Path,
        adapters: Adapters,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let config = Config::read(&folder.join("config.json"))?;
        let weights =
            Weights::open_in(folder, &["diffusion_pytorch_model"])?.with_adapters(adapters);
        let source = Source::new(&weights).computing_in(precision);
        let unet = Self::build(config, &source)?;
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
    /// When the width is another, or the model wants an [`Addition`] too.
    pub fn context(&self, states: &Tensor) -> candle_core::Result<Context> {
        if self.addition.is_some() {
            bail!("text states without the pooled text and the sizes that the model takes")
        }
        self.remember(states, None)
    }

    /// Prepares text states `(tokens, cross_attention_dim)` and the other conditions.
    ///
    /// # Errors
    /// When a width is another, or the model takes no [`Addition`].
    pub fn context_with(
        &self,
        states: &Tensor,
        addition: &Addition<'_>,
    ) -> candle_core::Result<Context> {
        self.remember(states, Some(self.embed_addition(addition)?))
    }

    fn remember(
        &self,
        states: &Tensor,
        addition: Option<Vec<f32>>,
    ) -> candle_core::Result<Context> {
        let blocks: Vec<&TransformerBlock> = self.transformers().flat_map(|t| &t.blocks).collect();
        let layers = blocks
            .par_iter()
            .map(|block| block.remember(states))
            .collect::<candle_core::Result<_>>()?;
        Ok(Context { layers, addition })
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
        let time = self.embed_time(timesteps, contexts)?;
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

    /// The time step and what is added to it, and SiLU after them, which every block begins with:
    /// `(batch, time_dim)`.
    fn embed_time(&self, timesteps: &[f32], contexts: &[&Context]) -> candle_core::Result<Tensor> {
        let dim = self.config.levels[0].channels;
        let rows = sinusoids(timesteps, dim, &self.config);
        let rows = Tensor::from_vec(rows, (timesteps.len(), dim), &Device::Cpu)?;
        let mut out = values(&self.time.forward(&rows)?)?.to_vec();
        for (row, context) in out.chunks_mut(self.config.time_dim()).zip(contexts) {
            if let Some(addition) = &context.addition {
                add_assign(row, addition);
            }
        }
        silu_all(&mut out);
        Tensor::from_vec(out, (timesteps.len(), self.config.time_dim()), &Device::Cpu)
    }

    /// What a pooled text and sizes add to the embedding of every time step.
    fn embed_addition(&self, addition: &Addition<'_>) -> candle_core::Result<Vec<f32>> {
        let (Some(layer), Some(config)) = (&self.addition, self.config.addition) else {
            bail!("a pooled text for a model that takes none")
        };
        if addition.pooled.len() != config.pooled_dim {
            bail!(
                "a pooled text of {} for {}",
                addition.pooled.len(),
                config.pooled_dim
            );
        }
        let mut row = addition.pooled.to_vec();
        row.extend(sinusoids(&addition.sizes, config.time_dim, &self.config));
        let row = Tensor::from_vec(row.clone(), (1, row.len()), &Device::Cpu)?;
        Ok(values(&layer.forward(&row)?)?.to_vec())
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
        Ok(Self {
            conv_in: Conv::load(&at.at("conv_in"), config.in_channels, first, 3)?,
            time: Embedding::load(&at.at("time_embedding"), first, time_dim)?,
            addition: config
                .addition
                .map(|c| Embedding::load(&at.at("add_embedding"), c.input_dim(), time_dim))
                .transpose()?,
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
