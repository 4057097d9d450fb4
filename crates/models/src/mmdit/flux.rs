//! diffusers' `FluxTransformer2DModel`: FLUX.1 [dev], distilled with the strength of guidance as an input,
//! and [schnell], without (Black Forest Labs 2024).

use std::path::Path;

use candle_core::{Device, Tensor, bail};

use super::attention::{Heads, Turns};
use super::block::{JointBlock, Shape, SingleBlock, Streams};
use super::condition::Condition;
use super::modulation::Last;
use super::patches::{self, Order};
use super::{Context, Sample, check_counts, each_sample};
use crate::blocks::{Linear, Source};
use crate::config::{self, Fields, LoadError};
use crate::ops::precision::Precision;
use crate::ops::values::values;
use crate::weights::{self, Adapters, Weights};

/// Latents along one side of a token. The files say 1: their pipeline cuts the squares.
pub const PATCH_SIZE: usize = 2;
/// Height and width of the latents the models were trained on, which the files do not say.
pub const SAMPLE_SIZE: usize = 128;

/// What `config.json` says of a transformer.
#[derive(Clone, Debug)]
pub struct Config {
    /// Channels of the latents, in and out.
    pub channels: usize,
    /// Width of the text states.
    pub text_dim: usize,
    /// Width of the pooled text.
    pub pooled_dim: usize,
    /// Whether the strength of guidance is an input.
    pub takes_guidance: bool,
    heads: Heads,
    layers: usize,
    single_layers: usize,
    axes: [usize; 3],
}

