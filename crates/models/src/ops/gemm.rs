//! Matrix products on slices: a checked face on the `gemm` crate.
//!
//! candle's `matmul` allocates its result and cannot accumulate; these products write into (or add
//! to) any row-major block of a slice, which is what attention heads and weight gradients need.

use gemm::Parallelism;

/// Who computes a product. The values do not depend on it: `gemm` splits rows and columns between
/// threads, never the inner sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread alone.
    One,
    /// The rayon pool the caller stands in.
    Pool,
}

/// A matrix that is read: rows and columns at fixed strides in a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix that fills the front of `data`.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start `row_stride` elements apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert_block_fits(data.len(), rows, cols, row_stride);
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    /// The transpose; nothing is copied.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A row-major matrix that is written, its rows `row_stride` elements apart.
#[derive(Debug)]
pub(crate) struct ViewMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> ViewMut<'a> {
    /// A matrix that fills the front of `data`.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows start `row_stride` elements apart.
    pub(crate) fn strided(
        data: &'a mut [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Self {
        assert_block_fits(data.len(), rows, cols, row_stride);
        Self {
            data,
            rows,
            cols,
            row_stride,
        }
    }
}

/// `out = scale · lhs · rhs`
pub(crate) fn write(out: ViewMut<'_>, scale: f32, lhs: View<'_>, rhs: View<'_>, threads: Threads) {
    product(out, false, scale, lhs, rhs, threads);
}

/// `out += scale · lhs · rhs`
pub(crate) fn add(out: ViewMut<'_>, scale: f32, lhs: View<'_>, rhs: View<'_>, threads: Threads) {
    product(out, true, scale, lhs, rhs, threads);
}

fn assert_block_fits(length: usize, rows: usize, cols: usize, row_stride: usize) {
    assert!(cols <= row_stride || rows <= 1, "rows of a matrix overlap");
    let needed = if rows == 0 || cols == 0 {
        0
    } else {
        (rows - 1) * row_stride + cols
    };
    assert!(
        needed <= length,
        "a {rows}x{cols} matrix needs {needed} of {length} elements"
    );
}

// The one use of `unsafe` in the language-model half: `gemm` takes raw pointers.
#[allow(unsafe_code)]
fn product(
    out: ViewMut<'_>,
    accumulate: bool,
    scale: f32,
    lhs: View<'_>,
    rhs: View<'_>,
    threads: Threads,
) {
    assert_eq!(
        (lhs.rows, lhs.cols, rhs.cols),
        (out.rows, rhs.rows, out.cols),
        "shapes of a product"
    );
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::Pool => Parallelism::Rayon(0),
    };
    // SAFETY: every view was checked at construction to lie within its slice, the shapes agree, and
    // `out` is borrowed mutably, so it overlaps neither operand. Strides are those of slices, which
    // hold at most `isize::MAX` bytes.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            lhs.cols,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            accumulate,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            1.0f32,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
