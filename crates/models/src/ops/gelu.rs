//! GELU in its exact (error function) form, with backward.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::{erf, exp};
use super::storage::{is_cpu_f32, read, slice};

const BLOCK: usize = 4096;

/// `x · Φ(x)` with the true normal distribution function, as PyTorch's default GELU.
///
/// # Errors
/// candle's.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if is_cpu_f32(x) {
        x.contiguous()?.apply_op1(Gelu)
    } else {
        x.gelu_erf()
    }
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = slice(x, layout)?.to_vec();
        out.par_chunks_mut(BLOCK).for_each(|block| {
            for x in block {
                *x *= cumulative(*x);
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        const INVERSE_SQRT_TAU: f32 = 0.398_942_3;
        let mut dx = grad.flatten_all()?.to_vec1::<f32>()?;
        read(x, |x| {
            dx.par_chunks_mut(BLOCK)
                .zip(x.par_chunks(BLOCK))
                .for_each(|(dx, x)| {
                    for (d, &x) in dx.iter_mut().zip(x) {
                        *d *= cumulative(x) + x * INVERSE_SQRT_TAU * exp(-0.5 * x * x);
                    }
                });
            Ok(())
        })?;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

#[inline(always)]
fn cumulative(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}
