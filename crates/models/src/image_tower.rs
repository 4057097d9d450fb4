//! The image halves of CLIP, SigLIP and ViT for inference, one picture at a time: patches become
//! tokens, a stack of layers mixes them, a norm ends it.
//!
//! `clip_vision` computes the same for LLaVA, in the layout that its training wants.

use candle_core::{Device, Tensor};

use crate::blocks::{Source, layer_norm};
use crate::config::{self, Fields};
use crate::encoder::{CLIP_NAMES, Layer, Names, Shape, VIT_NAMES};
use crate::ops::group_norm::LayerNorm;
use crate::ops::product::{Matrix, Packed, add_product};
use crate::weights;

/// What `config.json` says of an image half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) shape: Shape,
    /// Side of the input.
    pub(crate) side_px: usize,
    /// Side of a patch; what is over at the right and at the bottom is not seen.
    pub(crate) patch_px: usize,
}

impl Config {
    /// Reads the fields of an image half; what is not written has its value in `defaults`.
    pub(crate) fn from_fields(fields: &mut Fields, defaults: Self) -> Result<Self, config::Error> {
        fields.only("num_channels", 3)?;
        let config = Self {
            shape: Shape::from_fields(fields, defaults.shape)?,
            side_px: fields.take_or("image_size", defaults.side_px)?,
            patch_px: fields.take_or("patch_size", defaults.patch_px)?,
        };
        if config.patch_px == 0 || config.patch_px > config.side_px || config.side_px > 4096 {
            let reason = format!("does not fit an image_size of {}", config.side_px);
            return Err(fields.invalid("patch_size", reason));
        }
        Ok(config)
    }

    fn patches_per_side(&self) -> usize {
        self.side_px / self.patch_px
    }
}

/// What the parts are called in the file, and which of them there are.
pub(crate) struct Layout {
    /// The token that stands before the patches.
    class: Option<&'static str>,
    patches: &'static str,
    has_patch_bias: bool,
    positions: &'static str,
    /// The norm before the layers.
    norm_before: Option<&'static str>,
    layers: &'static str,
    names: Names,
    /// The norm after the layers.
    norm_after: &'static str,
}

/// CLIP's image half.
pub(crate) const CLIP: Layout = Layout {
    class: Some("embeddings.class_embedding"),
    patches: "embeddings.patch_embedding",
    has_patch_bias: false,
    positions: "embeddings.position_embedding.weight",
    norm_before: Some("pre_layrnorm"),
    layers: "encoder.layers",
    names: CLIP_NAMES,
    norm_after: "post_layernorm",
};

/// SigLIP's image half.
pub(crate) const SIGLIP: Layout = Layout {
    class: None,
    has_patch_bias: true,
    norm_before: None,
    ..CLIP
};

/// ViT.
pub(crate) const VIT: Layout = Layout {
    class: Some("embeddings.cls_token"),
    patches: "embeddings.patch_embeddings.projection",
    has_patch_bias: true,
    positions: "embeddings.position_embeddings",
    norm_before: None,
    layers: "encoder.layer",
    names: VIT_NAMES,
    norm_after: "layernorm",
};

/// A loaded image half.
pub(crate) struct ImageTower {
    config: Config,
    /// `(width)`; empty where there is no class token.
    class: Vec<f32>,
    patches: Packed,
    patch_bias: Vec<f32>,
    /// `(tokens, width)`, row-major.
    positions: Vec<f32>,
    norm_before: Option<LayerNorm>,
    layers: Vec<Layer>,
    norm_after: LayerNorm,
}

impl ImageTower {
    /// Loads the part of the checkpoint at `at`.
    pub(crate) fn load(
        at: &Source<'_>,
        config: Config,
        layout: &Layout,
    ) -> Result<Self, weights::Error> {
        let (width, patch) = (config.shape.width, config.patch_px);
        let count = config.patches_per_side().pow(2) + usize::from(layout.class.is_some());
        let norm = |name| layer_norm(&at.at(name), width, config.shape.eps);
        let kernel = at.at(layout.patches);
        let weight = kernel.values("weight", &[width, 3, patch, patch])?;
        let class = layout.class.map(|name| rows(at, name, 1, width));
        Ok(Self {
            class: class.transpose()?.unwrap_or_default(),
            patches: Packed::from_out_in(&weight, width, 3 * patch * patch),
            patch_bias: match layout.has_patch_bias {
                true => kernel.values("bias", &[width])?,
                false => vec![0.; width],
            },
            positions: rows(at, layout.positions, count, width)?,
            norm_before: layout.norm_before.map(norm).transpose()?,
            layers: Layer::load_stack(at, layout.layers, &layout.names, config.shape)?,
            norm_after: norm(layout.norm_after)?,
            config,
        })
    }

    /// The states after the last norm, `(1, tokens, width)`, the class token first where there is one.
    /// `pixels`: normalised `(3, side, side)`.
    pub(crate) fn states(&self, pixels: &[f32]) -> candle_core::Result<Tensor> {
        let mut hidden = self.embed(pixels)?;
        if let Some(norm) = &self.norm_before {
            hidden = norm.forward(&hidden)?;
        }
        for layer in &self.layers {
            hidden = layer.forward_norm_first(&hidden)?;
        }
        self.norm_after.forward(&hidden)
    }

    /// The state of the first token after the last norm, `(1, width)`.
    pub(crate) fn first_state(&self, pixels: &[f32]) -> candle_core::Result<Tensor> {
        self.states(pixels)?
            .narrow(1, 0, 1)?
            .squeeze(1)?
            .contiguous()
    }

    fn embed(&self, pixels: &[f32]) -> candle_core::Result<Tensor> {
        let Config {
            shape,
            side_px: side,
            patch_px: patch,
        } = self.config;
        if pixels.len() != 3 * side * side {
            candle_core::bail!("{} numbers for a picture of {side} pixels", pixels.len());
        }
        let per_side = self.config.patches_per_side();
        let mut cut = Vec::with_capacity(pixels.len()); // (patches, 3 · patch²)
        for at in 0..per_side * per_side {
            let (top, left) = (at / per_side * patch, at % per_side * patch);
            for channel in 0..3 {
                for y in 0..patch {
                    let start = (channel * side + top + y) * side + left;
                    cut.extend_from_slice(&pixels[start..start + patch]);
                }
            }
        }
        let mut tokens = self.patch_bias.repeat(per_side * per_side);
        add_product(
            &Matrix::whole(&cut, 3 * patch * patch),
            &self.patches,
            &mut tokens,
        );
        let mut all = self.class.clone();
        all.extend(tokens);
        all.iter_mut()
            .zip(&self.positions)
            .for_each(|(x, p)| *x += p);
        let count = all.len() / shape.width;
        Tensor::from_vec(all, (1, count, shape.width), &Device::Cpu)
    }
}

/// A table of `count` rows; ViT writes a leading dimension of 1 before it, or two before a single row.
fn rows(
    at: &Source<'_>,
    name: &str,
    count: usize,
    width: usize,
) -> Result<Vec<f32>, weights::Error> {
    match at.shape(name).map_or(2, <[usize]>::len) {
        1 => at.values(name, &[count * width]),
        3 => at.values(name, &[1, count, width]),
        _ => at.values(name, &[count, width]),
    }
}
