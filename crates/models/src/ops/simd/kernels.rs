//! The register kernels behind [`Tile::add_to`], which alone calls them and asserts the bounds.

#![allow(
    unsafe_code,
    clippy::needless_range_loop,
    reason = "register kernels; called by `Tile::add_to` alone, which asserts the bounds. Loops over \
              constants are unrolled, iterators over arrays of registers are not always"
)]

use super::{LANES, Pair, Tile};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, __m512bh, __m512i, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps,
    _mm256_storeu_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_storeu_ps,
};

/// Sixteen sums in registers.
trait Vector: Copy {
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
}

/// Sums of products of `E`.
trait Sums<E>: Vector {
    /// Sixteen weights.
    type Line: Copy;
    unsafe fn load_line(from: *const E) -> Self::Line;
    /// `self + scalar · weights`.
    unsafe fn add_scaled(self, scalar: E, weights: Self::Line) -> Self;
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m512 {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Sums<f32> for __m512 {
    type Line = Self;
    #[inline(always)]
    unsafe fn load_line(from: *const f32) -> Self {
        unsafe { Self::load(from) }
    }
    #[inline(always)]
    unsafe fn add_scaled(self, scalar: f32, weights: Self::Line) -> Self {
        unsafe { _mm512_fmadd_ps(_mm512_set1_ps(scalar), weights, self) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for [__m256; 2] {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self[0]);
            _mm256_storeu_ps(to.add(8), self[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Sums<f32> for [__m256; 2] {
    type Line = Self;
    #[inline(always)]
    unsafe fn load_line(from: *const f32) -> Self {
        unsafe { Self::load(from) }
    }
    #[inline(always)]
    unsafe fn add_scaled(self, scalar: f32, weights: Self::Line) -> Self {
        unsafe {
            let scalar = _mm256_set1_ps(scalar);
            [
                _mm256_fmadd_ps(scalar, weights[0], self[0]),
                _mm256_fmadd_ps(scalar, weights[1], self[1]),
            ]
        }
    }
}

impl Vector for [f32; LANES] {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { from.cast::<Self>().read() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<Self>().write(self) }
    }
}

impl Sums<f32> for [f32; LANES] {
    type Line = Self;
    #[inline(always)]
    unsafe fn load_line(from: *const f32) -> Self {
        unsafe { Self::load(from) }
    }
    #[inline(always)]
    unsafe fn add_scaled(mut self, scalar: f32, weights: Self::Line) -> Self {
        for (sum, weight) in self.iter_mut().zip(weights) {
            *sum += scalar * weight;
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
impl Sums<Pair> for __m512 {
    type Line = __m512i;
    #[inline(always)]
    unsafe fn load_line(from: *const Pair) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn add_scaled(self, scalar: Pair, weights: __m512i) -> Self {
        unsafe {
            let scalars = _mm512_set1_epi32(scalar.0.cast_signed());
            let as_bf16 = |v: __m512i| std::mem::transmute::<__m512i, __m512bh>(v);
            _mm512_dpbf16_ps(self, as_bf16(scalars), as_bf16(weights))
        }
    }
}

/// The plain formula of the pairs, for processors without them and for tests.
impl Sums<Pair> for [f32; LANES] {
    type Line = [Pair; LANES];
    #[inline(always)]
    unsafe fn load_line(from: *const Pair) -> [Pair; LANES] {
        unsafe { from.cast::<[Pair; LANES]>().read() }
    }
    #[inline(always)]
    unsafe fn add_scaled(mut self, scalar: Pair, weights: [Pair; LANES]) -> Self {
        let (first, second) = scalar.widen();
        for (sum, weight) in self.iter_mut().zip(weights) {
            let weight = weight.widen();
            *sum += first * weight.0 + second * weight.1;
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
pub(super) unsafe fn avx512(tile: &Tile<'_, f32>, out: *mut f32, out_stride: usize) {
    unsafe {
        // 8 rows of 2 vectors: 16 accumulators of the 32 registers.
        if tile.panel_width == 2 * LANES {
            by_rows::<f32, __m512, 2>(tile, 0, out, out_stride);
        } else {
            by_rows::<f32, __m512, 1>(tile, 0, out, out_stride);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2(tile: &Tile<'_, f32>, out: *mut f32, out_stride: usize) {
    unsafe { by_halves::<f32, [__m256; 2]>(tile, out, out_stride) }
}

/// Two products of bf16 at a time, added to f32 (AVX512_BF16).
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma")]
pub(super) unsafe fn avx512_bf16(tile: &Tile<'_, Pair>, out: *mut f32, out_stride: usize) {
    unsafe {
        if tile.panel_width == 2 * LANES {
            by_rows::<Pair, __m512, 2>(tile, 0, out, out_stride);
        } else {
            by_rows::<Pair, __m512, 1>(tile, 0, out, out_stride);
        }
    }
}

#[allow(
    private_bounds,
    reason = "`Sums` is about registers, which are this file's own"
)]
pub(super) unsafe fn portable<E: Copy>(tile: &Tile<'_, E>, out: *mut f32, out_stride: usize)
where
    [f32; LANES]: Sums<E>,
{
    unsafe { by_halves::<E, [f32; LANES]>(tile, out, out_stride) }
}

/// One vector of columns at a time, for sets with 16 registers.
#[inline(always)]
unsafe fn by_halves<E: Copy, T: Sums<E>>(tile: &Tile<'_, E>, out: *mut f32, out_stride: usize) {
    for first in (0..tile.cols).step_by(LANES) {
        unsafe { by_rows::<E, T, 1>(tile, first, out, out_stride) }
    }
}

#[inline(always)]
unsafe fn by_rows<E: Copy, T: Sums<E>, const V: usize>(
    tile: &Tile<'_, E>,
    first: usize,
    out: *mut f32,
    out_stride: usize,
) {
    unsafe {
        match tile.row_count {
            1 => run::<E, T, 1, V>(tile, first, out, out_stride),
            2 => run::<E, T, 2, V>(tile, first, out, out_stride),
            3 => run::<E, T, 3, V>(tile, first, out, out_stride),
            4 => run::<E, T, 4, V>(tile, first, out, out_stride),
            5 => run::<E, T, 5, V>(tile, first, out, out_stride),
            6 => run::<E, T, 6, V>(tile, first, out, out_stride),
            7 => run::<E, T, 7, V>(tile, first, out, out_stride),
            _ => run::<E, T, 8, V>(tile, first, out, out_stride),
        }
    }
}

/// The sum of every element runs over taps and depth in order, whatever the tile's form: this is
/// what makes a result independent of its neighbours.
#[inline(always)]
unsafe fn run<E: Copy, T: Sums<E>, const R: usize, const V: usize>(
    tile: &Tile<'_, E>,
    first: usize,
    out: *mut f32,
    out_stride: usize,
) {
    unsafe {
        let cols = (tile.cols - first).min(V * LANES);
        let whole = cols == V * LANES;
        let mut edge = [[0f32; 2 * LANES]; R];
        let mut sums = [[T::load(edge[0].as_ptr()); V]; R];
        for r in 0..R {
            let mut from = out.add(r * out_stride + first).cast_const();
            if !whole {
                std::ptr::copy_nonoverlapping(from, edge[r].as_mut_ptr(), cols);
                from = edge[r].as_ptr();
            }
            for v in 0..V {
                sums[r][v] = T::load(from.add(v * LANES));
            }
        }
        let mut line = tile.panel.as_ptr().add(first);
        for rows in tile.rows.chunks_exact(R) {
            let mut inputs = [std::ptr::null::<E>(); R];
            for r in 0..R {
                inputs[r] = rows.get_unchecked(r).as_ptr();
            }
            for k in 0..tile.depth {
                let mut weights = [T::load_line(line); V];
                for v in 1..V {
                    weights[v] = T::load_line(line.add(v * LANES));
                }
                for r in 0..R {
                    let scalar = *inputs[r].add(k);
                    for v in 0..V {
                        sums[r][v] = sums[r][v].add_scaled(scalar, weights[v]);
                    }
                }
                line = line.add(tile.panel_width);
            }
        }
        for r in 0..R {
            let to = out.add(r * out_stride + first);
            let target = if whole { to } else { edge[r].as_mut_ptr() };
            for v in 0..V {
                sums[r][v].store(target.add(v * LANES));
            }
            if !whole {
                std::ptr::copy_nonoverlapping(target.cast_const(), to, cols);
            }
        }
    }
}