impl Config {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub fn read(file: &Path) -> Result<Self, config::Error> {
        let mut fields = Fields::open(file)?;
        fields.only("_class_name", "FluxTransformer2DModel")?;
        fields.only("patch_size", 1)?;
        let inputs = fields.take_or("in_channels", 64)?;
        fields.only("out_channels", inputs)?;
        let heads = Heads {
            count: fields.take_or("num_attention_heads", 24)?,
            dim: fields.take_or("attention_head_dim", 128)?,
            are_normalized: true,
        };
        let config = Self {
            channels: inputs / (PATCH_SIZE * PATCH_SIZE),
            text_dim: fields.take_or("joint_attention_dim", 4096)?,
            pooled_dim: fields.take_or("pooled_projection_dim", 768)?,
            takes_guidance: fields.take_or("guidance_embeds", false)?,
            heads,
            layers: fields.take_or("num_layers", 19)?,
            single_layers: fields.take_or("num_single_layers", 38)?,
            axes: fields.take_or("axes_dims_rope", [16, 56, 56])?,
        };
        if !inputs.is_multiple_of(PATCH_SIZE * PATCH_SIZE) {
            let reason = format!("is {inputs}, not four times the latents' channels");
            return Err(fields.invalid("in_channels", reason));
        }
        config.check(&fields)?;
        fields.finish()?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<(), config::Error> {
        let counts = [
            ("num_attention_heads", self.heads.count),
            ("attention_head_dim", self.heads.dim),
            ("in_channels", self.channels),
            ("joint_attention_dim", self.text_dim),
            ("pooled_projection_dim", self.pooled_dim),
        ];
        check_counts(fields, &counts)?;
        let are_even = self.axes.iter().all(|dim| dim.is_multiple_of(2));
        let sum = self
            .axes
            .iter()
            .try_fold(0usize, |sum, dim| sum.checked_add(*dim));
        if !are_even || sum != Some(self.heads.dim) {
            let reason = format!("must be even and sum up to heads of {}", self.heads.dim);
            return Err(fields.invalid("axes_dims_rope", reason));
        }
        Ok(())
    }
}

/// A loaded transformer.
pub struct Flux {
    config: Config,
    patches: Linear,
    condition: Condition,
    states: Linear,
    blocks: Vec<JointBlock>,
    singles: Vec<SingleBlock>,
    last: Last,
}

impl Flux {
    /// Loads `config.json` and the weights beside it, with adapters merged in order.
    ///
    /// # Errors
    /// [`LoadError`], naming file, field or tensor.
    pub fn load(
        folder: &Path,
        adapters: Adapters,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let config = Config::read(&folder.join("config.json"))?;
        let weights =
            Weights::open_in(folder, &["diffusion_pytorch_model"])?.with_adapters(adapters);
        let source = Source::new(&weights).computing_in(precision);
        let model = Self::build(config, &source)?;
        weights.finish(&[])?;
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn build(config: Config, at: &Source<'_>) -> Result<Self, weights::Error> {
        let heads = config.heads;
        let (width, inputs) = (heads.width(), config.channels * PATCH_SIZE * PATCH_SIZE);
        let block = |i| {
            let shape = Shape {
                heads,
                is_last: false,
                is_dual: false,
            };
            JointBlock::load(&at.at(format_args!("transformer_blocks.{i}")), shape)
        };
        let single = |i| {
            let at = at.at(format_args!("single_transformer_blocks.{i}"));
            SingleBlock::load(&at, heads)
        };
        Ok(Self {
            patches: Linear::load(&at.at("x_embedder"), inputs, width, true)?,
            condition: Condition::load(
                &at.at("time_text_embed"),
                width,
                config.pooled_dim,
                config.takes_guidance,
            )?,
            states: Linear::load(&at.at("context_embedder"), config.text_dim, width, true)?,
            blocks: (0..config.layers).map(block).collect::<Result<_, _>>()?,
            singles: (0..config.single_layers)
                .map(single)
                .collect::<Result<_, _>>()?,
            last: Last::load(at, width, inputs)?,
            config,
        })
    }

    /// Prepares text states `(tokens, text_dim)`, a pooled text, and the strength of guidance, which is of
    /// no effect where the model does not take it.
    ///
    /// # Errors
    /// When a width is another.
    pub fn context(
        &self,
        states: &Tensor,
        pooled: &[f32],
        guidance: f32,
    ) -> candle_core::Result<Context> {
        Ok(Context {
            states: self.states.forward(states)?,
            condition: self.condition.of_text(pooled, guidance)?,
        })
    }

    /// The velocity for noisy `latents` `(batch, channels, height, width)`, not cut into squares, each
    /// sample at its own time step (0 to 1000) with its own text: the same shape.
    ///
    /// # Errors
    /// When counts or shapes disagree, or a side is no multiple of [`PATCH_SIZE`].
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        contexts: &[&Context],
    ) -> candle_core::Result<Tensor> {
        let (_, channels, height, width) = latents.dims4()?;
        let fits = |n: usize| n > 0 && n.is_multiple_of(PATCH_SIZE);
        if channels != self.config.channels || !fits(height) || !fits(width) {
            bail!("latents of {:?} for this transformer", latents.shape());
        }
        let (rows, columns) = (height / PATCH_SIZE, width / PATCH_SIZE);
        let turns = Turns::on_plane(rows, columns, self.config.axes);
        each_sample(latents, timesteps, contexts, |sample| {
            self.predict(sample, &turns)
        })
    }

    fn predict(&self, sample: &Sample<'_>, turns: &Turns) -> candle_core::Result<Vec<f32>> {
        let Sample { shape, context, .. } = *sample;
        let cut = patches::cut(sample.latents, shape, PATCH_SIZE);
        let inputs = shape[0] * PATCH_SIZE * PATCH_SIZE;
        let count = cut.len() / inputs;
        let cut = Tensor::from_vec(cut, (count, inputs), &Device::Cpu)?;
        // diffusers takes thousandths of a step and makes steps of them again.
        let timestep = sample.timestep / 1000. * 1000.;
        let condition = self.condition.at(timestep, &context.condition)?;
        // The text stands behind the picture here, before it in diffusers: its place is 0 for all tokens,
        // which turns nothing, and attention does not know an order.
        let mut streams = Streams {
            picture: self.patches.forward(&cut)?,
            text: context.states.clone(),
        };
        for block in &self.blocks {
            streams = block.forward(streams, &condition, Some(turns))?;
        }
        let mut tokens = Tensor::cat(&[&streams.picture, &streams.text], 0)?;
        for block in &self.singles {
            tokens = block.forward(&tokens, &condition, turns)?;
        }
        let picture = tokens.narrow(0, 0, count)?;
        let out = self.last.forward(&picture, &condition)?;
        let out = values(&out)?;
        Ok(patches::join(&out, shape, PATCH_SIZE, Order::ChannelsFirst))
    }
}
