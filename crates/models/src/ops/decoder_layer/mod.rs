//! One Llama decoder layer as one operation with a backward.
//!
//! A layer of small width is bound by passes over memory and by graph bookkeeping, so the layer is
//! a single candle operation over a flat tensor of its weights: query, key and value are one
//! product, gate and up another, no head is ever transposed, and samples of any lengths lie end to
//! end without padding. On devices other than the CPU the same layer runs in candle's operations.

mod extension;
mod gate;
mod portable;
mod shape;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::attention::{self, Rows, Span};
use super::gemm::Threads;
use super::linear::{add_product, input_gradient, product, weight_gradient};
use super::norm::{rms_norm_backward, rms_norm_rows};
use super::rope::RopeTable;
use super::storage::{is_cpu_f32, read, slice};

pub(crate) use self::extension::extend_one;
use self::gate::{gated, gated_backward};
pub(crate) use self::portable::portable;
pub(crate) use self::shape::LayerShape;

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
