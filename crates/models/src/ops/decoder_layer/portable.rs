//! The layer on devices other than the CPU.

use candle_core::{Result, Tensor};

use super::super::attention::Heads;
use super::super::norm::rms_norm;
use super::super::rope::{RopeTable, rope};
use super::LayerShape;

/// The layer in candle's own operations that carry gradients, one sequence at a time.
pub(crate) fn portable(
    shape: LayerShape,
    rope_table: &RopeTable,
    lengths: &[usize],
    x: &Tensor,
    weights: &Tensor,
) -> Result<Tensor> {
    let mut start = 0;
    let mut pieces = Vec::new();
    for (name, dims) in shape.pieces() {
        let count = dims.iter().product();
        pieces.push((name, weights.narrow(0, start, count)?.reshape(dims)?));
        start += count;
    }
    let [attention_norm, q, k, v, o, mlp_norm, gate, up, down] =
        std::array::from_fn(|index| pieces[index].1.clone());
    let normed = rms_norm(x, &attention_norm, shape.eps)?;
    let [q, k, v] = [q, k, v].map(|w| w.t().and_then(|w| normed.matmul(&w)));
    let (q, k, v) = (q?, k?, v?);
    let mut rows = Vec::new();
    let mut first = 0;
    for &tokens in lengths {
        let part = |all: &Tensor| all.narrow(0, first, tokens);
        rows.push(portable_attention(
            shape.heads,
            rope_table,
            [part(&q)?, part(&k)?, part(&v)?],
        )?);
        first += tokens;
    }
    let middle = (x + Tensor::cat(&rows, 0)?.matmul(&o.t()?)?)?;
    let normed = rms_norm(&middle, &mlp_norm, shape.eps)?;
    let hidden = (normed.matmul(&gate.t()?)?.silu()? * normed.matmul(&up.t()?)?)?;
    middle + hidden.matmul(&down.t()?)?
}

/// `qkv`: three tensors (tokens, heads · dim) of one sequence; gives (tokens, query heads · dim).
fn portable_attention(heads: Heads, rope_table: &RopeTable, qkv: [Tensor; 3]) -> Result<Tensor> {
    let [q, k, v] = qkv;
    let tokens = q.dim(0)?;
    let (cos, sin) = rope_table.tensors(tokens, q.device())?;
    let split = |x: &Tensor, count: usize| {
        x.reshape((tokens, count, heads.dim))?
            .transpose(0, 1)?
            .contiguous() // (heads, tokens, dim)
    };
    let repeat = |x: Tensor| {
        let groups = heads.queries / heads.keys;
        x.unsqueeze(1)?
            .broadcast_as((heads.keys, groups, tokens, heads.dim))?
            .contiguous()?
            .reshape((heads.queries, tokens, heads.dim))
    };
    let q = rope(&split(&q, heads.queries)?, &cos, &sin)?;
    let k = repeat(rope(&split(&k, heads.keys)?, &cos, &sin)?)?;
    let v = repeat(split(&v, heads.keys)?)?;
    let hidden = (0..tokens * tokens).map(|i| {
        if i % tokens > i / tokens {
            f32::NEG_INFINITY
        } else {
            0.0
        }
    });
    let mask = Tensor::from_iter(hidden, q.device())?
        .reshape((tokens, tokens))?
        .to_dtype(q.dtype())?;
    let scores =
        (q.matmul(&k.t()?.contiguous()?)? / (heads.dim as f64).sqrt())?.broadcast_add(&mask)?;
    let mixed = candle_nn::ops::softmax(&scores, candle_core::D::Minus1)?.matmul(&v)?;
    mixed
        .transpose(0, 1)?
        .contiguous()?
        .reshape((tokens, heads.queries * heads.dim))
}
