//! DDIM (Song et al. 2020, arXiv 2010.02502) with η = 0, as diffusers' `DDIMScheduler`.

use super::{Error, NoiseSchedule, Prediction, Scheduler, Trajectory};
use crate::torch_rng::TorchRng;

/// The deterministic sampler.
pub struct Ddim {
    noise: NoiseSchedule,
}

impl Ddim {
    /// On the schedule that the model was trained with.
    pub fn new(noise: NoiseSchedule) -> Self {
        Self { noise }
    }
}

impl Scheduler for Ddim {
    fn name(&self) -> &'static str {
        "ddim"
    }

    fn start(&self, steps: usize) -> Result<Box<dyn Trajectory>, Error> {
        let noise = &self.noise;
        let stride = noise.train_steps() / steps.max(1);
        let moves = noise
            .timesteps(steps)?
            .into_iter()
            .map(|t| Move {
                timestep: t as f32,
                alpha: noise.alphas_cumprod[t],
                alpha_before: t
                    .checked_sub(stride)
                    .map_or(noise.final_alpha_cumprod, |t| noise.alphas_cumprod[t]),
            })
            .collect();
        Ok(Box::new(DdimTrajectory {
            moves,
            next: 0,
            prediction: noise.prediction,
            clip: noise.clip,
        }))
    }
}

struct Move {
    timestep: f32,
    /// ᾱ here.
    alpha: f32,
    /// ᾱ one step nearer to the picture.
    alpha_before: f32,
}

struct DdimTrajectory {
    moves: Vec<Move>,
    next: usize,
    prediction: Prediction,
    clip: Option<f32>,
}

impl Trajectory for DdimTrajectory {
    fn timestep(&self) -> Option<f32> {
        self.moves.get(self.next).map(|m| m.timestep)
    }

    fn evaluations(&self) -> usize {
        self.moves.len()
    }

    /// Equation 12 of the paper with σ = 0.
    fn advance(&mut self, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) {
        let Some(Move {
            alpha,
            alpha_before,
            ..
        }) = self.moves.get(self.next)
        else {
            return;
        };
        self.next += 1;
        let (signal, noise) = (alpha.sqrt(), (1. - alpha).sqrt());
        let (signal_before, noise_before) = (alpha_before.sqrt(), (1. - alpha_before).sqrt());
        for (x, &out) in latents.iter_mut().zip(output) {
            let (clean, epsilon) = match self.prediction {
                Prediction::Epsilon => ((*x - noise * out) / signal, out),
                Prediction::Sample => (out, (*x - signal * out) / noise),
                Prediction::VPrediction => (signal * *x - noise * out, signal * out + noise * *x),
            };
            // As diffusers: the clipped picture goes with the unclipped noise.
            let clean = self.clip.map_or(clean, |range| clean.clamp(-range, range));
            *x = signal_before * clean + noise_before * epsilon;
        }
    }
}
