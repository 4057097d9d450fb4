//! diffusers' `SD3Transformer2DModel`: Stable Diffusion 3, and 3.5 with normalised queries and keys and,
//! in its medium size, layers where the picture attends to itself a second time.

use std::path::Path;

use candle_core::{Device, Tensor, bail};

use super::attention::Heads;
use super::block::{JointBlock, Shape, Streams};
use super::condition::Condition;
use super::modulation::Last;
use super::patches::{self, Order};
use super::{Context, Sample, check_counts, each_sample};
use crate::blocks::{Linear, Source};
use crate::config::{self, Fields, LoadError};
use crate::ops::pointwise::add_assign;
use crate::ops::precision::Precision;
use crate::ops::values::values;
use crate::weights::{self, Adapters, Weights};

/// What `config.json` says of a transformer.
#[derive(Clone, Debug)]
pub struct Config {
    /// Height and width of the latents the model was trained on.
    pub sample_size: usize,
    /// Channels of the latents, in and out.
    pub channels: usize,
    /// Latents along one side of a token: heights and widths are multiples of it.
    pub patch_size: usize,
    /// Width of the text states.
    pub text_dim: usize,
    /// Width of the pooled text.
    pub pooled_dim: usize,
    /// The most tokens along one side of a picture.
    pub max_side: usize,
    heads: Heads,
    layers: usize,
    dual_layers: Vec<usize>,
}

impl Config {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub fn read(file: &Path) -> Result<Self, config::Error> {
        let mut fields = Fields::open(file)?;
        fields.only("_class_name", "SD3Transformer2DModel")?;
        let norm: Option<String> = fields.take("qk_norm")?;
        let are_normalized = norm.is_some();
        if let Some(other) = norm.filter(|name| name != "rms_norm") {
            return Err(fields.unsupported("qk_norm", &other.into(), "only rms_norm"));
        }
        let heads = Heads {
            count: fields.take_or("num_attention_heads", 18)?,
            dim: fields.take_or("attention_head_dim", 64)?,
            are_normalized,
        };
        let channels = fields.take_or("in_channels", 16)?;
        let config = Self {
            sample_size: fields.take_or("sample_size", 128)?,
            channels,
            patch_size: fields.take_or("patch_size", 2)?,
            text_dim: fields.take_or("joint_attention_dim", 4096)?,
            pooled_dim: fields.take_or("pooled_projection_dim", 2048)?,
            max_side: fields.take_or("pos_embed_max_size", 96)?,
            heads,
            layers: fields.take_or("num_layers", 18)?,
            dual_layers: fields.take_or("dual_attention_layers", Vec::new())?,
        };
        fields.only("out_channels", channels)?;
        config.check(&mut fields)?;
        fields.finish()?;
        Ok(config)
    }

    fn check(&self, fields: &mut Fields) -> Result<(), config::Error> {
        let counts = [
            ("num_attention_heads", self.heads.count),
            ("attention_head_dim", self.heads.dim),
            ("in_channels", self.channels),
            ("sample_size", self.sample_size),
            ("patch_size", self.patch_size),
            ("joint_attention_dim", self.text_dim),
            ("pooled_projection_dim", self.pooled_dim),
            ("pos_embed_max_size", self.max_side),
            ("num_layers", self.layers),
        ];
        check_counts(fields, &counts)?;
        let width = self.heads.width();
        let projected = fields.take_or("caption_projection_dim", 1152)?;
        if projected != width {
            let reason = format!("is {projected}, all heads together have {width}");
            return Err(fields.invalid("caption_projection_dim", reason));
        }
        if let Some(layer) = self.dual_layers.iter().find(|i| **i >= self.layers) {
            let reason = format!("names layer {layer} of {}", self.layers);
            return Err(fields.invalid("dual_attention_layers", reason));
        }
        if self.sample_size > self.max_side.saturating_mul(self.patch_size) {
            let reason = format!("is {}, below the model's own sample_size", self.max_side);
            return Err(fields.invalid("pos_embed_max_size", reason));
        }
        Ok(())
    }
}

