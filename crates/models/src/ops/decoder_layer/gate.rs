//! The gate of the feed-forward part, with its backward.

use rayon::prelude::*;

use super::super::math::sigmoid;

/// `silu(gate) · up`, from rows that hold the gate and then the up half.
pub(super) fn gated(gates: &[f32], intermediate: usize) -> Vec<f32> {
    let mut out = vec![0f32; gates.len() / 2];
    let block = 16 * intermediate;
    out.par_chunks_mut(block)
        .zip(gates.par_chunks(2 * block))
        .for_each(|(out, gates)| {
            let rows = out
                .chunks_exact_mut(intermediate)
                .zip(gates.chunks_exact(2 * intermediate));
            for (out, row) in rows {
                let (gate, up) = row.split_at(intermediate);
                for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
                    *o = g * sigmoid(*g) * u;
                }
            }
        });
    out
}

/// Gives [`gated`] again and the gradient of its argument (in the argument's memory).
pub(super) fn gated_backward(
    mut gates: Vec<f32>,
    mut grad: Vec<f32>,
    intermediate: usize,
) -> (Vec<f32>, Vec<f32>) {
    let block = 16 * intermediate;
    grad.par_chunks_mut(block)
        .zip(gates.par_chunks_mut(2 * block))
        .for_each(|(grad, gates)| {
            let rows = grad
                .chunks_exact_mut(intermediate)
                .zip(gates.chunks_exact_mut(2 * intermediate));
            for (grad, row) in rows {
                let (gate, up) = row.split_at_mut(intermediate);
                for ((d, g), u) in grad.iter_mut().zip(gate).zip(up) {
                    let s = sigmoid(*g);
                    let (silu, d_out, up) = (*g * s, *d, *u);
                    *d = silu * up;
                    *u = d_out * silu;
                    *g = d_out * up * (s + silu * (1.0 - s));
                }
            }
        });
    (grad, gates)
}
