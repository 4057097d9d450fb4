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
    /// Conditions beside the text states, as Stable Diffusion XL has them.
    pub addition: Option<AdditionConfig>,
    /// From the finest level down.
    pub(super) levels: Vec<LevelConfig>,
    /// The way up, from the coarsest level.
    pub(super) up_levels: Vec<LevelConfig>,
    pub(super) groups: usize,
    pub(super) eps: f32,
    pub(super) flip_sin_to_cos: bool,
    pub(super) freq_shift: f64,
}

/// `addition_embed_type` = `text_time`: a pooled text and [`SIZES`] sizes.
#[derive(Clone, Copy, Debug)]
pub struct AdditionConfig {
    /// Sinusoids for each of the sizes.
    pub time_dim: usize,
    /// Width of the pooled text.
    pub pooled_dim: usize,
}

impl AdditionConfig {
    /// Numbers that the sizes and the pooled text become together.
    pub(super) fn input_dim(&self) -> usize {
        self.pooled_dim + SIZES * self.time_dim
    }
}

/// Sizes that condition a picture: height and width of its original, top and left of the crop, height
/// and width it shall have (Podell et al. 2023, arXiv 2307.01952, section 2.2).
pub const SIZES: usize = 6;

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
        fields.only("_class_name", "UNet2DConditionModel")?;
        refuse_other_architectures(&mut fields)?;
        let groups = fields.take_or("norm_num_groups", 32)?;
        let (levels, up_levels) = read_levels(&mut fields, groups)?;
        let config = Self {
            sample_size: fields.take("sample_size")?,
            in_channels: fields.take_or("in_channels", 4)?,
            out_channels: fields.take_or("out_channels", 4)?,
            cross_attention_dim: fields.require("cross_attention_dim")?,
            addition: read_addition(&mut fields)?,
            levels,
            up_levels,
            groups,
            eps: fields.take_or("norm_eps", 1e-5)?,
            flip_sin_to_cos: fields.take_or("flip_sin_to_cos", true)?,
            freq_shift: fields.take_or("freq_shift", 0.)?,
        };
        if config.sample_size == Some(0) {
            return Err(fields.invalid("sample_size", "is zero"));
        }
        fields.finish()?;
        Ok(config)
    }

    /// Width of the time embedding.
    pub fn time_dim(&self) -> usize {
        4 * self.levels[0].channels
    }
}

/// The levels on the way down and on the way up, each in the order of computation.
fn read_levels(
    fields: &mut Fields,
    groups: usize,
) -> Result<(Vec<LevelConfig>, Vec<LevelConfig>), config::Error> {
    let channels: Vec<usize> = fields.require("block_out_channels")?;
    let count = channels.len();
    let down: Vec<String> = fields.require("down_block_types")?;
    let up: Vec<String> = fields.require("up_block_types")?;
    if count == 0 || down.len() != count || up.len() != count {
        let reason = "must list as many blocks as block_out_channels";
        return Err(fields.invalid("down_block_types", reason));
    }
    // diffusers' naming slip, kept for compatibility: `attention_head_dim` is the number of heads.
    let heads = fields.take_per_block("attention_head_dim", 8, count)?;
    let layers = fields.take_per_block("layers_per_block", 2, count)?;
    let depths = fields.take_per_block("transformer_layers_per_block", 1, count)?;
    let mut up_depths: Vec<usize> = depths.iter().rev().copied().collect();
    if let Some(listed) = fields.take::<Vec<usize>>("reverse_transformer_layers_per_block")? {
        if listed.len() != count {
            let reason = format!("must list {count} blocks");
            return Err(fields.invalid("reverse_transformer_layers_per_block", reason));
        }
        up_depths = listed;
    }
    let mut levels = Vec::new();
    for i in 0..count {
        check_divides(fields, "norm_num_groups", groups, channels[i])?;
        check_divides(fields, "attention_head_dim", heads[i], channels[i])?;
        levels.push(LevelConfig {
            channels: channels[i],
            has_attention: block_kind(fields, "down_block_types", &down[i])?,
            layers: layers[i],
            heads: heads[i],
            transformer_layers: depths[i],
        });
    }
    let mut up_levels = Vec::new();
    for ((level, kind), depth) in levels.iter().rev().zip(&up).zip(up_depths) {
        up_levels.push(LevelConfig {
            has_attention: block_kind(fields, "up_block_types", kind)?,
            transformer_layers: depth,
            ..level.clone()
        });
    }
    Ok((levels, up_levels))
}

fn check_divides(
    fields: &Fields,
    field: &str,
    parts: usize,
    channels: usize,
) -> Result<(), config::Error> {
    if parts == 0 || channels == 0 || !channels.is_multiple_of(parts) {
        let reason = format!("is {parts}, which does not divide {channels} channels");
        return Err(fields.invalid(field, reason));
    }
    Ok(())
}

/// Whether a block has attention.
fn block_kind(fields: &Fields, field: &str, kind: &str) -> Result<bool, config::Error> {
    let way = if field.starts_with("down") {
        "Down"
    } else {
        "Up"
    };
    let (cross, plain) = (format!("CrossAttn{way}Block2D"), format!("{way}Block2D"));
    match kind {
        kind if kind == cross => Ok(true),
        kind if kind == plain => Ok(false),
        other => Err(fields.unsupported(field, &other.into(), &format!("{cross} and {plain}"))),
    }
}

fn read_addition(fields: &mut Fields) -> Result<Option<AdditionConfig>, config::Error> {
    let kind: Option<String> = fields.take("addition_embed_type")?;
    match kind.as_deref() {
        None => Ok(None),
        Some("text_time") => {
            let time_dim: usize = fields.require("addition_time_embed_dim")?;
            let width: usize = fields.require("projection_class_embeddings_input_dim")?;
            let sizes_dim = time_dim.saturating_mul(SIZES);
            let pooled_dim = width.checked_sub(sizes_dim).filter(|dim| *dim > 0);
            let Some(pooled_dim) = pooled_dim.filter(|_| time_dim > 0) else {
                let reason = format!("is {width}, {SIZES} sizes alone take {sizes_dim}");
                return Err(fields.invalid("projection_class_embeddings_input_dim", reason));
            };
            Ok(Some(AdditionConfig {
                time_dim,
                pooled_dim,
            }))
        }
        Some(other) => {
            Err(fields.unsupported("addition_embed_type", &other.into(), "only text_time"))
        }
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
        "mid_block_only_cross_attention",
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
    // Taken by shape from the weights, needless in f32, unused with `text_time`, or training only.
    fields.ignore(&[
        "use_linear_projection",
        "upcast_attention",
        "addition_embed_type_num_heads",
        "dropout",
    ]);
    Ok(())
}
