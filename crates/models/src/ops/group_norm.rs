//! Group normalisation (Wu and He 2018) with SiLU, and layer normalisation, for inference: channels
//! last, so that a group is a run of neighbours at every pixel.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::math::sum;
use super::pointwise::{silu, sum_squared_from};
use super::simd::vectorized;
use super::values::values;

/// Numbers in one block of rows; fixed, so that the order of sums is.
const BLOCK: usize = 1 << 15;

/// Scale and shift per channel.
pub struct GroupNorm {
    /// Number of groups; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Scale, one per channel.
    pub weight: Vec<f32>,
    /// Shift, one per channel.
    pub bias: Vec<f32>,
}

impl GroupNorm {
    /// Normalises `(batch, …, channels)` over pixels and the channels of each group; SiLU after it
    /// when `with_silu`.
    ///
    /// # Errors
    /// When the channels differ from the weights', or the tensor is not f32, contiguous, on the CPU.
    pub fn forward(&self, input: &Tensor, with_silu: bool) -> Result<Tensor> {
        let channels = self.weight.len();
        let (batch, last) = (input.dim(0)?, input.dim(candle_core::D::Minus1)?);
        if last != channels || !channels.is_multiple_of(self.groups) || batch == 0 {
            bail!(
                "a group norm of {channels} channels was given {:?}",
                input.shape()
            );
        }
        let input_values = values(input)?;
        let mut out = vec![0.; input_values.len()];
        let sample_len = input_values.len() / batch;
        for (from, to) in input_values
            .chunks(sample_len)
            .zip(out.chunks_mut(sample_len))
        {
            let (scale, shift) = self.affine(from);
            let rows = (BLOCK / channels).max(1) * channels;
            let apply =
                |(from, to): (&[f32], &mut [f32])| apply_rows(from, &scale, &shift, with_silu, to);
            if sample_len > 2 * BLOCK {
                from.par_chunks(rows)
                    .zip(to.par_chunks_mut(rows))
                    .for_each(apply);
            } else {
                apply((from, to));
            }
        }
        Tensor::from_vec(out, input.shape(), input.device())
    }

    /// Mean and variance folded with the weights: `x · scale + shift`.
    fn affine(&self, sample: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let channels = self.weight.len();
        let per_group = channels / self.groups;
        let count = (sample.len() / self.groups) as f64;
        let means: Vec<f32> = (self
            .reduce(sample, &vec![0.; channels], false)
            .chunks(per_group))
        .map(|group| (group.iter().sum::<f64>() / count) as f32)
        .collect();
        let centres: Vec<f32> = (0..channels).map(|c| means[c / per_group]).collect();
        let squares = self.reduce(sample, &centres, true);
        let mut scale = Vec::with_capacity(channels);
        let mut shift = Vec::with_capacity(channels);
        for (group, squares) in squares.chunks(per_group).enumerate() {
            let variance = squares.iter().sum::<f64>() / count;
            let inverse = (1. / (variance + f64::from(self.eps)).sqrt()) as f32;
            for c in group * per_group..(group + 1) * per_group {
                scale.push(self.weight[c] * inverse);
                shift.push(self.bias[c] - means[group] * self.weight[c] * inverse);
            }
        }
        (scale, shift)
    }

    /// Per channel, the sum of values, or of squared distances from `centres`: f32 within a block of
    /// rows, f64 over blocks.
    fn reduce(&self, sample: &[f32], centres: &[f32], squared: bool) -> Vec<f64> {
        let channels = self.weight.len();
        let rows = (BLOCK / channels).clamp(1, 256) * channels;
        let block = |block: &[f32]| {
            let mut sums = vec![0.; channels];
            if squared {
                add_squares(block, centres, &mut sums);
            } else {
                add_rows(block, &mut sums);
            }
            sums
        };
        let parts: Vec<Vec<f32>> = if sample.len() > 2 * BLOCK {
            sample.par_chunks(rows).map(block).collect()
        } else {
            sample.chunks(rows).map(block).collect()
        };
        let mut totals = vec![0.; channels];
        for part in parts {
            totals
                .iter_mut()
                .zip(part)
                .for_each(|(total, v)| *total += f64::from(v));
        }
        totals
    }
}

