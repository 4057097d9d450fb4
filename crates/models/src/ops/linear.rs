//! `x · weightᵀ + bias` with a backward that makes no more passes than it needs.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::gemm::{self, Threads, View, ViewMut};
use super::norm::add_up;
use super::storage::{is_cpu_f32, read, slice};

/// A linear layer in PyTorch's form.
///
/// `x`: (rows, inputs), `weight`: (outputs, inputs), `bias`: (outputs); gives (rows, outputs).
///
/// # Errors
/// candle's, for shapes that do not agree.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if is_cpu_f32(x) {
        return x.contiguous()?.apply_op3(weight, bias, Linear);
    }
    x.matmul(&weight.t()?)?.broadcast_add(bias)
}

/// `x · weightᵀ`, with `weight` (outputs, inputs) row-major.
pub(crate) fn product(x: &[f32], weight: &[f32], inputs: usize, threads: Threads) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, weight.len() / inputs);
    let mut out = vec![0f32; rows * outputs];
    let (x, weight) = (
        View::new(x, rows, inputs),
        View::new(weight, outputs, inputs),
    );
    gemm::write(
        ViewMut::new(&mut out, rows, outputs),
        1.0,
        x,
        weight.t(),
        threads,
    );
    out
}

/// `out += x · weightᵀ`
pub(crate) fn add_product(
    out: &mut [f32],
    x: &[f32],
    weight: &[f32],
    inputs: usize,
    threads: Threads,
) {
    let (rows, outputs) = (x.len() / inputs, weight.len() / inputs);
    let (x, weight) = (
        View::new(x, rows, inputs),
        View::new(weight, outputs, inputs),
    );
    gemm::add(
        ViewMut::new(out, rows, outputs),
        1.0,
        x,
        weight.t(),
        threads,
    );
}

/// `grad · weight`: the gradient with respect to `x`.
pub(crate) fn input_gradient(grad: &[f32], weight: &[f32], inputs: usize) -> Vec<f32> {
    let outputs = weight.len() / inputs;
    let rows = grad.len() / outputs;
    let mut dx = vec![0f32; rows * inputs];
    let (grad, weight) = (
        View::new(grad, rows, outputs),
        View::new(weight, outputs, inputs),
    );
    gemm::write(
        ViewMut::new(&mut dx, rows, inputs),
        1.0,
        grad,
        weight,
        Threads::Pool,
    );
    dx
}

/// `gradᵀ · x`, written to `dw`: the gradient with respect to the weight.
pub(crate) fn weight_gradient(grad: &[f32], x: &[f32], inputs: usize, dw: &mut [f32]) {
    let outputs = dw.len() / inputs;
    let rows = x.len() / inputs;
    let (grad, x) = (View::new(grad, rows, outputs), View::new(x, rows, inputs));
    gemm::write(
        ViewMut::new(dw, outputs, inputs),
        1.0,
        grad.t(),
        x,
        Threads::Pool,
    );
}

/// Sums over rows: the gradient with respect to a bias.
fn bias_gradient(grad: &[f32], outputs: usize) -> Vec<f32> {
    const BLOCK_ROWS: usize = 64;
    let partial: Vec<Vec<f32>> = grad
        .par_chunks(outputs * BLOCK_ROWS)
        .map(|block| {
            let mut total = vec![0f32; outputs];
            for row in block.chunks_exact(outputs) {
                for (t, g) in total.iter_mut().zip(row) {
                    *t += g;
                }
            }
            total
        })
        .collect();
    add_up(&partial, outputs)
}

struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let bias = slice(bias, bias_layout)?;
        let mut out: Vec<f32> = bias
            .iter()
            .copied()
            .cycle()
            .take(rows * bias.len())
            .collect();
        let weight = slice(weight, weight_layout)?;
        add_product(&mut out, slice(x, x_layout)?, weight, inputs, Threads::Pool);
        Ok((CpuStorage::F32(out), Shape::from((rows, bias.len()))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (outputs, inputs) = weight.dims2()?;
        let device = x.device();
        read(&grad.contiguous()?, |grad| {
            let dx = match x.track_op() {
                true => {
                    let dx = read(weight, |w| Ok(input_gradient(grad, w, inputs)))?;
                    Some(Tensor::from_vec(dx, x.shape(), device)?)
                }
                false => None,
            };
            if !weight.track_op() {
                return Ok((dx, None, None));
            }
            let mut dw = vec![0f32; outputs * inputs];
            read(x, |x| {
                weight_gradient(grad, x, inputs, &mut dw);
                Ok(())
            })?;
            let dw = Tensor::from_vec(dw, weight.shape(), device)?;
            let db = Tensor::from_vec(bias_gradient(grad, outputs), bias.shape(), device)?;
            Ok((dx, Some(dw), Some(db)))
        })
    }
}
