//! One resolution of a UNet.

use candle_core::Tensor;

use super::At;
use super::config::{Config, LevelConfig};
use super::transformer::Transformer;
use crate::blocks::{Conv, ResnetBlock, ResnetShape, Source};
use crate::ops::conv::Placement;
use crate::weights;

/// One resolution, on the way down or up.
pub(super) struct Level {
    pub(super) resnets: Vec<ResnetBlock>,
    /// As many as `resnets`, or none.
    pub(super) attentions: Vec<Transformer>,
    /// The convolution to the next resolution.
    pub(super) resample: Option<Conv>,
}

impl Level {
    pub(super) fn layer(
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

    pub(super) fn load_down(
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

    pub(super) fn load_up(
        config: &Config,
        at: &Source<'_>,
        cross_layers: &mut usize,
    ) -> Result<Vec<Self>, weights::Error> {
        let from_bottom: &[LevelConfig] = &config.up_levels;
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
                if level.has_attention {
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

pub(super) fn resnet_shape(config: &Config, inputs: usize, outputs: usize) -> ResnetShape {
    let time_dim = Some(config.time_dim());
    ResnetShape {
        inputs,
        outputs,
        time_dim,
        groups: config.groups,
        eps: config.eps,
    }
}
