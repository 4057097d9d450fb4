//! RMS and layer normalisation over the last dimension, with backward.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::{dot, sum};
use super::storage::{is_cpu_f32, read, slice};

/// Rows per task, and per partial sum of a weight gradient: fixed, so that the number of threads
/// does not decide the order of additions.
const BLOCK_ROWS: usize = 32;

/// `x / sqrt(mean(x²) + eps) · weight` over the last dimension (Zhang and Sennrich, 2019).
///
/// `x`: (…, dim), `weight`: (dim).
///
/// # Errors
/// candle's, for shapes that do not agree.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    if is_cpu_f32(x) {
        return x
            .contiguous()?
            .apply_op2(&weight.contiguous()?, RmsNorm { eps });
    }
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + f64::from(eps))?.sqrt()?)?
        .broadcast_mul(weight)
}

/// `(x − mean) / sqrt(variance + eps) · weight + bias` over the last dimension, in operations that
/// carry gradients on every device.
///
/// `x`: (…, dim), `weight` and `bias`: (dim).
///
/// # Errors
/// candle's, for shapes that do not agree.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred
        .broadcast_div(&(variance + f64::from(eps))?.sqrt()?)?
        .broadcast_mul(weight)?
        .broadcast_add(bias)
}

/// Normalised rows of `x`.
pub(crate) fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let dim = weight.len();
    let mut out = vec![0f32; x.len()];
    out.par_chunks_mut(dim * BLOCK_ROWS)
        .zip(x.par_chunks(dim * BLOCK_ROWS))
        .for_each(|(out, x)| {
            for (out, x) in out.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
                let scale = inverse_rms(x, eps);
                for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *o = x * scale * w;
                }
            }
        });
    out
}

/// Adds the gradient with respect to `x` to `dx` and returns the one with respect to the weight.
pub(crate) fn rms_norm_backward(
    grad: &[f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dx: &mut [f32],
) -> Vec<f32> {
    let dim = weight.len();
    let block = dim * BLOCK_ROWS;
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(block)
        .zip(x.par_chunks(block))
        .zip(grad.par_chunks(block))
        .map(|((dx, x), grad)| {
            let mut dw = vec![0f32; dim];
            let mut scaled = vec![0f32; dim];
            let rows = dx
                .chunks_exact_mut(dim)
                .zip(x.chunks_exact(dim))
                .zip(grad.chunks_exact(dim));
            for ((dx, x), grad) in rows {
                let scale = inverse_rms(x, eps);
                for i in 0..dim {
                    scaled[i] = grad[i] * weight[i];
                    dw[i] += grad[i] * x[i] * scale;
                }
                let pull = dot(&scaled, x) * scale * scale / dim as f32;
                for i in 0..dim {
                    dx[i] += scale * (scaled[i] - x[i] * pull);
                }
            }
            dw
        })
        .collect();
    add_up(&partial, dim)
}

/// Layer-normalised rows of `x`, on the calling thread.
pub(crate) fn layer_norm_rows(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let dim = weight.len();
    let mut out = vec![0f32; x.len()];
    for (out, x) in out.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
        let mean = sum(x) / dim as f32;
        for (o, x) in out.iter_mut().zip(x) {
            *o = x - mean;
        }
        let scale = inverse_rms(out, eps);
        for ((o, w), b) in out.iter_mut().zip(weight).zip(bias) {
            *o = *o * scale * w + b;
        }
    }
    out
}

/// The sum of equally long rows, in their order.
pub(crate) fn add_up(rows: &[Vec<f32>], dim: usize) -> Vec<f32> {
    let mut total = vec![0f32; dim];
    for row in rows {
        for (t, r) in total.iter_mut().zip(row) {
            *t += r;
        }
    }
    total
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = rms_norm_rows(slice(x, x_layout)?, slice(weight, weight_layout)?, self.eps);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut dx = vec![0f32; x.elem_count()];
        let dw = read(&grad.contiguous()?, |grad| {
            read(x, |x| {
                read(weight, |w| {
                    Ok(rms_norm_backward(grad, x, w, self.eps, &mut dx))
                })
            })
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        let dw = Tensor::from_vec(dw, weight.shape(), weight.device())?;
        Ok((Some(dx), weight.track_op().then_some(dw)))
    }
}
