//! DDIM (Song et al. 2020, arXiv 2010.02502): equation 12 with σ = 0 (η = 0), as diffusers'
//! `DDIMScheduler`.

use super::bound::Bound;
use super::noise::{Defaults, NoiseSchedule};
use super::spacing::Spacing;
use super::trajectory::Rule;
use super::{Error, Level, Scheduler, Trajectory, Way};
use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

/// The deterministic sampler.
pub(super) struct Ddim {
    noise: NoiseSchedule,
    spacing: Spacing,
    bound: Bound,
    final_alpha_cumprod: f32,
}

impl Ddim {
    /// Takes the class's fields.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let noise = NoiseSchedule::read(fields, &Defaults::PIXELS, true)?;
        let noise = noise.refuse_noise_from_noise(fields)?;
        Ok(Self {
            final_alpha_cumprod: noise.read_final(fields, true)?,
            noise,
            spacing: Spacing::read_or_leading(fields)?,
            bound: Bound::read(fields, true)?,
        })
    }
}

impl Scheduler for Ddim {
    fn name(&self) -> &'static str {
        "ddim"
    }

    fn start(&self, way: &Way) -> Result<Trajectory, Error> {
        let alphas = &self.noise.alphas_cumprod;
        let timesteps = self.spacing.whole(alphas.len(), way.steps)?;
        let stride = alphas.len() / way.steps;
        let move_from = |&t: &usize| Move {
            alpha: alphas[t],
            // Not the next one visited: diffusers steps back by the whole stride.
            alpha_before: t
                .checked_sub(stride)
                .map_or(self.final_alpha_cumprod, |before| alphas[before]),
        };
        let rule = DdimRule {
            moves: timesteps.iter().map(move_from).collect(),
            noise: self.noise.clone(),
            bound: self.bound,
        };
        let timesteps = timesteps.iter().map(|t| *t as f32).collect();
        Ok(Trajectory::new(timesteps, way.skipped()?, rule))
    }
}

struct Move {
    /// ᾱ here.
    alpha: f32,
    /// ᾱ one step nearer to the picture.
    alpha_before: f32,
}

struct DdimRule {
    moves: Vec<Move>,
    noise: NoiseSchedule,
    bound: Bound,
}

impl Rule for DdimRule {
    fn level(&self, index: usize) -> Level {
        Level::of_alpha(self.moves.get(index).map_or(1., |m| m.alpha))
    }

    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) {
        let (here, prediction) = (self.level(index), self.noise.prediction);
        let before = Level::of_alpha(self.moves[index].alpha_before);
        let pairs = || latents.iter().zip(output);
        let mut clean: Vec<f32> = pairs()
            .map(|(x, out)| prediction.clean(here, *x, *out))
            .collect();
        let noise: Vec<f32> = pairs()
            .map(|(x, out)| prediction.noise(here, *x, *out))
            .collect();
        // As diffusers: the bounded picture goes with the noise of the unbounded one.
        self.bound.apply(&mut clean);
        for (x, (clean, noise)) in latents.iter_mut().zip(clean.iter().zip(noise)) {
            *x = before.signal * clean + before.noise * noise;
        }
    }
}
