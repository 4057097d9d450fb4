//! diffusers' `AutoencoderKL` for inference on the CPU, as its `config.json` says.
//!
//! Own code, not candle-transformers': that one gives no mean of the encoder and spends a third of its
//! time on copies that our convolution does not make. Any `block_out_channels`, `latent_channels`,
//! `norm_num_groups`, `scaling_factor` and `shift_factor`.

use std::path::Path;

use candle_core::Tensor;

use crate::blocks::{Conv, Linear, ResnetBlock, ResnetShape, Source, group_norm};
use crate::config::{self, Fields, LoadError};
use crate::ops::conv::Placement;
use crate::ops::group_norm::GroupNorm;
use crate::ops::packed_attention::{KeysValues, Mask, attend};
use crate::ops::values::values;
use crate::weights::{self, Weights};

const EPS: f32 = 1e-6;

/// What `config.json` says of an autoencoder.
#[derive(Clone, Debug)]
pub struct Config {
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Latents are multiplied by this for the UNet.
    pub scaling_factor: f64,
    /// Subtracted from latents before scaling.
    pub shift_factor: f64,
    channels: Vec<usize>,
    layers: usize,
    groups: usize,
    in_channels: usize,
    out_channels: usize,
    quant_conv: bool,
    post_quant_conv: bool,
    mid_attention: bool,
}

impl Config {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub fn read(file: &Path) -> Result<Self, config::Error> {
        let mut fields = Fields::open(file)?;
        fields.only("act_fn", "silu")?;
        fields.only("down_block_types", "DownEncoderBlock2D")?;
        fields.only("up_block_types", "UpDecoderBlock2D")?;
        // Sizes follow the request; precision is f32 always.
        fields.ignore(&["sample_size", "force_upcast"]);
        let config = Self {
            latent_channels: fields.take_or("latent_channels", 4)?,
            scaling_factor: fields.take_or("scaling_factor", 0.18215)?,
            shift_factor: fields.take_or("shift_factor", 0.)?,
            channels: fields.require("block_out_channels")?,
            layers: fields.take_or("layers_per_block", 1)?,
            groups: fields.take_or("norm_num_groups", 32)?,
            in_channels: fields.take_or("in_channels", 3)?,
            out_channels: fields.take_or("out_channels", 3)?,
            quant_conv: fields.take_or("use_quant_conv", true)?,
            post_quant_conv: fields.take_or("use_post_quant_conv", true)?,
            mid_attention: fields.take_or("mid_block_add_attention", true)?,
        };
        if config.channels.is_empty() {
            return Err(fields.invalid("block_out_channels", "is empty"));
        }
        if let Some(channels) = config
            .channels
            .iter()
            .find(|c| config.groups == 0 || !c.is_multiple_of(config.groups))
        {
            let reason = format!("{} does not divide {channels} channels", config.groups);
            return Err(fields.invalid("norm_num_groups", reason));
        }
        if config.out_channels != 3 || config.in_channels != 3 {
            return Err(fields.unsupported(
                "out_channels",
                &config.out_channels.into(),
                "pictures of 3 channels",
            ));
        }
        if config.scaling_factor == 0. {
            return Err(fields.invalid("scaling_factor", "is zero"));
        }
        fields.finish()?;
        Ok(config)
    }

