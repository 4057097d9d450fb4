//! Transformers that denoise the tokens of a picture and of its text together, for inference on the CPU:
//! Stable Diffusion 3's MMDiT ([`sd3`]; Esser et al. 2024, arXiv 2403.03206, section 4) and FLUX.1's
//! ([`flux`]), under diffusers' names.
//!
//! Own code, not candle-transformers': that one has the original releases' names, and its attention and
//! GELU are slow. A batch is cut among threads by samples, and a sample is computed by itself, so its
//! result is the same bits alone and among others.

mod attention;
mod block;
mod condition;
pub mod flux;
mod modulation;
mod patches;
pub mod sd3;

use candle_core::{Device, Tensor, bail};
use rayon::prelude::*;

use crate::config::{self, Fields};
use crate::ops::values::values;

/// A prompt as one transformer wants it: made once.
pub struct Context {
    /// `(tokens, width)`, after the transformer's own projection.
    states: Tensor,
    /// What is added to the embedding of every time step.
    condition: Vec<f32>,
}

/// One picture of a batch.
struct Sample<'a> {
    /// `(channels, height, width)`, row-major.
    latents: &'a [f32],
    shape: [usize; 3],
    timestep: f32,
    context: &'a Context,
}

/// Runs `predict` on every sample of `(batch, channels, height, width)`, each at its own time step with
/// its own text. A prediction has the shape of what it was made from.
fn each_sample(
    latents: &Tensor,
    timesteps: &[f32],
    contexts: &[&Context],
    predict: impl Fn(&Sample<'_>) -> candle_core::Result<Vec<f32>> + Sync,
) -> candle_core::Result<Tensor> {
    let (batch, channels, height, width) = latents.dims4()?;
    if batch == 0 || timesteps.len() != batch || contexts.len() != batch {
        let (times, texts) = (timesteps.len(), contexts.len());
        bail!("{batch} latents, {times} time steps, {texts} contexts");
    }
    let latents_of = values(latents)?;
    let all: &[f32] = &latents_of;
    let sample_len = channels * height * width;
    let one = |i: usize| {
        predict(&Sample {
            latents: &all[i * sample_len..(i + 1) * sample_len],
            shape: [channels, height, width],
            timestep: timesteps[i],
            context: contexts[i],
        })
    };
    let parts: Vec<Vec<f32>> = (0..batch)
        .into_par_iter()
        .map(one)
        .collect::<candle_core::Result<_>>()?;
    Tensor::from_vec(parts.concat(), latents.shape(), &Device::Cpu)
}

/// Refuses fields that are zero.
fn check_counts(fields: &Fields, counts: &[(&str, usize)]) -> Result<(), config::Error> {
    match counts.iter().find(|(_, count)| *count == 0) {
        Some((field, _)) => Err(fields.invalid(field, "is zero")),
        None => Ok(()),
    }
}
