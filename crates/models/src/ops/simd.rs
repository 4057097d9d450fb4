//! Instruction sets: which one runs, and the register tile of the matrix product for each.
//!
//! All `unsafe` of the fast ops is here and in the macro below. The choice is made once, at run time;
//! results are the same for any batch size and thread count on one instruction set, and may differ in
//! the last bit between two.

use std::sync::OnceLock;

/// An instruction set that the ops have code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// x86-64 with AVX-512 (F, VL, BW, DQ).
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// Anything: plain Rust, vectorised as far as the compiler does.
    Portable,
}

static CHOSEN: OnceLock<Isa> = OnceLock::new();

impl std::str::FromStr for Isa {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Avx512, Self::Avx2, Self::Portable];
        let found = all.into_iter().find(|isa| isa.name() == name);
        found.ok_or_else(|| format!("`{name}` is not one of avx512, avx2, portable"))
    }
}

impl Isa {
    /// The instruction set in use: the pinned one, or the best of this processor.
    pub fn current() -> Self {
        *CHOSEN.get_or_init(Self::best)
    }

    /// Uses `self` from now on, so that two machines give the same bits. Only before the first op.
    ///
    /// # Errors
    /// A sentence, when the processor lacks it or another set is already in use.
    pub fn pin(self) -> Result<(), String> {
        if self.rank() > Self::best().rank() {
            return Err(format!("this processor has no {}", self.name()));
        }
        match *CHOSEN.get_or_init(|| self) {
            chosen if chosen == self => Ok(()),
            chosen => Err(format!("{} is already in use", chosen.name())),
        }
    }

    /// The name written into run records: `avx512`, `avx2` or `portable`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Avx512 => 2,
            Self::Avx2 => 1,
            Self::Portable => 0,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Self {
        let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq");
        match (fma, wide) {
            (true, true) => Self::Avx512,
            (true, false) => Self::Avx2,
            (false, _) => Self::Portable,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn best() -> Self {
        Self::Portable
    }
}

/// Compiles a function for each instruction set and calls the one in use. The body is written with
/// plain slices; products and sums stay as written (no fused multiply-add), so all sets agree.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code, reason = "the processor was asked for the features before the call")]
        $vis fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn plain($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            fn avx512($($arg: $ty),*) { plain($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) { plain($($arg),*) }
            match $crate::ops::simd::Isa::current() {
                // SAFETY: `Isa::current` only names sets that this processor has.
                #[cfg(target_arch = "x86_64")]
                $crate::ops::simd::Isa::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::ops::simd::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => plain($($arg),*),
            }
        }
    };
}
pub(crate) use vectorized;

/// Columns that one vector of the tile holds, whatever the instruction set.
pub(crate) const LANES: usize = 16;
/// The most rows that one tile holds.
pub(crate) const TILE_ROWS: usize = 8;

/// One register tile of a product: `out[r][..cols] += Σ_tap Σ_k rows[tap][r][k] · panel[tap·depth + k][..cols]`.
pub(crate) struct Tile<'a> {
    /// For each tap, the `row_count` input rows, each at least `depth` long. Length `taps · row_count`.
    pub(crate) rows: &'a [&'a [f32]],
    /// Rows of this tile, 1 to [`TILE_ROWS`].
    pub(crate) row_count: usize,
    /// Inner length of one tap.
    pub(crate) depth: usize,
    /// Weights, `taps · depth` lines of `panel_width` values.
    pub(crate) panel: &'a [f32],
    /// 16 or 32.
    pub(crate) panel_width: usize,
    /// Columns in use, at most `panel_width`.
    pub(crate) cols: usize,
}

impl Tile<'_> {
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
        // SAFETY: the assertions above bound every pointer that the kernels form, and `Isa::current`
        // only names sets that this processor has.
        unsafe {
            match Isa::current() {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => kernels::avx512(self, out.as_mut_ptr(), out_stride),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => kernels::avx2(self, out.as_mut_ptr(), out_stride),
                _ => kernels::portable(self, out.as_mut_ptr(), out_stride),
            }
        }
    }
}

#[allow(
    unsafe_code,
    clippy::needless_range_loop,
    reason = "register kernels; called by `Tile::add_to` alone, which asserts the bounds. Loops over \
              constants are unrolled, iterators over arrays of registers are not always"
)]
mod kernels {
    use super::{LANES, Tile};
    #[cfg(target_arch = "x86_64")]
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };

    /// Sixteen numbers in registers.
    trait Vector: Copy {
        unsafe fn load(from: *const f32) -> Self;
        unsafe fn store(self, to: *mut f32);
        /// `self + scalar · weights`.
        unsafe fn add_scaled(self, scalar: f32, weights: Self) -> Self;
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
        #[inline(always)]
        unsafe fn add_scaled(self, scalar: f32, weights: Self) -> Self {
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
        #[inline(always)]
        unsafe fn add_scaled(self, scalar: f32, weights: Self) -> Self {
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
        #[inline(always)]
        unsafe fn add_scaled(mut self, scalar: f32, weights: Self) -> Self {
            for (sum, weight) in self.iter_mut().zip(weights) {
                *sum += scalar * weight;
            }
            self
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    pub(super) unsafe fn avx512(tile: &Tile, out: *mut f32, out_stride: usize) {
        unsafe {
            // 8 rows of 2 vectors: 16 accumulators of the 32 registers.
            if tile.panel_width == 2 * LANES {
                by_rows::<__m512, 2>(tile, 0, out, out_stride);
            } else {
                by_rows::<__m512, 1>(tile, 0, out, out_stride);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(tile: &Tile, out: *mut f32, out_stride: usize) {
        unsafe { by_halves::<[__m256; 2]>(tile, out, out_stride) }
    }

    pub(super) unsafe fn portable(tile: &Tile, out: *mut f32, out_stride: usize) {
        unsafe { by_halves::<[f32; LANES]>(tile, out, out_stride) }
    }

    /// One vector of columns at a time, for sets with 16 registers.
    #[inline(always)]
    unsafe fn by_halves<T: Vector>(tile: &Tile, out: *mut f32, out_stride: usize) {
        for first in (0..tile.cols).step_by(LANES) {
            unsafe { by_rows::<T, 1>(tile, first, out, out_stride) }
        }
    }

    #[inline(always)]
    unsafe fn by_rows<T: Vector, const V: usize>(
        tile: &Tile,
        first: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        unsafe {
            match tile.row_count {
                1 => run::<T, 1, V>(tile, first, out, out_stride),
                2 => run::<T, 2, V>(tile, first, out, out_stride),
                3 => run::<T, 3, V>(tile, first, out, out_stride),
                4 => run::<T, 4, V>(tile, first, out, out_stride),
                5 => run::<T, 5, V>(tile, first, out, out_stride),
                6 => run::<T, 6, V>(tile, first, out, out_stride),
                7 => run::<T, 7, V>(tile, first, out, out_stride),
                _ => run::<T, 8, V>(tile, first, out, out_stride),
            }
        }
    }

    /// The sum of every element runs over taps and depth in order, whatever the tile's form: this is
    /// what makes a result independent of its neighbours.
    #[inline(always)]
    unsafe fn run<T: Vector, const R: usize, const V: usize>(
        tile: &Tile,
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
                let mut inputs = [std::ptr::null::<f32>(); R];
                for r in 0..R {
                    inputs[r] = rows.get_unchecked(r).as_ptr();
                }
                for k in 0..tile.depth {
                    let mut weights = [sums[0][0]; V];
                    for v in 0..V {
                        weights[v] = T::load(line.add(v * LANES));
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
}
