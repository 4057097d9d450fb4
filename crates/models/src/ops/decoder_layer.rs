//! One Llama decoder layer as one operation with a backward.
//!
//! A layer of small width is bound by passes over memory and by graph bookkeeping, so the layer is
//! a single candle operation over a flat tensor of its weights: query, key and value are one
//! product, gate and up another, no head is ever transposed, and samples of any lengths lie end to
//! end without padding. On devices other than the CPU the same layer runs in candle's operations.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::attention::{self, Heads, Rows, Span};
use super::gemm::Threads;
use super::linear::{add_product, input_gradient, product, weight_gradient};
use super::math::sigmoid;
use super::norm::{rms_norm, rms_norm_backward, rms_norm_rows};
use super::rope::{RopeTable, rope};
use super::storage::{is_cpu_f32, read, slice};

/// Sizes of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerShape {
    pub(crate) hidden: usize,
    pub(crate) heads: Heads,
    pub(crate) intermediate: usize,
    pub(crate) eps: f32,
}

impl LayerShape {
    fn query_width(&self) -> usize {
        self.heads.queries * self.heads.dim
    }

    pub(crate) fn key_width(&self) -> usize {
        self.heads.keys * self.heads.dim
    }

    fn qkv_width(&self) -> usize {
        self.query_width() + 2 * self.key_width()
    }

    /// Names and shapes of the weights, in the order in which they lie in the flat tensor.
    pub(crate) fn pieces(&self) -> [(&'static str, Vec<usize>); 9] {
        let (d, q, k, i) = (
            self.hidden,
            self.query_width(),
            self.key_width(),
            self.intermediate,
        );
        [
            ("input_layernorm.weight", vec![d]),
            ("self_attn.q_proj.weight", vec![q, d]),
            ("self_attn.k_proj.weight", vec![k, d]),
            ("self_attn.v_proj.weight", vec![k, d]),
            ("self_attn.o_proj.weight", vec![d, q]),
            ("post_attention_layernorm.weight", vec![d]),
            ("mlp.gate_proj.weight", vec![i, d]),
            ("mlp.up_proj.weight", vec![i, d]),
            ("mlp.down_proj.weight", vec![d, i]),
        ]
    }

    /// Lengths of the six regions: norm, q+k+v, output, norm, gate+up, down.
    fn regions(&self) -> [usize; 6] {
        let d = self.hidden;
        let attention = [d, self.qkv_width() * d, self.query_width() * d];
        let mlp = [d, 2 * self.intermediate * d, self.intermediate * d];
        [
            attention[0],
            attention[1],
            attention[2],
            mlp[0],
            mlp[1],
            mlp[2],
        ]
    }

    fn split<'a>(&self, mut flat: &'a [f32]) -> [&'a [f32]; 6] {
        self.regions().map(|length| {
            let (head, tail) = flat.split_at(length);
            flat = tail;
            head
        })
    }

    fn split_mut<'a>(&self, mut flat: &'a mut [f32]) -> [&'a mut [f32]; 6] {
        self.regions().map(|length| {
            let (head, tail) = std::mem::take(&mut flat).split_at_mut(length);
            flat = tail;
            head
        })
    }
}

/// Runs one layer over sequences that lie end to end.
///
/// `x`: (tokens of all sequences, hidden), `weights`: flat, as [`LayerShape::pieces`] says.
pub(crate) fn decoder_layer(
    shape: LayerShape,
    rope_table: &Arc<RopeTable>,
    lengths: &Arc<[usize]>,
    x: &Tensor,
    weights: &Tensor,
) -> Result<Tensor> {
    if !is_cpu_f32(x) {
        return portable(shape, rope_table, lengths, x, weights);
    }
    let layer = DecoderLayer {
        shape,
        rope: rope_table.clone(),
        lengths: lengths.clone(),
        is_recording: x.track_op() || weights.track_op(),
        saved: Mutex::new(None),
    };
    x.apply_op2(weights, layer)
}

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

struct DecoderLayer {
    shape: LayerShape,
    rope: Arc<RopeTable>,
    lengths: Arc<[usize]>,
    is_recording: bool,
    saved: Mutex<Option<Saved>>,
}

/// What the backward needs besides the layer's input; norms and gates are computed again.
struct Saved {
    qkv: Vec<f32>,      // (tokens, q + 2k), rotated
    attended: Vec<f32>, // (tokens, q)
    middle: Vec<f32>,   // (tokens, hidden): after the attention's residual
    gates: Vec<f32>,    // (tokens, 2 · intermediate)
}

