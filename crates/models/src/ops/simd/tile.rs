//! One register tile of a matrix product, over f32 or over pairs of bf16.

use super::{Isa, kernels};

/// Columns that one vector of the tile holds, whatever the instruction set.
pub(crate) const LANES: usize = 16;
/// The most rows that one tile holds.
pub(crate) const TILE_ROWS: usize = 8;

/// What the factors of a product are made of; sums are f32 always.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// Adds the product of `tile` at `out` with the best instructions for this element.
    ///
    /// # Safety
    /// [`Tile::add_to`] alone calls it, after it has bounded every pointer.
    #[allow(unsafe_code, reason = "see `Tile::add_to`")]
    unsafe fn add(tile: &Tile<'_, Self>, out: *mut f32, out_stride: usize);
}

/// Two neighbouring bf16 numbers of the inner dimension, the first in the low half.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Pair(pub(super) u32);

impl Pair {
    /// Both numbers rounded to the nearest bf16, ties to even.
    #[inline(always)]
    pub(crate) fn round(first: f32, second: f32) -> Self {
        const NAN: u32 = 0x7fc0;
        let round = |v: f32| {
            let bits = v.to_bits();
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
            if v.is_nan() { NAN } else { rounded }
        };
        Self(round(first) | round(second) << 16)
    }

    /// Both numbers as f32.
    #[inline(always)]
    pub(super) fn widen(self) -> (f32, f32) {
        (
            f32::from_bits(self.0 << 16),
            f32::from_bits(self.0 & 0xffff_0000),
        )
    }
}

/// One register tile of a product: `out[r][..cols] += Σ_tap Σ_k rows[tap][r][k] · panel[tap·depth + k][..cols]`.
pub struct Tile<'a, E> {
    /// For each tap, the `row_count` input rows, each at least `depth` long. Length `taps · row_count`.
    pub(crate) rows: &'a [&'a [E]],
    /// Rows of this tile, 1 to [`TILE_ROWS`].
    pub(crate) row_count: usize,
    /// Inner length of one tap.
    pub(crate) depth: usize,
    /// Weights, `taps · depth` lines of `panel_width` values.
    pub(crate) panel: &'a [E],
    /// 16 or 32.
    pub(crate) panel_width: usize,
    /// Columns in use, at most `panel_width`.
    pub(crate) cols: usize,
}

impl<E: Element> Tile<'_, E> {
    /// Adds the product to `out`, whose row `r` begins at `r · out_stride`.
    ///
    /// # Panics
    /// When a slice is shorter than the tile's measures say: a bug in the caller, not in its data.
    #[allow(
        unsafe_code,
        reason = "registers are loaded through pointers; every bound is asserted first"
    )]
    pub(crate) fn add_to(&self, out: &mut [f32], out_stride: usize) {
        let taps = self.rows.len() / self.row_count;
        assert!(
            (1..=TILE_ROWS).contains(&self.row_count) && self.rows.len() == taps * self.row_count
        );
        assert!(self.rows.iter().all(|row| row.len() >= self.depth));
        assert!(self.panel_width == LANES || self.panel_width == 2 * LANES);
        assert!(
            self.panel.len() >= taps * self.depth * self.panel_width
                && self.cols <= self.panel_width
        );
        assert!(out.len() >= (self.row_count - 1) * out_stride + self.cols);
        // SAFETY: the assertions above bound every pointer that the kernels form.
        unsafe { E::add(self, out.as_mut_ptr(), out_stride) }
    }
}

#[allow(
    unsafe_code,
    reason = "`Isa::current` only names sets that this processor has"
)]
impl Element for f32 {
    unsafe fn add(tile: &Tile<'_, Self>, out: *mut f32, out_stride: usize) {
        // SAFETY: the caller's, and see the reason above.
        unsafe {
            match Isa::current() {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => kernels::avx512(tile, out, out_stride),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => kernels::avx2(tile, out, out_stride),
                _ => kernels::portable(tile, out, out_stride),
            }
        }
    }
}

#[allow(
    unsafe_code,
    reason = "the bf16 kernel runs only where the processor was asked for it"
)]
impl Element for Pair {
    unsafe fn add(tile: &Tile<'_, Self>, out: *mut f32, out_stride: usize) {
        // SAFETY: the caller's, and see the reason above.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if Isa::current().has_bf16() {
                return kernels::avx512_bf16(tile, out, out_stride);
            }
            kernels::portable(tile, out, out_stride);
        }
    }
}
