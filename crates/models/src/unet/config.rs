//! What `config.json` says of a UNet.

use std::path::Path;

use crate::config::{self, Fields};

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
    pub(super) levels: Vec<LevelConfig>,
    /// Attention on the way up, by level from the bottom.
    pub(super) up_attention: Vec<bool>,
    pub(super) groups: usize,
    pub(super) eps: f32,
    pub(super) flip_sin_to_cos: bool,
    pub(super) freq_shift: f64,
}

#[derive(Clone, Debug)]
pub(super) struct LevelConfig {
    pub(super) channels: usize,
    pub(super) has_attention: bool,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) transformer_layers: usize,
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

    pub(super) fn time_dim(&self) -> usize {
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
