//! Convolution for inference, channels last: `(batch, height, width, channels)`.
//!
//! No im2col: a 3×3 kernel is a product of nine taps whose input rows are named, not copied. Padding
//! is a row of zeros, nearest-neighbour upsampling is a change of the row's number.

use candle_core::{Result, Tensor, bail};

use super::precision::{LayerWeights, Precision, round_all};
use super::product::{Rows, add_product};
use super::simd::Element;
use super::values::values;

/// A convolution kernel, packed.
pub struct Kernel {
    weights: LayerWeights,
    /// One per output channel.
    bias: Vec<f32>,
    size: usize,
    in_channels: usize,
}

/// Where the kernel is put down.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// Distance between neighbouring outputs, in input pixels.
    pub stride: usize,
    /// Zeros before the first row and column.
    pub pad_before: usize,
    /// Zeros after the last row and column.
    pub pad_after: usize,
    /// Height and width that the input is stretched to first, by nearest neighbour.
    pub upsampled: Option<(usize, usize)>,
}

impl Placement {
    /// Stride 1, output as large as the input, for a kernel of odd `size`.
    pub fn same(size: usize) -> Self {
        Self {
            stride: 1,
            pad_before: size / 2,
            pad_after: size / 2,
            upsampled: None,
        }
    }
}

/// What is added to the output besides the bias.
#[derive(Clone, Copy, Default)]
pub struct Addends<'a> {
    /// `(batch, out_channels)`: one value per sample and channel, such as a time embedding.
    pub per_sample: Option<&'a Tensor>,
    /// `(batch, out_height, out_width, out_channels)`: the residual branch.
    pub residual: Option<&'a Tensor>,
}

impl Kernel {
    /// Packs PyTorch's weight `(out_channels, in_channels, size, size)`.
    ///
    /// # Panics
    /// When the lengths disagree with the measures.
    pub fn new(weight: &[f32], bias: Vec<f32>, in_channels: usize, size: usize) -> Self {
        Self::with_precision(weight, bias, in_channels, size, Precision::F32)
    }

    /// The same, to be computed in `precision`.
    ///
    /// # Panics
    /// When the lengths disagree with the measures.
    pub fn with_precision(
        weight: &[f32],
        bias: Vec<f32>,
        in_channels: usize,
        size: usize,
        precision: Precision,
    ) -> Self {
        let (out_channels, area) = (bias.len(), size * size);
        assert_eq!(
            weight.len(),
            out_channels * in_channels * area,
            "(out, in, size, size)"
        );
        let at = |k: usize, out: usize| {
            let (tap, channel) = (k / in_channels, k % in_channels);
            weight[(out * in_channels + channel) * area + tap]
        };
        let weights = LayerWeights::from_fn(precision, (area, in_channels), out_channels, at);
        Self {
            weights,
            bias,
            size,
            in_channels,
        }
    }

    /// Output channels.
    pub fn out_channels(&self) -> usize {
        self.bias.len()
    }

    /// `(batch, height, width, in_channels)` to `(batch, out_height, out_width, out_channels)`.
    ///
    /// # Errors
    /// When shapes disagree, or a tensor is not f32, contiguous and on the CPU.
    pub fn forward(&self, input: &Tensor, place: Placement, add: Addends<'_>) -> Result<Tensor> {
        let (batch, height, width, channels) = input.dims4()?;
        if channels != self.in_channels {
            bail!(
                "a convolution of {} channels was given {channels}",
                self.in_channels
            );
        }
        let stretched = place.upsampled.unwrap_or((height, width));
        let outputs = |length: usize| {
            let room = length + place.pad_before + place.pad_after;
            if room < self.size {
                0
            } else {
                (room - self.size) / place.stride + 1
            }
        };
        let (out_height, out_width) = (outputs(stretched.0), outputs(stretched.1));
        let shape = (batch, out_height, out_width, self.out_channels());
        let mut out = self.start(shape, add)?;
        let lie = Lie {
            place,
            size: self.size,
            source: (height, width),
            stretched,
            out: (out_height, out_width),
        };
        let input = values(input)?;
        match &self.weights {
            LayerWeights::F32(weights) => {
                add_product(&Taps::new(&input, channels, lie), weights, &mut out);
            }
            LayerWeights::Bf16(weights) => {
                let pairs = round_all(&input);
                add_product(&Taps::new(&pairs, channels / 2, lie), weights, &mut out);
            }
        }
        Tensor::from_vec(out, shape, &candle_core::Device::Cpu)
    }

