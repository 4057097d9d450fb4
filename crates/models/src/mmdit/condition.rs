//! What steers all blocks at once: the time step, the pooled text and, where the model was distilled
//! with it, the strength of guidance.

use candle_core::{Device, Tensor, bail};

use crate::blocks::Source;
use crate::ops::pointwise::{add_assign, silu_all};
use crate::ops::values::values;
use crate::unet::embedding::Embedding;
use crate::weights::Error;

/// Sinusoids of one number.
const SINUSOIDS: usize = 256;

/// diffusers' `CombinedTimestep(Guidance)TextProjEmbeddings`.
pub(super) struct Condition {
    time: Embedding,
    guidance: Option<Embedding>,
    text: Embedding,
    pooled_dim: usize,
}

impl Condition {
    pub(super) fn load(
        at: &Source<'_>,
        dim: usize,
        pooled_dim: usize,
        has_guidance: bool,
    ) -> Result<Self, Error> {
        let number = |name: &str| Embedding::load(&at.at(name), SINUSOIDS, dim);
        Ok(Self {
            time: number("timestep_embedder")?,
            guidance: has_guidance
                .then(|| number("guidance_embedder"))
                .transpose()?,
            text: Embedding::load(&at.at("text_embedder"), pooled_dim, dim)?,
            pooled_dim,
        })
    }

    /// The part that is the same at every step. `guidance` is of no effect where the model takes none.
    pub(super) fn of_text(&self, pooled: &[f32], guidance: f32) -> candle_core::Result<Vec<f32>> {
        if pooled.len() != self.pooled_dim {
            let (given, wanted) = (pooled.len(), self.pooled_dim);
            bail!("a pooled text of {given} for {wanted}");
        }
        let pooled = Tensor::from_slice(pooled, (1, pooled.len()), &Device::Cpu)?;
        let mut out = values(&self.text.forward(&pooled)?)?.to_vec();
        if let Some(layer) = &self.guidance {
            // Trained on thousandths, as time is.
            add_assign(&mut out, &embed(layer, guidance * 1000.)?);
        }
        Ok(out)
    }

    /// All of it with SiLU after it, which every layer that reads it begins with: `(1, dim)`.
    pub(super) fn at(&self, timestep: f32, of_text: &[f32]) -> candle_core::Result<Tensor> {
        let mut out = embed(&self.time, timestep)?;
        add_assign(&mut out, of_text);
        silu_all(&mut out);
        let len = out.len();
        Tensor::from_vec(out, (1, len), &Device::Cpu)
    }
}

fn embed(layer: &Embedding, number: f32) -> candle_core::Result<Vec<f32>> {
    let row = Tensor::from_vec(sinusoids(number), (1, SINUSOIDS), &Device::Cpu)?;
    Ok(values(&layer.forward(&row)?)?.to_vec())
}

/// Cosines, then sines (Vaswani et al. 2017), of frequencies computed in f32 as PyTorch does.
fn sinusoids(number: f32) -> Vec<f32> {
    let half = SINUSOIDS / 2;
    let rate = -(10_000f64.ln()) as f32;
    let angles: Vec<f32> = (0..half)
        .map(|i| number * (rate * i as f32 / half as f32).exp())
        .collect();
    let cosines = angles.iter().map(|a| a.cos());
    cosines.chain(angles.iter().map(|a| a.sin())).collect()
}
