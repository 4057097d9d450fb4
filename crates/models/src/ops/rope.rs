//! Rotary position embedding (Su et al., 2021), in the half-split form of the Llama family.

use candle_core::{D, Result, Tensor};

/// Cosines and sines for every position and frequency.
#[derive(Debug)]
pub(crate) struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// A table for heads of `head_dim` and `positions` positions. Angles are computed in `f32`, as
    /// transformers does, so that long positions round the same way.
    pub(crate) fn new(head_dim: usize, positions: usize, theta: f32) -> Self {
        let half = head_dim / 2;
        let frequency = |i: usize| 1.0 / theta.powf((2 * i) as f32 / head_dim as f32);
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let angles = || (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let cos = angles().map(f32::cos).collect();
        let sin = angles().map(f32::sin).collect();
        Self { half, cos, sin }
    }

    /// Rotates `heads` heads at the start of a row, in place, for a token at `position`.
    pub(crate) fn rotate(&self, row: &mut [f32], heads: usize, position: usize) {
        self.turn(row, heads, position, 1.0);
    }

    /// Undoes [`RopeTable::rotate`]: the backward of a rotation.
    pub(crate) fn rotate_back(&self, row: &mut [f32], heads: usize, position: usize) {
        self.turn(row, heads, position, -1.0);
    }

    /// Cosines and sines as (positions, head_dim / 2) tensors, for devices without fused layers.
    pub(crate) fn tensors(
        &self,
        positions: usize,
        device: &candle_core::Device,
    ) -> Result<(Tensor, Tensor)> {
        let shape = (positions, self.half);
        let count = positions * self.half;
        Ok((
            Tensor::from_slice(&self.cos[..count], shape, device)?,
            Tensor::from_slice(&self.sin[..count], shape, device)?,
        ))
    }

    #[inline(always)]
    fn turn(&self, row: &mut [f32], heads: usize, position: usize, direction: f32) {
        let cos = &self.cos[position * self.half..][..self.half];
        let sin = &self.sin[position * self.half..][..self.half];
        for head in row.chunks_exact_mut(2 * self.half).take(heads) {
            let (a, b) = head.split_at_mut(self.half);
            for i in 0..self.half {
                let (x, y, s) = (a[i], b[i], direction * sin[i]);
                a[i] = x * cos[i] - y * s;
                b[i] = y * cos[i] + x * s;
            }
        }
    }
}

/// Rotates `x` in operations that carry gradients on every device.
///
/// `x`: (…, tokens, head_dim), `cos` and `sin`: (tokens, head_dim / 2).
///
/// # Errors
/// candle's, for shapes that do not agree.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (a, b) = (
        x.narrow(D::Minus1, 0, half)?,
        x.narrow(D::Minus1, half, half)?,
    );
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Tensor::cat(&[first, second], D::Minus1)
}
