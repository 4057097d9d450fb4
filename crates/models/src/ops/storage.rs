//! Slices out of candle tensors.

use candle_core::{CpuStorage, Error, Layout, Result, Storage, Tensor};

/// The elements of a contiguous `f32` operand, as a custom operation sees it.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        return Err(Error::Msg("the operand is not f32".into()));
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => Err(Error::Msg("the operand is not contiguous".into())),
    }
}

/// Lends the elements of a contiguous `f32` tensor on the CPU without copying them.
pub(crate) fn read<R>(tensor: &Tensor, use_values: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => use_values(slice(storage, layout)?),
        _ => Err(Error::Msg("the tensor is not on the CPU".into())),
    }
}

/// Whether the fused CPU operations apply to `tensor`; elsewhere candle's own operations run.
pub(crate) fn is_cpu_f32(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == candle_core::DType::F32
}