    /// The output before the product: bias and addends.
    fn start(&self, shape: (usize, usize, usize, usize), add: Addends<'_>) -> Result<Vec<f32>> {
        let (batch, height, width, channels) = shape;
        let area = height * width;
        let mut out = Vec::with_capacity(batch * area * channels);
        let mut line = self.bias.clone();
        for sample in 0..batch {
            if let Some(per_sample) = add.per_sample {
                let extra = values(per_sample)?;
                let extra = &extra[sample * channels..(sample + 1) * channels];
                line.iter_mut()
                    .zip(&self.bias)
                    .zip(extra)
                    .for_each(|((l, b), e)| *l = b + e);
            }
            for _ in 0..area {
                out.extend_from_slice(&line);
            }
        }
        if let Some(residual) = add.residual {
            if residual.dims() != [batch, height, width, channels] {
                bail!(
                    "a residual of {:?} for an output of {shape:?}",
                    residual.dims()
                );
            }
            super::pointwise::add_assign(&mut out, &values(residual)?);
        }
        Ok(out)
    }
}

/// How the outputs of a convolution lie over its input.
struct Lie {
    place: Placement,
    size: usize,
    source: (usize, usize),
    stretched: (usize, usize),
    out: (usize, usize),
}

/// The input rows of a convolution, tap by tap.
struct Taps<'a, E> {
    input: &'a [E],
    zeros: Vec<E>,
    /// Elements of one pixel.
    depth: usize,
    lie: Lie,
}

impl<'a, E: Element> Taps<'a, E> {
    fn new(input: &'a [E], depth: usize, lie: Lie) -> Self {
        let zeros = vec![E::default(); depth];
        Self {
            input,
            zeros,
            depth,
            lie,
        }
    }
}

impl Lie {
    /// The source pixel under output `position` at kernel offset `tap`, along one axis.
    fn source(
        &self,
        position: usize,
        tap: usize,
        stretched: usize,
        source: usize,
    ) -> Option<usize> {
        let at = (position * self.place.stride + tap).checked_sub(self.place.pad_before)?;
        (at < stretched).then(|| {
            if stretched == source {
                at
            } else {
                at * source / stretched
            }
        })
    }
}

impl<E: Element> Rows<E> for Taps<'_, E> {
    fn taps(&self) -> usize {
        self.lie.size * self.lie.size
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn row(&self, row: usize, tap: usize) -> &[E] {
        let lie = &self.lie;
        let (x, rest) = (row % lie.out.1, row / lie.out.1);
        let (y, sample) = (rest % lie.out.0, rest / lie.out.0);
        let from_y = lie.source(y, tap / lie.size, lie.stretched.0, lie.source.0);
        let from_x = lie.source(x, tap % lie.size, lie.stretched.1, lie.source.1);
        match (from_y, from_x) {
            (Some(y), Some(x)) => {
                let pixel = (sample * lie.source.0 + y) * lie.source.1 + x;
                &self.input[pixel * self.depth..][..self.depth]
            }
            _ => &self.zeros,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch_rng::TorchRng;
    use candle_core::Device;

    /// candle's own convolution on the same numbers, channels last at both ends.
    fn reference(input: &Tensor, weight: &Tensor, bias: &[f32], place: Placement) -> Tensor {
        let mut x = input.permute((0, 3, 1, 2)).unwrap();
        if let Some((h, w)) = place.upsampled {
            x = x.upsample_nearest2d(h, w).unwrap();
        }
        let (before, after) = (place.pad_before, place.pad_after);
        x = x
            .pad_with_zeros(2, before, after)
            .unwrap()
            .pad_with_zeros(3, before, after)
            .unwrap();
        let y = x
            .contiguous()
            .unwrap()
            .conv2d(weight, 0, place.stride, 1, 1)
            .unwrap();
        let bias = Tensor::new(bias, &Device::Cpu)
            .unwrap()
            .reshape((1, (), 1, 1))
            .unwrap();
        y.broadcast_add(&bias)
            .unwrap()
            .permute((0, 2, 3, 1))
            .unwrap()
            .contiguous()
            .unwrap()
    }

    #[test]
    fn every_placement_matches_the_plain_convolution() {
        let mut rng = TorchRng::new(5);
        let same = Placement::same(3);
        for (size, place) in [
            (3, same),
            (1, Placement::same(1)),
            (3, Placement { stride: 2, ..same }),
            (
                3,
                Placement {
                    stride: 2,
                    pad_before: 0,
                    pad_after: 1,
                    upsampled: None,
                },
            ),
            (
                3,
                Placement {
                    upsampled: Some((14, 10)),
                    ..same
                },
            ),
        ] {
            let (ci, co) = (19, 37);
            let input =
                Tensor::from_vec(rng.randn(2 * 7 * 5 * ci), (2, 7, 5, ci), &Device::Cpu).unwrap();
            let weight = rng.randn(co * ci * size * size);
            let bias = rng.randn(co);
            let found = Kernel::new(&weight, bias.clone(), ci, size)
                .forward(&input, place, Addends::default())
                .unwrap();
            let weight = Tensor::from_vec(weight, (co, ci, size, size), &Device::Cpu).unwrap();
            let expected = reference(&input, &weight, &bias, place);
            let gap = (found - expected)
                .unwrap()
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap()
                .max(0)
                .unwrap();
            assert!(gap.to_scalar::<f32>().unwrap() < 1e-4, "{place:?}");
        }
    }
}
