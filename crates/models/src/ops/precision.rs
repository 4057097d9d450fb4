//! Layers' weights in f32, or in bf16 where the processor multiplies them (AVX512_BF16).
//!
//! bf16 has 8 bits of precision: each factor is rounded once, to within 0.4 %, products are added in f32.
//! Half the memory, and about half the time. A result is still independent of batch and threads.

use rayon::prelude::*;

use super::product::Packed;
use super::simd::{Isa, Pair, vectorized};

/// Numbers in one task of a conversion.
const TASK_LEN: usize = 1 << 15;

/// In which numbers the products of layers are computed; sums are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 24 bits, as PyTorch computes on CPUs.
    #[default]
    F32,
    /// 8 bits.
    Bf16,
}

impl Precision {
    /// `f32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Whether this processor, with the instruction set in use, computes in it.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn check(self) -> Result<(), String> {
        let isa = Isa::current();
        if self == Self::Bf16 && !isa.has_bf16() {
            return Err(format!(
                "bf16 needs a processor with AVX512_BF16, and the instruction set avx512; in use is {}",
                isa.name()
            ));
        }
        Ok(())
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = [Self::F32, Self::Bf16]
            .into_iter()
            .find(|p| p.name() == name);
        found.ok_or_else(|| format!("`{name}` is not one of f32, bf16"))
    }
}

/// The weights of a layer, packed.
pub enum LayerWeights {
    /// Single numbers.
    F32(Packed),
    /// Pairs along the inner dimension.
    Bf16(Packed<Pair>),
}

impl LayerWeights {
    /// Packs the weights that `at(k, column)` gives for `k < taps · depth`. A layer whose `depth` is odd
    /// stays f32: pairs do not reach from one tap into the next.
    pub fn from_fn(
        precision: Precision,
        (taps, depth): (usize, usize),
        width: usize,
        at: impl Fn(usize, usize) -> f32,
    ) -> Self {
        match precision {
            Precision::Bf16 if depth.is_multiple_of(2) => {
                let pair =
                    |k: usize, column: usize| Pair::round(at(2 * k, column), at(2 * k + 1, column));
                Self::Bf16(Packed::from_fn(taps * depth / 2, width, pair))
            }
            _ => Self::F32(Packed::from_fn(taps * depth, width, at)),
        }
    }

    /// The inner dimension, over all taps, in numbers.
    pub fn depth(&self) -> usize {
        match self {
            Self::F32(weights) => weights.depth(),
            Self::Bf16(weights) => 2 * weights.depth(),
        }
    }

    /// The number of output columns.
    pub fn width(&self) -> usize {
        match self {
            Self::F32(weights) => weights.width(),
            Self::Bf16(weights) => weights.width(),
        }
    }
}

/// An input as [`LayerWeights::Bf16`] wants it.
///
/// # Panics
/// When `values` is of odd length.
pub(crate) fn round_all(values: &[f32]) -> Vec<Pair> {
    assert!(values.len().is_multiple_of(2), "pairs of numbers");
    let mut pairs = vec![Pair::default(); values.len() / 2];
    pairs
        .par_chunks_mut(TASK_LEN / 2)
        .zip(values.par_chunks(TASK_LEN))
        .for_each(|(pairs, values)| round_pairs(values, pairs));
    pairs
}

vectorized! {
    fn round_pairs(values: &[f32], pairs: &mut [Pair]) {
        for (pair, [first, second]) in pairs.iter_mut().zip(values.as_chunks::<2>().0) {
            *pair = Pair::round(*first, *second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::product::{Matrix, add_product};
    use crate::torch_rng::TorchRng;

    /// The nearest bf16, ties to even, by the definition.
    fn nearest(value: f32) -> f64 {
        f64::from(half::bf16::from_f32(value).to_f32())
    }

    #[test]
    fn a_product_of_pairs_is_the_product_of_rounded_factors() {
        for (rows, depth, width) in [(1, 2, 1), (3, 6, 7), (17, 34, 48), (70, 2600, 33)] {
            let left = TorchRng::new(1).randn(rows * depth);
            let right = TorchRng::new(2).randn(width * depth);
            let at = |k: usize, column: usize| right[column * depth + k];
            let packed = LayerWeights::from_fn(Precision::Bf16, (1, depth), width, at);
            assert_eq!((packed.depth(), packed.width()), (depth, width));
            let LayerWeights::Bf16(weights) = packed else {
                panic!("an even depth stayed f32");
            };
            let mut out = vec![0.5; rows * width];
            let pairs = round_all(&left);
            add_product(&Matrix::whole(&pairs, depth / 2), &weights, &mut out);
            for (index, found) in out.iter().enumerate() {
                let (r, c) = (index / width, index % width);
                let exact: f64 = (0..depth)
                    .map(|k| nearest(left[r * depth + k]) * nearest(right[c * depth + k]))
                    .sum();
                let error = (f64::from(*found) - exact - 0.5).abs();
                assert!(error < 2e-5 * (depth as f64).sqrt(), "{found} {exact}");
            }
        }
    }

    #[test]
    fn a_layer_of_odd_depth_stays_f32_and_what_is_not_a_number_stays_none() {
        let odd = LayerWeights::from_fn(Precision::Bf16, (9, 3), 4, |_, _| 1.);
        assert!(matches!(odd, LayerWeights::F32(_)));
        let pairs = round_all(&[f32::NAN, 1., f32::from_bits(0x7fff_ffff), f32::INFINITY]);
        let weights = LayerWeights::from_fn(Precision::Bf16, (1, 4), 1, |_, _| 1.);
        let LayerWeights::Bf16(weights) = weights else {
            panic!("an even depth stayed f32");
        };
        let mut out = [0.];
        add_product(&Matrix::whole(&pairs, 2), &weights, &mut out);
        assert!(out[0].is_nan());
    }
}
