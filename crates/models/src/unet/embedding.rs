//! Numbers as vectors that a UNet can add to: time steps and sizes.

use candle_core::Tensor;

use super::Config;
use crate::blocks::{Linear, Source};
use crate::ops::pointwise::silu_all;
use crate::ops::values::values;
use crate::weights::Error;

/// diffusers' `TimestepEmbedding`: two layers with SiLU between them.
pub(crate) struct Embedding {
    first: Linear,
    second: Linear,
}

impl Embedding {
    pub(crate) fn load(at: &Source<'_>, inputs: usize, outputs: usize) -> Result<Self, Error> {
        Ok(Self {
            first: Linear::load(&at.at("linear_1"), inputs, outputs, true)?,
            second: Linear::load(&at.at("linear_2"), outputs, outputs, true)?,
        })
    }

    /// `(batch, inputs)` to `(batch, outputs)`.
    pub(crate) fn forward(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        let wide = self.first.forward(input)?;
        let mut active = values(&wide)?.to_vec();
        silu_all(&mut active);
        let active = Tensor::from_vec(active, wide.shape(), wide.device())?;
        self.second.forward(&active)
    }
}

/// Sinusoids of each number (Vaswani et al. 2017), `dim` of them in a row.
pub(super) fn sinusoids(numbers: &[f32], dim: usize, config: &Config) -> Vec<f32> {
    let half = dim / 2;
    let rate = -(10_000f64.ln()) / (half as f64 - config.freq_shift);
    let mut rows = Vec::with_capacity(numbers.len() * dim);
    for number in numbers {
        let angles: Vec<f32> = (0..half)
            .map(|i| number * ((rate * i as f64) as f32).exp())
            .collect();
        let sines = angles.iter().map(|a| a.sin());
        let cosines = angles.iter().map(|a| a.cos());
        if config.flip_sin_to_cos {
            rows.extend(cosines.chain(sines));
        } else {
            rows.extend(sines.chain(cosines));
        }
        rows.extend(std::iter::repeat_n(0., dim % 2));
    }
    rows
}
