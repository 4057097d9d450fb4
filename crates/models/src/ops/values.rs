//! Slices out of tensors, for the inference ops.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};

/// The numbers of a tensor, lent.
struct Values<G> {
    guard: G,
    range: Range<usize>,
}

/// Lends the numbers of a contiguous `f32` tensor on the CPU.
///
/// # Errors
/// When the tensor is none of these, or records its operations for a backward pass: the inference ops
/// have no backward, and a gradient must not vanish in silence.
pub(crate) fn values(tensor: &Tensor) -> Result<impl Deref<Target = [f32]>> {
    if tensor.track_op() {
        bail!("an inference op was given a tensor that records gradients");
    }
    let (guard, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!(
            "an inference op was given a tensor that is not contiguous: {:?}",
            tensor.shape()
        );
    };
    match &*guard {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Values {
            guard,
            range: start..end,
        }),
        _ => bail!("inference ops run on f32 tensors on the CPU"),
    }
}

impl<G: Deref<Target = Storage>> Deref for Values<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.guard {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            // `values` lends nothing else.
            _ => &[],
        }
    }
}
