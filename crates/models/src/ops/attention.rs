//! Attention of one sequence on slices: rows are tokens, heads lie side by side in a row.

use super::gemm::{self, Threads, View, ViewMut};
use super::math::{dot, softmax_row};

/// How the heads of a layer lie in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) queries: usize,
    /// Key and value heads; each serves `queries / keys` query heads.
    pub(crate) keys: usize,
    /// Width of one head.
    pub(crate) dim: usize,
}

impl Heads {
    fn key_head(self, query_head: usize) -> usize {
        query_head / (self.queries / self.keys)
    }

    fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

/// Rows of queries, keys or values: a slice and the distance between its rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    fn head(self, head: usize, rows: usize, dim: usize) -> View<'a> {
        View::strided(&self.data[head * dim..], rows, dim, self.stride)
    }
}

/// The tokens that take part: `queries` new ones after `past` others; `causal` hides later ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) queries: usize,
    pub(crate) past: usize,
    pub(crate) causal: bool,
}

impl Span {
    fn keys(self) -> usize {
        self.past + self.queries
    }
}

/// Writes `softmax(q kᵀ / √dim) v` for all heads to `out`, whose rows hold all query heads.
pub(crate) fn forward(
    heads: Heads,
    span: Span,
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    out: &mut [f32],
) {
    let width = heads.queries * heads.dim;
    let mut scores = vec![0f32; span.queries * span.keys()];
    for head in 0..heads.queries {
        let key_head = heads.key_head(head);
        probabilities(heads, span, q, k, head, &mut scores);
        let out = ViewMut::strided(&mut out[head * heads.dim..], span.queries, heads.dim, width);
        let values = v.head(key_head, span.keys(), heads.dim);
        let scores = View::new(&scores, span.queries, span.keys());
        gemm::write(out, 1.0, scores, values, Threads::One);
    }
}

/// Gradients of [`forward`] without past tokens, written over the packed rows `dqkv` (all query
/// heads, then key heads, then value heads), from the packed rows `qkv`. The probabilities are
/// computed again: keeping them would cost (heads · tokens²) per layer.
pub(crate) fn backward(heads: Heads, tokens: usize, qkv: &[f32], grad: &[f32], dqkv: &mut [f32]) {
    let span = Span {
        queries: tokens,
        past: 0,
        causal: true,
    };
    let (dim, width) = (heads.dim, heads.queries * heads.dim);
    let stride = width + 2 * heads.keys * dim;
    let (k_start, v_start) = (width, width + heads.keys * dim);
    let rows = |start: usize| Rows {
        data: &qkv[start..],
        stride,
    };
    let mut p = vec![0f32; tokens * tokens];
    let mut ds = vec![0f32; tokens * tokens];
    for head in 0..heads.queries {
        let key_head = heads.key_head(head);
        let is_first_of_group = head == 0 || heads.key_head(head - 1) != key_head;
        let accumulate = if is_first_of_group {
            gemm::write
        } else {
            gemm::add
        };
        probabilities(heads, span, rows(0), rows(k_start), head, &mut p);
        let grad = Rows {
            data: grad,
            stride: width,
        }
        .head(head, tokens, dim);
        let values = rows(v_start).head(key_head, tokens, dim);
        gemm::write(
            ViewMut::new(&mut ds, tokens, tokens),
            1.0,
            grad,
            values.t(),
            Threads::One,
        );
        let probs = View::new(&p, tokens, tokens);
        let dv = ViewMut::strided(&mut dqkv[v_start + key_head * dim..], tokens, dim, stride);
        accumulate(dv, 1.0, probs.t(), grad, Threads::One);
        softmax_backward(&p, &mut ds, tokens);
        let scores = View::new(&ds, tokens, tokens);
        let keys = rows(k_start).head(key_head, tokens, dim);
        let dq = ViewMut::strided(&mut dqkv[head * dim..], tokens, dim, stride);
        gemm::write(dq, heads.scale(), scores, keys, Threads::One);
        let queries = rows(0).head(head, tokens, dim);
        let dk = ViewMut::strided(&mut dqkv[k_start + key_head * dim..], tokens, dim, stride);
        accumulate(dk, heads.scale(), scores.t(), queries, Threads::One);
    }
}

fn probabilities(
    heads: Heads,
    span: Span,
    q: Rows<'_>,
    k: Rows<'_>,
    head: usize,
    scores: &mut [f32],
) {
    let keys = span.keys();
    let queries = q.head(head, span.queries, heads.dim);
    let key_rows = k.head(heads.key_head(head), keys, heads.dim).t();
    let out = ViewMut::new(scores, span.queries, keys);
    gemm::write(out, heads.scale(), queries, key_rows, Threads::One);
    for (index, row) in scores.chunks_exact_mut(keys).enumerate() {
        let visible = if span.causal {
            span.past + index + 1
        } else {
            keys
        };
        softmax_row(&mut row[..visible]);
        row[visible..].fill(0.0);
    }
}

/// Turns gradients of probabilities into gradients of scores, below and on the diagonal.
fn softmax_backward(p: &[f32], ds: &mut [f32], tokens: usize) {
    let rows = p
        .chunks_exact(tokens)
        .zip(ds.chunks_exact_mut(tokens))
        .enumerate();
    for (index, (p, ds)) in rows {
        let (visible, hidden) = ds.split_at_mut(index + 1);
        let pull = dot(&p[..=index], visible);
        for (d, p) in visible.iter_mut().zip(p) {
            *d = p * (*d - pull);
        }
        hidden.fill(0.0);
    }
}
