//! Where a decoder's tensors come from: safetensors, widened to `f32`, or GGUF blocks as they are.
//!
//! Names are those of transformers; a GGUF source translates.

use candle_core::quantized::QMatMul;
use candle_core::{Device, Tensor};

use super::error::Error;
use crate::weights::Weights;

/// Tensors by transformers' name.
pub(crate) trait Source {
    /// A matrix to multiply with: (outputs, inputs).
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<QMatMul, Error>;

    /// A bias or the weight of a norm, in `f32`.
    fn vector(&mut self, name: &str, length: usize) -> Result<Tensor, Error>;

    /// Refuses tensors that nobody asked for.
    fn finish(&self) -> Result<(), Error>;
}

/// A safetensors checkpoint on a device.
pub(crate) struct Safetensors<'a> {
    weights: Weights,
    device: &'a Device,
    tied: bool,
}

impl<'a> Safetensors<'a> {
    pub(crate) fn new(weights: Weights, device: &'a Device, tied: bool) -> Self {
        Self {
            weights,
            device,
            tied,
        }
    }
}

impl Source for Safetensors<'_> {
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<QMatMul, Error> {
        let tensor = self.weights.tensor(name, &shape)?;
        Ok(QMatMul::Tensor(tensor.to_device(self.device)?))
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Tensor, Error> {
        Ok(self
            .weights
            .tensor(name, &[length])?
            .to_device(self.device)?)
    }

    fn finish(&self) -> Result<(), Error> {
        // Old files keep the rotary buffer, and some keep a copy of a tied head.
        let ignored: &[&str] = match self.tied {
            true => &["rotary_emb.inv_freq", "lm_head.weight"],
            false => &["rotary_emb.inv_freq"],
        };
        Ok(self.weights.finish(ignored)?)
    }
}