/// Layer normalisation over the last dimension.
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
    /// Scale, one per channel.
    pub weight: Vec<f32>,
    /// Shift, one per channel.
    pub bias: Vec<f32>,
}

impl LayerNorm {
    /// Normalises each row of `(…, channels)`.
    ///
    /// # Errors
    /// When the channels differ from the weights', or the tensor is not f32, contiguous, on the CPU.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        if input.dim(candle_core::D::Minus1)? != self.weight.len() {
            bail!(
                "a layer norm of {} channels was given {:?}",
                self.weight.len(),
                input.shape()
            );
        }
        let input_values = values(input)?;
        let mut out = vec![0.; input_values.len()];
        layer_norm_rows(&input_values, &self.weight, &self.bias, self.eps, &mut out);
        Tensor::from_vec(out, input.shape(), input.device())
    }
}

vectorized! {
    fn add_rows(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, v) in sums.iter_mut().zip(row) {
                *sum += *v;
            }
        }
    }
}

vectorized! {
    fn add_squares(rows: &[f32], centres: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(centres.len()) {
            for ((sum, v), centre) in sums.iter_mut().zip(row).zip(centres) {
                *sum += (*v - *centre) * (*v - *centre);
            }
        }
    }
}

vectorized! {
    fn apply_rows(rows: &[f32], scale: &[f32], shift: &[f32], with_silu: bool, out: &mut [f32]) {
        let channels = scale.len();
        for (row, out) in rows.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            for (((o, v), a), b) in out.iter_mut().zip(row).zip(scale).zip(shift) {
                *o = *v * *a + *b;
            }
            if with_silu {
                for o in out.iter_mut() {
                    *o = silu(*o);
                }
            }
        }
    }
}

vectorized! {
    fn layer_norm_rows(rows: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        let channels = weight.len();
        for (row, out) in rows.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
            let mean = sum(row) / channels as f32;
            let variance = sum_squared_from(row, mean) / channels as f32;
            let inverse = 1. / (variance + eps).sqrt();
            for (((o, v), w), b) in out.iter_mut().zip(row).zip(weight).zip(bias) {
                *o = (*v - mean) * inverse * *w + *b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch_rng::TorchRng;
    use candle_core::Device;

    #[test]
    fn group_norm_matches_the_plain_formula() {
        let (batch, pixels, channels, groups) = (2, 700, 96, 8);
        let mut rng = TorchRng::new(6);
        let data: Vec<f32> = rng
            .randn(batch * pixels * channels)
            .iter()
            .map(|v| 3. + 2. * v)
            .collect();
        let norm = GroupNorm {
            groups,
            eps: 1e-5,
            weight: rng.randn(channels),
            bias: rng.randn(channels),
        };
        let input = Tensor::from_slice(&data, (batch, pixels, channels), &Device::Cpu).unwrap();
        let found = norm
            .forward(&input, true)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let per_group = channels / groups;
        for sample in 0..batch {
            for c in [0, 11, 12, 95] {
                let group = c / per_group * per_group;
                let at = |p: usize, c: usize| f64::from(data[(sample * pixels + p) * channels + c]);
                let members =
                    || (0..pixels).flat_map(|p| (group..group + per_group).map(move |c| (p, c)));
                let count = (pixels * per_group) as f64;
                let mean = members().map(|(p, c)| at(p, c)).sum::<f64>() / count;
                let var = members()
                    .map(|(p, c)| (at(p, c) - mean).powi(2))
                    .sum::<f64>()
                    / count;
                for p in [0, 699] {
                    let normal = (at(p, c) - mean) / (var + 1e-5).sqrt();
                    let x = normal * f64::from(norm.weight[c]) + f64::from(norm.bias[c]);
                    let expected = x / (1. + (-x).exp());
                    let found = f64::from(found[(sample * pixels + p) * channels + c]);
                    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
                }
            }
        }
    }
}
