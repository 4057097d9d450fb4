//! The matrix product behind every inference layer: fixed weights, packed once, times many rows.
//!
//! Written here rather than taken from the `gemm` crate for two reasons. Its blocking depends on the
//! whole shape, so a picture would depend on how many others share its batch; here every output
//! number is one sum in the order of the inner dimension, whatever stands beside it. And a
//! convolution can name its input rows tap by tap, so no im2col copy is made (a third of the time of
//! candle's VAE).

use rayon::prelude::*;

use super::simd::{Element, LANES, TILE_ROWS, Tile};

/// Rows of one block: enough to use a panel of weights well while it is in cache.
const BLOCK_ROWS: usize = 64;
/// Inner length that is taken in one go: 1024 lines of 32 weights fill an eighth of a 1 MiB L2.
const BLOCK_DEPTH: usize = 1024;
/// Multiply-adds below which a product stays on its thread: a task costs about a microsecond.
const PARALLEL_FROM: usize = 1 << 20;

/// Weights `(depth, width)` in panels of 32 columns (the last of 16 when that is enough), zero-filled.
///
/// An element is a number, or a [`Pair`] of them: then `depth` counts pairs.
#[derive(Clone)]
pub struct Packed<E = f32> {
    data: Vec<E>,
    depth: usize,
    width: usize,
}

impl<E: Element> Packed<E> {
    /// Packs the elements that `at(k, column)` gives for `k < depth`, `column < width`.
    pub fn from_fn(depth: usize, width: usize, at: impl Fn(usize, usize) -> E) -> Self {
        let mut data = Vec::with_capacity(depth * width.next_multiple_of(LANES));
        for (first, panel_width) in panels(width) {
            for k in 0..depth {
                data.extend(
                    (first..first + panel_width)
                        .map(|c| if c < width { at(k, c) } else { E::default() }),
                );
            }
        }
        Self { data, depth, width }
    }

    /// The inner dimension.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The number of output columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Panels as (first column, width in memory, values).
    fn panels(&self) -> impl Iterator<Item = (usize, usize, &[E])> {
        panels(self.width).map(|(first, panel_width)| {
            let start = first * self.depth;
            (
                first,
                panel_width,
                &self.data[start..start + self.depth * panel_width],
            )
        })
    }
}

impl Packed {
    /// Packs a linear layer's weight, `(width, depth)` row-major as PyTorch stores it.
    ///
    /// # Panics
    /// When `weight` is not `width · depth` long.
    pub fn from_out_in(weight: &[f32], width: usize, depth: usize) -> Self {
        assert_eq!(weight.len(), width * depth, "a weight of (width, depth)");
        Self::from_fn(depth, width, |k, column| weight[column * depth + k])
    }
}

fn panels(width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..width).step_by(2 * LANES).map(move |first| {
        let narrow = width - first <= LANES;
        (first, if narrow { LANES } else { 2 * LANES })
    })
}

/// The left side of a product: each output row is a sum over taps of an input row times that tap's
/// weights. A linear layer has one tap, a 3×3 convolution nine.
pub trait Rows<E>: Sync {
    /// Taps per output row.
    fn taps(&self) -> usize;
    /// Input elements per tap.
    fn depth(&self) -> usize;
    /// The input of output row `row` at `tap`, at least `depth` long.
    fn row(&self, row: usize, tap: usize) -> &[E];
}

/// Rows of a row-major matrix: `depth` values from `offset` on, every `stride`.
pub struct Matrix<'a, E = f32> {
    /// The values.
    pub values: &'a [E],
    /// Distance from row to row.
    pub stride: usize,
    /// First column.
    pub offset: usize,
    /// Columns in use.
    pub depth: usize,
}

impl<'a, E> Matrix<'a, E> {
    /// All of a contiguous matrix with `depth` columns.
    pub fn whole(values: &'a [E], depth: usize) -> Self {
        Self {
            values,
            stride: depth,
            offset: 0,
            depth,
        }
    }
}

impl<E: Element> Rows<E> for Matrix<'_, E> {
    fn taps(&self) -> usize {
        1
    }
    fn depth(&self) -> usize {
        self.depth
    }
    fn row(&self, row: usize, _tap: usize) -> &[E] {
        let start = row * self.stride + self.offset;
        &self.values[start..start + self.depth]
    }
}

