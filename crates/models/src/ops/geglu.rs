//! GEGLU (Shazeer 2020) for inference: `value · GELU(gate)`, exact GELU.

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use super::pointwise::gelu;
use super::simd::vectorized;
use super::values::values;

/// Outputs of one task: about ten microseconds.
const TASK_LEN: usize = 1 << 14;

/// `(…, 2 · width)`, values first and gates second as diffusers lays them out, to `(…, width)`.
///
/// # Errors
/// When the last dimension is odd, or the tensor is not f32, contiguous and on the CPU.
pub fn geglu(input: &Tensor) -> Result<Tensor> {
    let both = input.dim(D::Minus1)?;
    if !both.is_multiple_of(2) {
        bail!("GEGLU of {both} columns");
    }
    let from = values(input)?;
    let mut out = vec![0.; from.len() / 2];
    let rows = (TASK_LEN / both.max(1)).max(1);
    out.par_chunks_mut((rows * both / 2).max(1))
        .zip(from.par_chunks((rows * both).max(1)))
        .for_each(|(out, from)| geglu_rows(from, both / 2, out));
    let mut shape = input.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = both / 2;
    }
    Tensor::from_vec(out, shape, input.device())
}

vectorized! {
    fn geglu_rows(from: &[f32], width: usize, out: &mut [f32]) {
        for (row, out) in from.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (value, gate) = row.split_at(width);
            for ((o, v), g) in out.iter_mut().zip(value).zip(gate) {
                *o = *v * gelu(*g);
            }
        }
    }
}
