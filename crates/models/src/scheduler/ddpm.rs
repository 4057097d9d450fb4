//! DDPM (Ho et al. 2020, arXiv 2006.11239): the posterior of equation 7 with fresh noise at every step,
//! as diffusers' `DDPMScheduler`.

use super::bound::Bound;
use super::noise::{Defaults, NoiseSchedule};
use super::spacing::Spacing;
use super::trajectory::Rule;
use super::{Error, Level, Scheduler, Trajectory, Way};
use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

/// How much fresh noise a step brings (section 3.2 of the paper).
#[derive(Clone, Copy, Debug, serde::Deserialize)]
enum Variance {
    /// β̃, the posterior's.
    #[serde(rename = "fixed_small")]
    Small,
    /// The same by way of its logarithm.
    #[serde(rename = "fixed_small_log")]
    SmallByLog,
    /// β.
    #[serde(rename = "fixed_large")]
    Large,
    /// The same by way of its logarithm (diffusers takes the root of the logarithm, which is NaN).
    #[serde(rename = "fixed_large_log")]
    LargeByLog,
}

/// The stochastic sampler.
pub(super) struct Ddpm {
    noise: NoiseSchedule,
    spacing: Spacing,
    bound: Bound,
    variance: Variance,
}

impl Ddpm {
    /// Takes the class's fields.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let noise = NoiseSchedule::read(fields, &Defaults::PIXELS, true)?;
        Ok(Self {
            noise: noise.refuse_noise_from_noise(fields)?,
            spacing: Spacing::read_or_leading(fields)?,
            bound: Bound::read(fields, true)?,
            variance: fields.take_or("variance_type", Variance::Small)?,
        })
    }
}

impl Scheduler for Ddpm {
    fn name(&self) -> &'static str {
        "ddpm"
    }

    fn start(&self, way: &Way) -> Result<Trajectory, Error> {
        let timesteps = self.spacing.whole(self.noise.count(), way.steps)?;
        let rule = DdpmRule {
            alphas: timesteps
                .iter()
                .map(|t| self.noise.alphas_cumprod[*t])
                .collect(),
            ends_at_zero: timesteps.last() == Some(&0),
            noise: self.noise.clone(),
            bound: self.bound,
            variance: self.variance,
        };
        let timesteps = timesteps.iter().map(|t| *t as f32).collect();
        Ok(Trajectory::new(timesteps, way.skipped()?, rule))
    }
}

struct DdpmRule {
    /// ᾱ at each step.
    alphas: Vec<f32>,
    /// Whether the last step is time step 0, which brings no noise.
    ends_at_zero: bool,
    noise: NoiseSchedule,
    bound: Bound,
    variance: Variance,
}

impl DdpmRule {
    /// The standard deviation of the fresh noise, given ᾱ here and one step nearer to the picture.
    fn deviation(&self, alpha: f32, alpha_before: f32) -> f32 {
        let beta = 1. - alpha / alpha_before;
        let posterior = ((1. - alpha_before) / (1. - alpha) * beta).max(1e-20);
        match self.variance {
            Variance::Small => posterior.sqrt(),
            Variance::SmallByLog => (0.5 * posterior.ln()).exp(),
            Variance::Large => beta.sqrt(),
            Variance::LargeByLog => (0.5 * beta.ln()).exp(),
        }
    }
}

impl Rule for DdpmRule {
    fn level(&self, index: usize) -> Level {
        Level::of_alpha(self.alphas.get(index).copied().unwrap_or(1.))
    }

    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) {
        let alpha = self.alphas[index];
        let alpha_before = self.alphas.get(index + 1).copied().unwrap_or(1.);
        let (here, prediction) = (self.level(index), self.noise.prediction);
        let mut clean: Vec<f32> = latents
            .iter()
            .zip(output)
            .map(|(x, out)| prediction.clean(here, *x, *out))
            .collect();
        self.bound.apply(&mut clean);
        let (kept, beta, rest) = (alpha / alpha_before, 1. - alpha / alpha_before, 1. - alpha);
        let of_clean = alpha_before.sqrt() * beta / rest;
        let of_latents = kept.sqrt() * (1. - alpha_before) / rest;
        for (x, clean) in latents.iter_mut().zip(clean) {
            *x = of_clean * clean + of_latents * *x;
        }
        if index + 1 < self.alphas.len() || !self.ends_at_zero {
            let deviation = self.deviation(alpha, alpha_before);
            let fresh = rng.randn(latents.len());
            for (x, fresh) in latents.iter_mut().zip(fresh) {
                *x += deviation * fresh;
            }
        }
    }
}