impl CustomOp2 for DecoderLayer {
    fn name(&self) -> &'static str {
        "decoder_layer"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (out, saved) = self.forward(slice(x, x_layout)?, slice(weights, weights_layout)?);
        if self.is_recording {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weights: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let saved = self
            .saved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let saved = saved.ok_or_else(|| Error::Msg("a layer was run backward twice".into()))?;
        let mut dw = weights.track_op().then(|| vec![0f32; weights.elem_count()]);
        let dx = read(&grad.contiguous()?, |grad| {
            read(x, |x| {
                read(weights, |w| {
                    Ok(self.backward(saved, grad, x, w, dw.as_deref_mut()))
                })
            })
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        let dw = dw
            .map(|dw| Tensor::from_vec(dw, weights.shape(), weights.device()))
            .transpose()?;
        Ok((Some(dx), dw))
    }
}

impl DecoderLayer {
    fn forward(&self, x: &[f32], weights: &[f32]) -> (Vec<f32>, Saved) {
        let shape = self.shape;
        let [
            attention_norm,
            qkv_weight,
            o_weight,
            mlp_norm,
            gate_up,
            down,
        ] = shape.split(weights);
        let normed = rms_norm_rows(x, attention_norm, shape.eps);
        let mut qkv = product(&normed, qkv_weight, shape.hidden, Threads::Pool);
        let attended = self.attend(&mut qkv);
        let mut middle = x.to_vec();
        add_product(
            &mut middle,
            &attended,
            o_weight,
            shape.query_width(),
            Threads::Pool,
        );
        let normed = rms_norm_rows(&middle, mlp_norm, shape.eps);
        let gates = product(&normed, gate_up, shape.hidden, Threads::Pool);
        let mut out = middle.clone();
        let hidden = gated(&gates, shape.intermediate);
        add_product(&mut out, &hidden, down, shape.intermediate, Threads::Pool);
        (
            out,
            Saved {
                qkv,
                attended,
                middle,
                gates,
            },
        )
    }

    /// Gives the gradient with respect to `x`; fills `dw` when the weights are trained.
    fn backward(
        &self,
        saved: Saved,
        grad: &[f32],
        x: &[f32],
        weights: &[f32],
        dw: Option<&mut [f32]>,
    ) -> Vec<f32> {
        let shape = self.shape;
        let (d, i) = (shape.hidden, shape.intermediate);
        let [
            attention_norm,
            qkv_weight,
            o_weight,
            mlp_norm,
            gate_up,
            down,
        ] = shape.split(weights);
        let mut dw = dw.map(|dw| shape.split_mut(dw));

        let (hidden, dgates) = gated_backward(saved.gates, input_gradient(grad, down, i), i);
        let mut dmiddle = grad.to_vec();
        let dnormed = input_gradient(&dgates, gate_up, d);
        let dnorm = rms_norm_backward(&dnormed, &saved.middle, mlp_norm, shape.eps, &mut dmiddle);
        if let Some([_, _, _, d_mlp_norm, d_gate_up, d_down]) = &mut dw {
            weight_gradient(grad, &hidden, i, d_down);
            let normed = rms_norm_rows(&saved.middle, mlp_norm, shape.eps);
            weight_gradient(&dgates, &normed, d, d_gate_up);
            d_mlp_norm.copy_from_slice(&dnorm);
        }

        let dattended = input_gradient(&dmiddle, o_weight, shape.query_width());
        let dqkv = self.attend_backward(&saved.qkv, &dattended);
        let mut dx = dmiddle.clone();
        let dnormed = input_gradient(&dqkv, qkv_weight, d);
        let dnorm = rms_norm_backward(&dnormed, x, attention_norm, shape.eps, &mut dx);
        if let Some([d_attention_norm, d_qkv, d_o, ..]) = &mut dw {
            weight_gradient(&dmiddle, &saved.attended, shape.query_width(), d_o);
            let normed = rms_norm_rows(x, attention_norm, shape.eps);
            weight_gradient(&dqkv, &normed, d, d_qkv);
            d_attention_norm.copy_from_slice(&dnorm);
        }
        dx
    }

    /// Rotates queries and keys in place, then attends within each sequence.
    fn attend(&self, qkv: &mut [f32]) -> Vec<f32> {
        let (shape, width) = (self.shape, self.shape.qkv_width());
        let (q, kv) = (shape.query_width(), shape.key_width());
        let mut out = vec![0f32; qkv.len() / width * q];
        let pieces =
            cut_mut(qkv, &self.lengths, width)
                .into_iter()
                .zip(cut_mut(&mut out, &self.lengths, q));
        pieces
            .collect::<Vec<_>>()
            .into_par_iter()
            .for_each(|(qkv, out)| {
                rotate(shape, qkv.chunks_exact_mut(width), |row, heads, token| {
                    self.rope.rotate(row, heads, token)
                });
                let span = Span {
                    queries: qkv.len() / width,
                    past: 0,
                    causal: true,
                };
                let rows = |start: usize| Rows {
                    data: &qkv[start..],
                    stride: width,
                };
                attention::forward(shape.heads, span, rows(0), rows(q), rows(q + kv), out);
            });
        out
    }

    fn attend_backward(&self, qkv: &[f32], grad: &[f32]) -> Vec<f32> {
        let (shape, width) = (self.shape, self.shape.qkv_width());
        let mut dqkv = vec![0f32; qkv.len()];
        let pieces = cut_mut(&mut dqkv, &self.lengths, width)
            .into_iter()
            .zip(cut(qkv, &self.lengths, width))
            .zip(cut(grad, &self.lengths, shape.query_width()));
        pieces
            .collect::<Vec<_>>()
            .into_par_iter()
            .for_each(|((dqkv, qkv), grad)| {
                attention::backward(shape.heads, qkv.len() / width, qkv, grad, dqkv);
                rotate(shape, dqkv.chunks_exact_mut(width), |row, heads, token| {
                    self.rope.rotate_back(row, heads, token)
                });
            });
        dqkv
    }
}

/// Applies `turn(row, head count, token index)` to the query and key heads of packed rows.
fn rotate<'a>(
    shape: LayerShape,
    rows: impl Iterator<Item = &'a mut [f32]>,
    turn: impl Fn(&mut [f32], usize, usize),
) {
    for (token, row) in rows.enumerate() {
        // Query and key heads lie side by side and turn by the same angles.
        turn(row, shape.heads.queries + shape.heads.keys, token);
    }
}

/// `silu(gate) · up`, from rows that hold the gate and then the up half.
fn gated(gates: &[f32], intermediate: usize) -> Vec<f32> {
    let mut out = vec![0f32; gates.len() / 2];
    let block = 16 * intermediate;
    out.par_chunks_mut(block)
        .zip(gates.par_chunks(2 * block))
        .for_each(|(out, gates)| {
            let rows = out
                .chunks_exact_mut(intermediate)
                .zip(gates.chunks_exact(2 * intermediate));
            for (out, row) in rows {
                let (gate, up) = row.split_at(intermediate);
                for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
                    *o = g * sigmoid(*g) * u;
                }
            }
        });
    out
}

