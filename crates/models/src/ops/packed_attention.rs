//! Attention for inference over packed keys and values.
//!
//! Keys and values of a prompt are the same at every denoising step, so they are packed once and
//! kept ([`KeysValues`]). Queries go by in blocks, so the full score matrix never exists.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::math::softmax_row;
use super::product::{Matrix, Packed, add_product};
use super::simd::vectorized;
use super::values::values;

/// Query rows that are scored at once.
const BLOCK_QUERIES: usize = 32;

/// The keys and values of one sample, packed per head.
pub struct KeysValues {
    heads: Vec<Head>,
    /// Tokens.
    len: usize,
    /// Columns over all heads.
    width: usize,
}

struct Head {
    /// `(head_dim, len)`, scaled by 1/√head_dim.
    keys: Packed,
    /// `(len, head_dim)`.
    values: Packed,
}

impl KeysValues {
    /// Packs `keys` and `values`, each `(len, width)` row-major with the heads side by side.
    ///
    /// # Panics
    /// When the lengths do not fit `width` and `head_count`.
    pub fn pack(keys: &[f32], values: &[f32], width: usize, head_count: usize) -> Self {
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width));
        assert!(
            head_count > 0 && width.is_multiple_of(head_count),
            "heads of equal width"
        );
        let (len, dim) = (keys.len() / width, width / head_count);
        let scale = 1. / (dim as f32).sqrt();
        let heads = (0..head_count)
            .map(|head| Head {
                keys: Packed::from_fn(dim, len, |d, token| {
                    keys[token * width + head * dim + d] * scale
                }),
                values: Packed::from_fn(len, dim, |token, d| {
                    values[token * width + head * dim + d]
                }),
            })
            .collect();
        Self { heads, len, width }
    }
}

/// Which tokens a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    None,
    /// Those up to its own place.
    Causal,
}

/// `(batch, queries, width)` attending to `memory`, one per sample; the same shape again.
///
/// # Errors
/// When shapes disagree, or the tensor is not f32, contiguous and on the CPU.
pub fn attend(queries: &Tensor, memory: &[&KeysValues], mask: Mask) -> Result<Tensor> {
    let (batch, count, width) = queries.dims3()?;
    if batch != memory.len() || memory.iter().any(|m| m.width != width) {
        bail!(
            "attention of {:?} to {} samples",
            queries.shape(),
            memory.len()
        );
    }
    let from = values(queries)?;
    let mut out = vec![0.; from.len()];
    if out.is_empty() {
        return Ok(queries.clone());
    }
    for (sample, out) in out.chunks_mut(count * width).enumerate() {
        let from = &from[sample * count * width..(sample + 1) * count * width];
        out.par_chunks_mut(BLOCK_QUERIES * width)
            .enumerate()
            .for_each(|(block, out)| {
                let first = block * BLOCK_QUERIES;
                attend_block(
                    &from[first * width..][..out.len()],
                    memory[sample],
                    mask,
                    first,
                    out,
                );
            });
    }
    Tensor::from_vec(out, queries.shape(), queries.device())
}

/// One block of queries, the first of them at place `first`.
fn attend_block(queries: &[f32], memory: &KeysValues, mask: Mask, first: usize, out: &mut [f32]) {
    let (width, len) = (memory.width, memory.len);
    let (rows, dim) = (queries.len() / width, width / memory.heads.len());
    let mut scores = vec![0.; rows * len];
    let mut mixed = vec![0.; rows * dim];
    for (index, head) in memory.heads.iter().enumerate() {
        scores.fill(0.);
        let of_head = Matrix {
            values: queries,
            stride: width,
            offset: index * dim,
            depth: dim,
        };
        add_product(&of_head, &head.keys, &mut scores);
        softmax_rows(&mut scores, len, first, mask == Mask::Causal);
        mixed.fill(0.);
        add_product(&Matrix::whole(&scores, len), &head.values, &mut mixed);
        for (to, from) in out.chunks_mut(width).zip(mixed.chunks(dim)) {
            to[index * dim..(index + 1) * dim].copy_from_slice(from);
        }
    }
}

vectorized! {
    /// Softmax of each row; when `causal`, row `r` sees its first `first + r + 1` columns only.
    fn softmax_rows(scores: &mut [f32], len: usize, first: usize, causal: bool) {
        for (r, row) in scores.chunks_exact_mut(len).enumerate() {
            let seen = if causal { (first + r + 1).min(len) } else { len };
            let (seen, hidden) = row.split_at_mut(seen);
            softmax_row(seen);
            hidden.fill(0.);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch_rng::TorchRng;
    use candle_core::Device;

    #[test]
    fn attention_matches_the_plain_formula_with_and_without_a_mask() {
        let (count, heads, dim) = (37, 3, 20);
        let width = heads * dim;
        let mut rng = TorchRng::new(7);
        let (q, k, v) = (
            rng.randn(count * width),
            rng.randn(count * width),
            rng.randn(count * width),
        );
        let memory = KeysValues::pack(&k, &v, width, heads);
        let queries = Tensor::from_slice(&q, (1, count, width), &Device::Cpu).unwrap();
        for mask in [Mask::None, Mask::Causal] {
            let found = attend(&queries, &[&memory], mask).unwrap();
            let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (i, head) in [(0, 0), (5, 1), (36, 2)] {
                let at = |m: &[f32], token: usize, d: usize| {
                    f64::from(m[token * width + head * dim + d])
                };
                let seen = if mask == Mask::Causal { i + 1 } else { count };
                let weights: Vec<f64> = (0..seen)
                    .map(|j| (0..dim).map(|d| at(&q, i, d) * at(&k, j, d)).sum::<f64>())
                    .map(|score| (score / (dim as f64).sqrt()).exp())
                    .collect();
                let total: f64 = weights.iter().sum();
                for d in 0..dim {
                    let exact: f64 = weights
                        .iter()
                        .enumerate()
                        .map(|(j, w)| w / total * at(&v, j, d))
                        .sum();
                    let found = f64::from(found[i * width + head * dim + d]);
                    assert!((found - exact).abs() < 2e-6, "{found} {exact}");
                }
            }
        }
    }
}
