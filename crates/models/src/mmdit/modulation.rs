//! Adaptive layer normalisation (Peebles and Xie 2023, arXiv 2212.09748, section 3.2): shifts, scales and
//! gates that the condition gives to a layer.

use candle_core::{Device, Tensor, bail};

use crate::blocks::{Linear, Source};
use crate::ops::group_norm::LayerNorm;
use crate::ops::simd::vectorized;
use crate::ops::values::values;
use crate::weights::Error;

const EPS: f32 = 1e-6;

/// The layer that turns the condition into rows.
pub(super) struct Modulate {
    linear: Linear,
    dim: usize,
}

impl Modulate {
    /// Loads one that gives `count` rows of `dim`.
    pub(super) fn load(at: &Source<'_>, dim: usize, count: usize) -> Result<Self, Error> {
        let linear = Linear::load(&at.at("linear"), dim, count * dim, true)?;
        Ok(Self { linear, dim })
    }

    /// The rows for a condition `(1, dim)`.
    pub(super) fn rows(&self, condition: &Tensor) -> candle_core::Result<Rows> {
        let all = values(&self.linear.forward(condition)?)?.to_vec();
        let dim = self.dim;
        Ok(Rows { all, dim })
    }
}

/// Rows of one layer, in the order of its checkpoint.
pub(super) struct Rows {
    all: Vec<f32>,
    dim: usize,
}

impl Rows {
    pub(super) fn get(&self, row: usize) -> &[f32] {
        &self.all[row * self.dim..(row + 1) * self.dim]
    }

    /// Each token of `(tokens, dim)` normalised, times 1 + the row `scale`, plus the row `shift`.
    pub(super) fn normalize(
        &self,
        input: &Tensor,
        shift: usize,
        scale: usize,
    ) -> candle_core::Result<Tensor> {
        let norm = LayerNorm {
            eps: EPS,
            weight: self.get(scale).iter().map(|s| 1. + s).collect(),
            bias: self.get(shift).to_vec(),
        };
        norm.forward(input)
    }

    /// `input + branch · gate`, for each token of `(tokens, dim)`.
    pub(super) fn add_gated(
        &self,
        input: &Tensor,
        branch: &Tensor,
        gate: usize,
    ) -> candle_core::Result<Tensor> {
        if input.shape() != branch.shape() {
            bail!("{:?} added to {:?}", branch.shape(), input.shape());
        }
        let mut out = values(input)?.to_vec();
        add_gated_rows(&mut out, &values(branch)?, self.get(gate));
        Tensor::from_vec(out, input.shape(), &Device::Cpu)
    }
}

vectorized! {
    fn add_gated_rows(out: &mut [f32], branch: &[f32], gate: &[f32]) {
        let dim = gate.len();
        for (out, branch) in out.chunks_exact_mut(dim).zip(branch.chunks_exact(dim)) {
            for ((o, b), g) in out.iter_mut().zip(branch).zip(gate) {
                *o += *b * *g;
            }
        }
    }
}

/// The last layer: normalised, then out to the numbers of a patch.
pub(super) struct Last {
    modulate: Modulate,
    out: Linear,
}

impl Last {
    pub(super) fn load(at: &Source<'_>, dim: usize, outputs: usize) -> Result<Self, Error> {
        Ok(Self {
            modulate: Modulate::load(&at.at("norm_out"), dim, 2)?,
            out: Linear::load(&at.at("proj_out"), dim, outputs, true)?,
        })
    }

    /// `(tokens, dim)` to `(tokens, outputs)`.
    pub(super) fn forward(
        &self,
        input: &Tensor,
        condition: &Tensor,
    ) -> candle_core::Result<Tensor> {
        // Scale before shift here, unlike in the blocks.
        let normal = self.modulate.rows(condition)?.normalize(input, 1, 0)?;
        self.out.forward(&normal)
    }
}