/// Gives [`gated`] again and the gradient of its argument (in the argument's memory).
fn gated_backward(
    mut gates: Vec<f32>,
    mut grad: Vec<f32>,
    intermediate: usize,
) -> (Vec<f32>, Vec<f32>) {
    let block = 16 * intermediate;
    grad.par_chunks_mut(block)
        .zip(gates.par_chunks_mut(2 * block))
        .for_each(|(grad, gates)| {
            let rows = grad
                .chunks_exact_mut(intermediate)
                .zip(gates.chunks_exact_mut(2 * intermediate));
            for (grad, row) in rows {
                let (gate, up) = row.split_at_mut(intermediate);
                for ((d, g), u) in grad.iter_mut().zip(gate).zip(up) {
                    let s = sigmoid(*g);
                    let (silu, d_out, up) = (*g * s, *d, *u);
                    *d = silu * up;
                    *u = d_out * silu;
                    *g = d_out * up * (s + silu * (1.0 - s));
                }
            }
        });
    (grad, gates)
}

fn cut<'a>(mut rows: &'a [f32], lengths: &[usize], width: usize) -> Vec<&'a [f32]> {
    let piece = |&length: &usize| {
        let (head, tail) = rows.split_at(length * width);
        rows = tail;
        head
    };
    lengths.iter().map(piece).collect()
}

fn cut_mut<'a>(mut rows: &'a mut [f32], lengths: &[usize], width: usize) -> Vec<&'a mut [f32]> {
    let piece = |&length: &usize| {
        let (head, tail) = std::mem::take(&mut rows).split_at_mut(length * width);
        rows = tail;
        head
    };
    lengths.iter().map(piece).collect()
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn the_fused_layer_and_the_portable_one_agree_forward_and_backward() {
        let heads = Heads {
            queries: 4,
            keys: 2,
            dim: 6,
        };
        let shape = LayerShape {
            hidden: 20,
            heads,
            intermediate: 28,
            eps: 1e-5,
        };
        let rope = Arc::new(RopeTable::new(heads.dim, 32, 10_000.0));
        let lengths: Arc<[usize]> = vec![7, 1, 19].into();
        let count: usize = shape.regions().iter().sum();
        let weights = Var::randn(0f32, 0.3, count, &Device::Cpu).unwrap();
        let x = Var::randn(0f32, 1.0, (27, 20), &Device::Cpu).unwrap();
        let seed = Tensor::randn(0f32, 1.0, (27, 20), &Device::Cpu).unwrap();
        let run = |out: Tensor| {
            let grads = (out.clone() * &seed)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap();
            [
                out,
                grads.get(&x).unwrap().clone(),
                grads.get(&weights).unwrap().clone(),
            ]
        };
        let fused = run(decoder_layer(shape, &rope, &lengths, &x, &weights).unwrap());
        let plain = run(portable(shape, &rope, &lengths, &x, &weights).unwrap());
        for (fused, plain) in fused.iter().zip(&plain) {
            let norm = |t: &Tensor| {
                t.sqr()
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .to_scalar::<f32>()
                    .unwrap()
                    .sqrt()
            };
            let error = norm(&(fused - plain).unwrap()) / norm(plain);
            assert!(error < 1e-5, "{error}");
        }
    }
}