    /// Pixels along one side of one latent.
    pub fn scale(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}

/// A loaded autoencoder.
pub struct Vae {
    config: Config,
    encoder: Encoder,
    decoder: Decoder,
}

impl Vae {
    /// Loads `config.json` and the weights beside it.
    ///
    /// # Errors
    /// [`LoadError`], naming file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        let config = Config::read(&folder.join("config.json"))?;
        let weights = Weights::open_in(folder, &["diffusion_pytorch_model"])?;
        let source = Source::new(&weights);
        let encoder = Encoder::load(&config, &source)?;
        let decoder = Decoder::load(&config, &source)?;
        weights.finish(&[])?;
        Ok(Self {
            config,
            encoder,
            decoder,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// UNet latents `(batch, latent_channels, height, width)` to pictures in [-1, 1], not clamped:
    /// `(batch, scale · height, scale · width, 3)`.
    ///
    /// # Errors
    /// When the channels differ.
    pub fn decode(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
        let raw = ((latents / self.config.scaling_factor)? + self.config.shift_factor)?;
        self.decoder
            .forward(&raw.permute((0, 2, 3, 1))?.contiguous()?)
    }

    /// Pictures in [-1, 1], `(batch, height, width, 3)`, to the mean of their latents as the UNet wants
    /// them: `(batch, latent_channels, height / scale, width / scale)`.
    ///
    /// # Errors
    /// When the channels differ.
    pub fn encode_mean(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        let (mean, _) = self.moments(pictures)?;
        self.scaled(&mean)
    }

    /// The same, but latents drawn from their posterior, N(mean, exp(log variance)), with as many
    /// normal numbers in the order of the latents: `latent_dist.sample()`.
    ///
    /// # Errors
    /// When the channels differ, or the count of numbers.
    pub fn encode_drawn(&self, pictures: &Tensor, noise: &[f32]) -> candle_core::Result<Tensor> {
        let (mean, log_variance) = self.moments(pictures)?;
        let noise = Tensor::from_slice(noise, mean.shape(), mean.device())?;
        let deviation = (log_variance.clamp(-30f32, 20f32)? * 0.5)?.exp()?;
        self.scaled(&(mean + (deviation * noise)?)?)
    }

    /// Mean and logarithm of the variance, `(batch, latent_channels, height, width)` each.
    fn moments(&self, pictures: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let channels = self.config.latent_channels;
        let moments = self.encoder.forward(pictures)?.permute((0, 3, 1, 2))?;
        let half = |start| moments.narrow(1, start, channels)?.contiguous();
        Ok((half(0)?, half(channels)?))
    }

    fn scaled(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
        (latents - self.config.shift_factor)? * self.config.scaling_factor
    }
}

struct Encoder {
    conv_in: Conv,
    levels: Vec<(Vec<ResnetBlock>, Option<Conv>)>,
    mid: Mid,
    norm_out: GroupNorm,
    conv_out: Conv,
    quant: Option<Linear>,
}

impl Encoder {
    fn load(config: &Config, source: &Source<'_>) -> Result<Self, weights::Error> {
        let at = source.at("encoder");
        let (first, last) = ends(config);
        let mut levels = Vec::new();
        let mut inputs = first;
        for (i, &channels) in config.channels.iter().enumerate() {
            let at = at.at(format_args!("down_blocks.{i}"));
            let resnets = load_resnets(&at, config, config.layers, inputs, channels)?;
            inputs = channels;
            // diffusers pads only below and to the right here.
            let place = Placement {
                stride: 2,
                pad_before: 0,
                pad_after: 1,
                upsampled: None,
            };
            let halve = || {
                Conv::load_placed(
                    &at.at("downsamplers.0.conv"),
                    (channels, channels),
                    3,
                    place,
                )
            };
            let halve = (i + 1 < config.channels.len()).then(halve).transpose()?;
            levels.push((resnets, halve));
        }
        let moments = 2 * config.latent_channels;
        let quant = || Linear::load(&source.at("quant_conv"), moments, moments, true);
        Ok(Self {
            conv_in: Conv::load(&at.at("conv_in"), config.in_channels, first, 3)?,
            levels,
            mid: Mid::load(&at.at("mid_block"), config, last)?,
            norm_out: group_norm(&at.at("conv_norm_out"), last, config.groups, EPS)?,
            conv_out: Conv::load(&at.at("conv_out"), last, moments, 3)?,
            quant: config.quant_conv.then(quant).transpose()?,
        })
    }

    fn forward(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        let mut hidden = self.conv_in.forward(pictures)?;
        for (resnets, halve) in &self.levels {
            for resnet in resnets {
                hidden = resnet.forward(&hidden, None)?;
            }
            if let Some(conv) = halve {
                hidden = conv.forward(&hidden)?;
            }
        }
        hidden = self.mid.forward(&hidden)?;
        hidden = self
            .conv_out
            .forward(&self.norm_out.forward(&hidden, true)?)?;
        self.quant
            .as_ref()
            .map_or(Ok(hidden.clone()), |quant| quant.forward(&hidden))
    }
}

struct Decoder {
    post_quant: Option<Linear>,
    conv_in: Conv,
    mid: Mid,
    levels: Vec<(Vec<ResnetBlock>, Option<Conv>)>,
    norm_out: GroupNorm,
    conv_out: Conv,
}

impl Decoder {
    fn load(config: &Config, source: &Source<'_>) -> Result<Self, weights::Error> {
        let at = source.at("decoder");
        let (first, last) = ends(config);
        let mut levels = Vec::new();
        let mut inputs = last;
        for (i, &channels) in config.channels.iter().rev().enumerate() {
            let at = at.at(format_args!("up_blocks.{i}"));
            let resnets = load_resnets(&at, config, config.layers + 1, inputs, channels)?;
            inputs = channels;
            let double = || Conv::load(&at.at("upsamplers.0.conv"), channels, channels, 3);
            let double = (i + 1 < config.channels.len()).then(double).transpose()?;
            levels.push((resnets, double));
        }
        let latent = config.latent_channels;
        let post_quant = || Linear::load(&source.at("post_quant_conv"), latent, latent, true);
        Ok(Self {
            post_quant: config.post_quant_conv.then(post_quant).transpose()?,
            conv_in: Conv::load(&at.at("conv_in"), latent, last, 3)?,
            mid: Mid::load(&at.at("mid_block"), config, last)?,
            levels,
            norm_out: group_norm(&at.at("conv_norm_out"), first, config.groups, EPS)?,
            conv_out: Conv::load(&at.at("conv_out"), first, config.out_channels, 3)?,
        })
    }

    fn forward(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
        let latents = self
            .post_quant
            .as_ref()
            .map_or(Ok(latents.clone()), |l| l.forward(latents))?;
        let mut hidden = self.mid.forward(&self.conv_in.forward(&latents)?)?;
        for (resnets, double) in &self.levels {
            for resnet in resnets {
                hidden = resnet.forward(&hidden, None)?;
            }
            if let Some(conv) = double {
                let (_, height, width, _) = hidden.dims4()?;
                hidden = conv.forward_upsampled(&hidden, 2 * height, 2 * width)?;
            }
        }
        self.conv_out
            .forward(&self.norm_out.forward(&hidden, true)?)
    }
}

/// The lowest resolution: a block, single-head attention over all pixels, a block.
struct Mid {
    first: ResnetBlock,
    attention: Option<PixelAttention>,
    second: ResnetBlock,
}

impl Mid {
    fn load(at: &Source<'_>, config: &Config, channels: usize) -> Result<Self, weights::Error> {
        let shape = shape(config, channels, channels);
        let attention = || PixelAttention::load(&at.at("attentions.0"), channels, config.groups);
        Ok(Self {
            first: ResnetBlock::load(&at.at("resnets.0"), shape)?,
            attention: config.mid_attention.then(attention).transpose()?,
            second: ResnetBlock::load(&at.at("resnets.1"), shape)?,
        })
    }

    fn forward(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        let hidden = self.first.forward(input, None)?;
        let hidden = self
            .attention
            .as_ref()
            .map_or(Ok(hidden.clone()), |a| a.forward(&hidden))?;
        self.second.forward(&hidden, None)
    }
}

struct PixelAttention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl PixelAttention {
    fn load(at: &Source<'_>, channels: usize, groups: usize) -> Result<Self, weights::Error> {
        // Files from before diffusers 0.18 have the second names.
        let linear = |name: &str, old: &str| {
            let here = at.at(name);
            let here = if here.has("weight") { here } else { at.at(old) };
            Linear::load(&here, channels, channels, true)
        };
        Ok(Self {
            norm: group_norm(&at.at("group_norm"), channels, groups, EPS)?,
            query: linear("to_q", "query")?,
            key: linear("to_k", "key")?,
            value: linear("to_v", "value")?,
            out: linear("to_out.0", "proj_attn")?,
        })
    }

    fn forward(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, height, width, channels) = input.dims4()?;
        let tokens = self
            .norm
            .forward(input, false)?
            .reshape((batch, height * width, channels))?;
        let (keys, vals) = (self.key.forward(&tokens)?, self.value.forward(&tokens)?);
        let (keys, vals) = (values(&keys)?, values(&vals)?);
        let sample = height * width * channels;
        let memory: Vec<KeysValues> = keys
            .chunks(sample)
            .zip(vals.chunks(sample))
            .map(|(k, v)| KeysValues::pack(k, v, channels, 1))
            .collect();
        let memory: Vec<&KeysValues> = memory.iter().collect();
        let mixed = attend(&self.query.forward(&tokens)?, &memory, Mask::None)?;
        self.out.forward_add(&mixed, input)?.reshape(input.shape())
    }
}

fn load_resnets(
    at: &Source<'_>,
    config: &Config,
    count: usize,
    inputs: usize,
    outputs: usize,
) -> Result<Vec<ResnetBlock>, weights::Error> {
    (0..count)
        .map(|j| {
            let inputs = if j == 0 { inputs } else { outputs };
            ResnetBlock::load(
                &at.at(format_args!("resnets.{j}")),
                shape(config, inputs, outputs),
            )
        })
        .collect()
}

fn shape(config: &Config, inputs: usize, outputs: usize) -> ResnetShape {
    ResnetShape {
        inputs,
        outputs,
        time_dim: None,
        groups: config.groups,
        eps: EPS,
    }
}

/// Channels of the finest and the coarsest level.
fn ends(config: &Config) -> (usize, usize) {
    let channels = &config.channels;
    (channels[0], channels[channels.len() - 1])
}