/// A loaded transformer.
pub struct Sd3 {
    config: Config,
    patches: Linear,
    /// `(max_side, max_side, width)`, row-major.
    places: Vec<f32>,
    condition: Condition,
    states: Linear,
    blocks: Vec<JointBlock>,
    last: Last,
}

impl Sd3 {
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
        let (width, side) = (config.heads.width(), config.patch_size);
        let (embed, inputs) = (at.at("pos_embed"), config.channels * side * side);
        let kernel = embed.values("proj.weight", &[width, config.channels, side, side])?;
        let bias = embed.values("proj.bias", &[width])?;
        let places = [1, config.max_side * config.max_side, width];
        let block = |i| {
            let shape = Shape {
                heads: config.heads,
                is_last: i + 1 == config.layers,
                is_dual: config.dual_layers.contains(&i),
            };
            JointBlock::load(&at.at(format_args!("transformer_blocks.{i}")), shape)
        };
        Ok(Self {
            patches: Linear::from_values(&kernel, bias, inputs),
            places: embed.values("pos_embed", &places)?,
            condition: Condition::load(&at.at("time_text_embed"), width, config.pooled_dim, false)?,
            states: Linear::load(&at.at("context_embedder"), config.text_dim, width, true)?,
            blocks: (0..config.layers).map(block).collect::<Result<_, _>>()?,
            last: Last::load(at, width, inputs)?,
            config,
        })
    }

    /// Prepares text states `(tokens, text_dim)` and a pooled text.
    ///
    /// # Errors
    /// When a width is another.
    pub fn context(&self, states: &Tensor, pooled: &[f32]) -> candle_core::Result<Context> {
        Ok(Context {
            states: self.states.forward(states)?,
            condition: self.condition.of_text(pooled, 0.)?,
        })
    }

    /// The velocity for noisy `latents` `(batch, channels, height, width)`, each sample at its own time step
    /// (0 to 1000) with its own text: the same shape.
    ///
    /// # Errors
    /// When counts or shapes disagree, or a side is no multiple of the patch or beyond `max_side` tokens.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        contexts: &[&Context],
    ) -> candle_core::Result<Tensor> {
        let (_, channels, height, width) = latents.dims4()?;
        let (side, most) = (self.config.patch_size, self.config.max_side);
        let fits = |n: usize| n > 0 && n.is_multiple_of(side) && n / side <= most;
        if channels != self.config.channels || !fits(height) || !fits(width) {
            bail!("latents of {:?} for this transformer", latents.shape());
        }
        each_sample(latents, timesteps, contexts, |sample| self.predict(sample))
    }

    fn predict(&self, sample: &Sample<'_>) -> candle_core::Result<Vec<f32>> {
        let [channels, height, width] = sample.shape;
        let side = self.config.patch_size;
        let (rows, columns) = (height / side, width / side);
        let cut = patches::cut(sample.latents, sample.shape, side);
        let shape = (rows * columns, channels * side * side);
        let tokens = self
            .patches
            .forward(&Tensor::from_vec(cut, shape, &Device::Cpu)?)?;
        let mut picture = values(&tokens)?.to_vec();
        self.add_places(&mut picture, rows, columns);
        let condition = self
            .condition
            .at(sample.timestep, &sample.context.condition)?;
        let mut streams = Streams {
            picture: Tensor::from_vec(picture, tokens.shape(), &Device::Cpu)?,
            text: sample.context.states.clone(),
        };
        for block in &self.blocks {
            streams = block.forward(streams, &condition, None)?;
        }
        let out = self.last.forward(&streams.picture, &condition)?;
        let out = values(&out)?;
        Ok(patches::join(&out, sample.shape, side, Order::ChannelsLast))
    }

    /// Adds the places of a picture in the middle of the trained plane.
    fn add_places(&self, tokens: &mut [f32], rows: usize, columns: usize) {
        let (most, width) = (self.config.max_side, self.config.heads.width());
        let (top, left) = ((most - rows) / 2, (most - columns) / 2);
        for (y, row) in tokens.chunks_mut(columns * width).enumerate() {
            let start = ((top + y) * most + left) * width;
            add_assign(row, &self.places[start..start + columns * width]);
        }
    }
}
