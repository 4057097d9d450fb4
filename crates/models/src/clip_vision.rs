//! CLIP's image tower (Radford et al., 2021), for the features that LLaVA reads. Embeddings come from
//! `image_tower`.
//!
//! Always frozen here, so it runs without a graph, one image per thread: features of an image are
//! the same bits alone and in any batch, and may be cached. `quick_gelu` or exact `gelu`.

use serde::Deserialize;

use crate::llava_error::Error;
use crate::ops::attention::{self, Heads, Rows, Span};
use crate::ops::gemm::Threads;
use crate::ops::linear::{add_product, product};
use crate::ops::math::{erf, sigmoid};
use crate::ops::norm::layer_norm_rows;

/// `vision_config` with the class defaults of transformers' `CLIPVisionConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Width of the tower.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Side of the input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width of the shared image–text space.
    pub projection_dim: usize,
    /// Added to the variance.
    pub layer_norm_eps: f64,
    /// `quick_gelu` or `gelu`.
    pub hidden_act: String,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            projection_dim: 512,
            layer_norm_eps: 1e-5,
            hidden_act: "quick_gelu".into(),
        }
    }
}

impl ClipVisionConfig {
    /// Patches of an image, without the class token.
    pub fn patch_count(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Refuses what this implementation would compute wrongly.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sizes = [
            self.hidden_size,
            self.intermediate_size,
            self.image_size,
            self.patch_size,
        ];
        let heads = self.num_attention_heads;
        match () {
            () if sizes.contains(&0) || heads == 0 => Err("a size in vision_config is 0".into()),
            () if !self.image_size.is_multiple_of(self.patch_size) => Err(format!(
                "image_size {} is no multiple of patch_size {}",
                self.image_size, self.patch_size
            )),
            () if !self.hidden_size.is_multiple_of(heads) => Err(format!(
                "vision width {} does not split into {heads} heads",
                self.hidden_size
            )),
            () if !matches!(self.hidden_act.as_str(), "quick_gelu" | "gelu") => Err(format!(
                "vision activation `{}` is not supported",
                self.hidden_act
            )),
            () => Ok(()),
        }
    }
}

/// The tower's weights.
#[derive(Debug)]
pub struct ClipVision {
    config: ClipVisionConfig,
    class_embedding: Vec<f32>,
    patch_embedding: Vec<f32>,    // (hidden, 3 · patch²)
    position_embedding: Vec<f32>, // (1 + patches, hidden)
    before: Norm,
    layers: Vec<EncoderLayer>,
    after: Norm,
}

#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct EncoderLayer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

/// A tensor of the tower, as it goes into a checkpoint.
pub(crate) type NamedTensor<'a> = (String, Vec<usize>, &'a [f32]);

