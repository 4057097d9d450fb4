//! The layer over new tokens of a sequence whose keys and values are kept: generation.

use super::super::attention::{self, Rows, Span};
use super::super::gemm::Threads;
use super::super::linear::{add_product, product};
use super::super::norm::rms_norm_rows;
use super::super::rope::RopeTable;
use super::gate::gated;
use super::{LayerShape, rotate};

/// One layer over the new tokens `x` of one sequence, whose past lies in `keys` and `values`;
/// in place, on the calling thread, so that no other sequence can change the result.
pub(crate) fn extend_one(
    shape: LayerShape,
    rope_table: &RopeTable,
    weights: &[f32],
    x: &mut [f32],
    keys: &mut Vec<f32>,
    values: &mut Vec<f32>,
) {
    let [
        attention_norm,
        qkv_weight,
        o_weight,
        mlp_norm,
        gate_up,
        down,
    ] = shape.split(weights);
    let (d, kv, qkv_width) = (shape.hidden, shape.key_width(), shape.qkv_width());
    let past = keys.len() / kv;
    let mut qkv = product(
        &rms_norm_rows(x, attention_norm, shape.eps),
        qkv_weight,
        d,
        Threads::One,
    );
    rotate(
        shape,
        qkv.chunks_exact_mut(qkv_width),
        |row, heads, token| rope_table.rotate(row, heads, past + token),
    );
    for row in qkv.chunks_exact(qkv_width) {
        let (_, kv_row) = row.split_at(shape.query_width());
        keys.extend_from_slice(&kv_row[..kv]);
        values.extend_from_slice(&kv_row[kv..]);
    }
    let span = Span {
        queries: x.len() / d,
        past,
        causal: true,
    };
    let mut attended = vec![0f32; span.queries * shape.query_width()];
    let (q, k) = (
        Rows {
            data: &qkv,
            stride: qkv_width,
        },
        Rows {
            data: keys,
            stride: kv,
        },
    );
    attention::forward(
        shape.heads,
        span,
        q,
        k,
        Rows {
            data: values,
            stride: kv,
        },
        &mut attended,
    );
    add_product(x, &attended, o_weight, shape.query_width(), Threads::One);
    let gates = product(
        &rms_norm_rows(x, mlp_norm, shape.eps),
        gate_up,
        d,
        Threads::One,
    );
    add_product(
        x,
        &gated(&gates, shape.intermediate),
        down,
        shape.intermediate,
        Threads::One,
    );
}