/// Adds `rows × weights` to `out`, row-major `(rows, width)`; `out` holds the bias or the residual
/// before. Spread over rayon's threads when it is large; the result does not depend on that.
///
/// # Panics
/// When the measures of `rows`, `weights` and `out` disagree.
pub fn add_product<E: Element>(rows: &impl Rows<E>, weights: &Packed<E>, out: &mut [f32]) {
    assert_eq!(rows.taps() * rows.depth(), weights.depth, "inner dimension");
    assert_eq!(out.len() % weights.width, 0, "whole rows");
    let row_count = out.len() / weights.width;
    if row_count * weights.depth * weights.width < PARALLEL_FROM {
        for (block, out) in out.chunks_mut(BLOCK_ROWS * weights.width).enumerate() {
            add_block(rows, weights, block * BLOCK_ROWS, out);
        }
        return;
    }
    let share = row_count
        .div_ceil(rayon::current_num_threads())
        .next_multiple_of(TILE_ROWS);
    let block_rows = share.min(BLOCK_ROWS);
    out.par_chunks_mut(block_rows * weights.width)
        .enumerate()
        .for_each(|(block, out)| add_block(rows, weights, block * block_rows, out));
}

fn add_block<E: Element>(
    rows: &impl Rows<E>,
    weights: &Packed<E>,
    first_row: usize,
    out: &mut [f32],
) {
    let (taps, depth, width) = (rows.taps(), rows.depth(), weights.width);
    let row_count = out.len() / width;
    let taps_at_once = (BLOCK_DEPTH / depth.max(1)).clamp(1, taps);
    // Input rows, grouped as the tiles want them: by tap group, then tile, then tap.
    let mut inputs: Vec<&[E]> = Vec::with_capacity(taps * row_count);
    for first_tap in (0..taps).step_by(taps_at_once) {
        for tile in (0..row_count).step_by(TILE_ROWS) {
            for tap in first_tap..(first_tap + taps_at_once).min(taps) {
                let end = (tile + TILE_ROWS).min(row_count);
                inputs.extend((tile..end).map(|r| rows.row(first_row + r, tap)));
            }
        }
    }
    for (first_column, panel_width, panel) in weights.panels() {
        let cols = panel_width.min(width - first_column);
        for first_tap in (0..taps).step_by(taps_at_once) {
            let tap_count = taps_at_once.min(taps - first_tap);
            let lines = &panel[first_tap * depth * panel_width..];
            for tile in (0..row_count).step_by(TILE_ROWS) {
                let count = TILE_ROWS.min(row_count - tile);
                let start = first_tap * row_count + tile * tap_count;
                let tile_rows = &inputs[start..start + tap_count * count];
                Tile {
                    rows: tile_rows,
                    row_count: count,
                    depth,
                    panel: lines,
                    panel_width,
                    cols,
                }
                .add_to(&mut out[tile * width + first_column..], width);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut rng = crate::torch_rng::TorchRng::new(u64::from(seed));
        rng.randn(count)
    }

    #[test]
    fn a_product_matches_the_plain_formula_for_ragged_shapes() {
        for (rows, depth, width) in [
            (1, 1, 1),
            (3, 5, 7),
            (17, 33, 48),
            (70, 1500, 33),
            (8, 64, 31),
        ] {
            let (left, right) = (numbers(rows * depth, 1), numbers(width * depth, 2));
            let mut out = vec![0.5; rows * width];
            add_product(
                &Matrix::whole(&left, depth),
                &Packed::from_out_in(&right, width, depth),
                &mut out,
            );
            for r in 0..rows {
                for c in 0..width {
                    let exact: f64 = (0..depth)
                        .map(|k| f64::from(left[r * depth + k]) * f64::from(right[c * depth + k]))
                        .sum();
                    let found = f64::from(out[r * width + c]);
                    assert!(
                        (found - exact - 0.5).abs() < 2e-5 * (depth as f64).sqrt(),
                        "{found} {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_is_the_same_bits_alone_and_among_others() {
        let (rows, depth, width) = (300, 700, 130);
        let (left, right) = (numbers(rows * depth, 3), numbers(width * depth, 4));
        let weights = Packed::from_out_in(&right, width, depth);
        let mut all = vec![0.; rows * width];
        add_product(&Matrix::whole(&left, depth), &weights, &mut all);
        for r in [0, 7, 130, 299] {
            let mut one = vec![0.; width];
            add_product(
                &Matrix::whole(&left[r * depth..(r + 1) * depth], depth),
                &weights,
                &mut one,
            );
            assert_eq!(one, all[r * width..(r + 1) * width]);
        }
    }
}
