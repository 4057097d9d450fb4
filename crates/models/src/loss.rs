//! Next-token cross-entropy on supervised positions only.
//!
//! A conversation supervises a third of its tokens or less, and the vocabulary is the widest matrix
//! of a small model, so logits are computed for supervised positions and no others.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, DType, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::ops::gemm::Threads;
use crate::ops::linear::{input_gradient, product, weight_gradient};
use crate::ops::math::{exp, max, sum};
use crate::ops::norm::{rms_norm, rms_norm_backward, rms_norm_rows};
use crate::ops::storage::{is_cpu_f32, read, slice};

/// A position that is supervised: the row of hidden states that predicts, and the token it must
/// predict (the labels are already shifted by one).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Row among the hidden states of the batch.
    pub row: u32,
    /// The next token.
    pub token: u32,
}

/// The final norm, the head and the mean cross-entropy over `targets`, as one operation.
///
/// `x`: (tokens, hidden), `norm`: (hidden), `head`: (vocabulary, hidden); gives a scalar: the sum of
/// the targets' losses divided by `divisor` (their number, or that of all micro-batches together).
///
/// # Errors
/// Refuses an empty `targets`, whose mean does not exist, and tokens beyond the vocabulary.
pub fn head_loss(
    x: &Tensor,
    norm: &Tensor,
    head: &Tensor,
    targets: &Arc<[Target]>,
    divisor: usize,
    eps: f32,
) -> Result<Tensor> {
    if targets.is_empty() || divisor == 0 {
        return Err(Error::Msg("no position is supervised".into()));
    }
    let vocabulary = head.dim(0)?;
    if let Some(target) = targets.iter().find(|t| t.token as usize >= vocabulary) {
        return Err(Error::Msg(format!(
            "token {} is beyond the vocabulary of {vocabulary}",
            target.token
        )));
    }
    if !is_cpu_f32(x) {
        return portable(x, norm, head, targets, divisor, eps);
    }
    let op = HeadLoss {
        targets: targets.clone(),
        divisor,
        eps,
        saved: Mutex::new(None),
    };
    x.apply_op3(norm, head, op)
}

struct HeadLoss {
    targets: Arc<[Target]>,
    divisor: usize,
    eps: f32,
    saved: Mutex<Option<Saved>>,
}

struct Saved {
    selected: Vec<f32>,      // (targets, hidden): rows of x
    normed: Vec<f32>,        // (targets, hidden)
    probabilities: Vec<f32>, // (targets, vocabulary)
}

impl CustomOp3 for HeadLoss {
    fn name(&self) -> &'static str {
        "head_loss"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        norm: &CpuStorage,
        norm_layout: &Layout,
        head: &CpuStorage,
        head_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, x_layout)?;
        let norm = slice(norm, norm_layout)?;
        let hidden = norm.len();
        let mut selected = Vec::with_capacity(self.targets.len() * hidden);
        for target in self.targets.iter() {
            selected.extend_from_slice(&x[target.row as usize * hidden..][..hidden]);
        }
        let normed = rms_norm_rows(&selected, norm, self.eps);
        let mut logits = product(&normed, slice(head, head_layout)?, hidden, Threads::Pool);
        let loss = self.normalise(&mut logits) / self.divisor as f64;
        let saved = Saved {
            selected,
            normed,
            probabilities: logits,
        };
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        norm: &Tensor,
        head: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let saved = self
            .saved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let saved = saved.ok_or_else(|| Error::Msg("the loss was run backward twice".into()))?;
        let Saved {
            selected,
            normed,
            probabilities: mut dlogits,
        } = saved;
        self.logit_gradient(&mut dlogits, grad.to_scalar::<f32>()? / self.divisor as f32);
        let (vocabulary, hidden) = head.dims2()?;
        let mut dhead = head.track_op().then(|| vec![0f32; vocabulary * hidden]);
        if let Some(dhead) = &mut dhead {
            weight_gradient(&dlogits, &normed, hidden, dhead);
        }
        let dnormed = read(head, |head| Ok(input_gradient(&dlogits, head, hidden)))?;
        let mut dselected = vec![0f32; selected.len()];
        let dnorm = read(norm, |norm| {
            Ok(rms_norm_backward(
                &dnormed,
                &selected,
                norm,
                self.eps,
                &mut dselected,
            ))
        })?;
        let mut dx = vec![0f32; x.elem_count()];
        for (target, grad) in self.targets.iter().zip(dselected.chunks_exact(hidden)) {
            for (d, g) in dx[target.row as usize * hidden..].iter_mut().zip(grad) {
                *d += g;
            }
        }
        let tensor = |d: Vec<f32>, like: &Tensor| Tensor::from_vec(d, like.shape(), like.device());
        let dnorm = if norm.track_op() {
            Some(tensor(dnorm, norm)?)
        } else {
            None
        };
        Ok((
            Some(tensor(dx, x)?),
            dnorm,
            dhead.map(|d| tensor(d, head)).transpose()?,
        ))
    }
}

impl HeadLoss {
    /// Turns logits into probabilities and gives the sum of the losses.
    fn normalise(&self, logits: &mut [f32]) -> f64 {
        let vocabulary = logits.len() / self.targets.len();
        let rows = logits
            .par_chunks_exact_mut(vocabulary)
            .zip(self.targets.par_iter());
        let losses: Vec<f64> = rows
            .map(|(row, target)| {
                let top = max(row);
                let of_target = row[target.token as usize] - top;
                row.iter_mut().for_each(|x| *x = exp(*x - top));
                let total = sum(row);
                let scale = 1.0 / total;
                row.iter_mut().for_each(|x| *x *= scale);
                f64::from(total).ln() - f64::from(of_target)
            })
            .collect();
        losses.iter().sum()
    }

    fn logit_gradient(&self, probabilities: &mut [f32], scale: f32) {
        let vocabulary = probabilities.len() / self.targets.len();
        let rows = probabilities
            .par_chunks_exact_mut(vocabulary)
            .zip(self.targets.par_iter());
        rows.for_each(|(row, target)| {
            row[target.token as usize] -= 1.0;
            row.iter_mut().for_each(|p| *p *= scale);
        });
    }
}

fn portable(
    x: &Tensor,
    norm: &Tensor,
    head: &Tensor,
    targets: &[Target],
    divisor: usize,
    eps: f32,
) -> Result<Tensor> {
    let rows = Tensor::from_iter(targets.iter().map(|t| t.row), x.device())?;
    let tokens = Tensor::from_iter(targets.iter().map(|t| t.token), x.device())?.unsqueeze(1)?;
    let normed = rms_norm(&x.index_select(&rows, 0)?, norm, eps)?;
    let logits = normed.matmul(&head.t()?)?.to_dtype(DType::F32)?;
    let log_probabilities = candle_nn::ops::log_softmax(&logits, candle_core::D::Minus1)?;
    (log_probabilities.gather(&tokens, 1)?.sum_all()?.neg()? / divisor as f64)?.reshape(())
}