impl ClipVision {
    /// Builds the tower; `take(name, shape)` gives the values of a tensor by its name below
    /// `vision_model.`.
    ///
    /// # Errors
    /// What `take` gives.
    pub(crate) fn load(
        config: ClipVisionConfig,
        mut take: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, Error>,
    ) -> Result<Self, Error> {
        let (d, i, patch) = (
            config.hidden_size,
            config.intermediate_size,
            config.patch_size,
        );
        let class_embedding = take("embeddings.class_embedding", &[d])?;
        let patch_embedding = take("embeddings.patch_embedding.weight", &[d, 3, patch, patch])?;
        let positions = 1 + config.patch_count();
        let position_embedding = take("embeddings.position_embedding.weight", &[positions, d])?;
        let before = Norm::load("pre_layrnorm", d, &mut take)?;
        let mut layers = Vec::new();
        for index in 0..config.num_hidden_layers {
            let at = |leaf: &str| format!("encoder.layers.{index}.{leaf}");
            layers.push(EncoderLayer {
                norm1: Norm::load(&at("layer_norm1"), d, &mut take)?,
                qkv: Linear::stacked(
                    &["q", "k", "v"].map(|p| at(&format!("self_attn.{p}_proj"))),
                    d,
                    d,
                    &mut take,
                )?,
                out: Linear::stacked(&[at("self_attn.out_proj")], d, d, &mut take)?,
                norm2: Norm::load(&at("layer_norm2"), d, &mut take)?,
                fc1: Linear::stacked(&[at("mlp.fc1")], d, i, &mut take)?,
                fc2: Linear::stacked(&[at("mlp.fc2")], i, d, &mut take)?,
            });
        }
        let after = Norm::load("post_layernorm", d, &mut take)?;
        Ok(Self {
            config,
            class_embedding,
            patch_embedding,
            position_embedding,
            before,
            layers,
            after,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// Hidden states after `layer_count` layers, class token first: (1 + patches) · hidden numbers.
    /// `pixels`: normalised (3, size, size).
    pub fn hidden_state(&self, pixels: &[f32], layer_count: usize) -> Vec<f32> {
        let mut x = self.embed(pixels);
        x = self.before.rows(&x, self.eps());
        for layer in &self.layers[..layer_count] {
            layer.forward(&mut x, &self.config);
        }
        x
    }

    /// All tensors by their names below `vision_model.`.
    pub(crate) fn tensors(&self) -> Vec<NamedTensor<'_>> {
        let (d, patch) = (self.config.hidden_size, self.config.patch_size);
        let mut all: Vec<NamedTensor<'_>> = vec![
            (
                "embeddings.class_embedding".into(),
                vec![d],
                &self.class_embedding,
            ),
            (
                "embeddings.patch_embedding.weight".into(),
                vec![d, 3, patch, patch],
                &self.patch_embedding,
            ),
            (
                "embeddings.position_embedding.weight".into(),
                vec![1 + self.config.patch_count(), d],
                &self.position_embedding,
            ),
        ];
        self.before.tensors("pre_layrnorm".into(), &mut all);
        self.after.tensors("post_layernorm".into(), &mut all);
        for (index, layer) in self.layers.iter().enumerate() {
            let at = |leaf: &str| format!("encoder.layers.{index}.{leaf}");
            layer.norm1.tensors(at("layer_norm1"), &mut all);
            layer.norm2.tensors(at("layer_norm2"), &mut all);
            layer.qkv.tensors(
                &["q", "k", "v"].map(|p| at(&format!("self_attn.{p}_proj"))),
                &mut all,
            );
            layer.out.tensors(&[at("self_attn.out_proj")], &mut all);
            layer.fc1.tensors(&[at("mlp.fc1")], &mut all);
            layer.fc2.tensors(&[at("mlp.fc2")], &mut all);
        }
        all
    }

    fn eps(&self) -> f32 {
        self.config.layer_norm_eps as f32
    }

    fn embed(&self, pixels: &[f32]) -> Vec<f32> {
        let (d, size, patch) = (
            self.config.hidden_size,
            self.config.image_size,
            self.config.patch_size,
        );
        let side = size / patch;
        let mut patches = Vec::with_capacity(pixels.len()); // (patches, 3 · patch²)
        for at in 0..side * side {
            let (top, left) = (at / side * patch, at % side * patch);
            for channel in 0..3 {
                for y in 0..patch {
                    let start = (channel * size + top + y) * size + left;
                    patches.extend_from_slice(&pixels[start..start + patch]);
                }
            }
        }
        let mut x = self.class_embedding.clone();
        x.extend(product(
            &patches,
            &self.patch_embedding,
            3 * patch * patch,
            Threads::One,
        ));
        debug_assert_eq!(x.len(), (1 + side * side) * d);
        x.iter_mut()
            .zip(&self.position_embedding)
            .for_each(|(x, p)| *x += p);
        x
    }
}

impl EncoderLayer {
    fn forward(&self, x: &mut [f32], config: &ClipVisionConfig) {
        let (d, eps) = (config.hidden_size, config.layer_norm_eps as f32);
        let tokens = x.len() / d;
        let count = config.num_attention_heads;
        let heads = Heads {
            queries: count,
            keys: count,
            dim: d / count,
        };
        let qkv = self.qkv.rows(&self.norm1.rows(x, eps), d);
        let rows = |start: usize| Rows {
            data: &qkv[start..],
            stride: 3 * d,
        };
        let mut attended = vec![0f32; tokens * d];
        let span = Span {
            queries: tokens,
            past: 0,
            causal: false,
        };
        attention::forward(heads, span, rows(0), rows(d), rows(2 * d), &mut attended);
        self.out.add_rows(x, &attended, d);
        let mut hidden = self.fc1.rows(&self.norm2.rows(x, eps), d);
        match config.hidden_act.as_str() {
            "gelu" => hidden
                .iter_mut()
                .for_each(|x| *x *= 0.5 * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2))),
            _ => hidden.iter_mut().for_each(|x| *x *= sigmoid(1.702 * *x)),
        }
        self.fc2.add_rows(x, &hidden, config.intermediate_size);
    }
}

impl Norm {
    fn load(
        name: &str,
        width: usize,
        take: &mut impl FnMut(&str, &[usize]) -> Result<Vec<f32>, Error>,
    ) -> Result<Self, Error> {
        let weight = take(&format!("{name}.weight"), &[width])?;
        Ok(Self {
            weight,
            bias: take(&format!("{name}.bias"), &[width])?,
        })
    }

    fn rows(&self, x: &[f32], eps: f32) -> Vec<f32> {
        layer_norm_rows(x, &self.weight, &self.bias, eps)
    }

    fn tensors<'a>(&'a self, name: String, all: &mut Vec<NamedTensor<'a>>) {
        all.push((
            format!("{name}.weight"),
            vec![self.weight.len()],
            &self.weight,
        ));
        all.push((format!("{name}.bias"), vec![self.bias.len()], &self.bias));
    }
}

impl Linear {
    /// Reads layers of one input side by side, as one product.
    fn stacked(
        names: &[String],
        inputs: usize,
        outputs: usize,
        take: &mut impl FnMut(&str, &[usize]) -> Result<Vec<f32>, Error>,
    ) -> Result<Self, Error> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weight.extend(take(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(take(&format!("{name}.bias"), &[outputs])?);
        }
        Ok(Self { weight, bias })
    }

    fn rows(&self, x: &[f32], inputs: usize) -> Vec<f32> {
        let rows = x.len() / inputs;
        let mut out: Vec<f32> = self
            .bias
            .iter()
            .copied()
            .cycle()
            .take(rows * self.bias.len())
            .collect();
        add_product(&mut out, x, &self.weight, inputs, Threads::One);
        out
    }

    fn add_rows(&self, out: &mut [f32], x: &[f32], inputs: usize) {
        for row in out.chunks_exact_mut(self.bias.len()) {
            row.iter_mut().zip(&self.bias).for_each(|(o, b)| *o += b);
        }
        add_product(out, x, &self.weight, inputs, Threads::One);
    }

    fn tensors<'a>(&'a self, names: &[String], all: &mut Vec<NamedTensor<'a>>) {
        let outputs = self.bias.len() / names.len();
        let inputs = self.weight.len() / self.bias.len();
        let weights = self.weight.chunks_exact(outputs * inputs);
        for ((name, weight), bias) in names
            .iter()
            .zip(weights)
            .zip(self.bias.chunks_exact(outputs))
        {
            all.push((format!("{name}.weight"), vec![outputs, inputs], weight));
            all.push((format!("{name}.bias"), vec![outputs], bias));
        }
    }
}
