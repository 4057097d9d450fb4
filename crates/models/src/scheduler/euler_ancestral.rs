//! Euler with ancestral noise, as diffusers' `EulerAncestralDiscreteScheduler`: a step of Euler's method
//! goes below the next level, and fresh noise brings it back up. The two levels are those of DDPM's
//! posterior (Ho et al. 2020, arXiv 2006.11239) for variance-exploding noise (Song et al. 2021, arXiv
//! 2011.13456, equation 46): σ_up² = σ'² (σ² − σ'²) / σ², σ_down² = σ'² − σ_up².

use super::euler::{initial_scale, input_divisor};
use super::noise::{Defaults, NoiseSchedule};
use super::prediction::Prediction;
use super::sigmas::Trained;
use super::spacing::Spacing;
use super::trajectory::Rule;
use super::{Error, Level, Scheduler, Trajectory, Way};
use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

/// The stochastic sampler of first order.
pub(super) struct EulerAncestral {
    noise: NoiseSchedule,
    spacing: Spacing,
}

impl EulerAncestral {
    /// Takes the class's fields.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let noise = NoiseSchedule::read(fields, &Defaults::PIXELS, true)?;
        if noise.prediction == Prediction::Sample {
            let offered = "ancestral Euler takes epsilon, v_prediction";
            return Err(fields.unsupported("prediction_type", &"sample".into(), offered));
        }
        Ok(Self {
            noise: noise.with_finite_sigmas(),
            spacing: Spacing::read_or_linspace(fields)?,
        })
    }
}

impl Scheduler for EulerAncestral {
    fn name(&self) -> &'static str {
        "euler_a"
    }

    fn start(&self, way: &Way) -> Result<Trajectory, Error> {
        let trained = Trained::new(self.noise.sigmas());
        let visited = self.spacing.real(self.noise.count(), way.steps)?;
        let timesteps: Vec<f32> = visited.iter().map(|t| *t as f32).collect();
        let levels = timesteps.iter().map(|t| trained.at((*t).into()) as f32);
        let sigmas: Vec<f32> = levels.chain([0.]).collect();
        let rule = AncestralRule {
            initial: initial_scale(self.spacing, &sigmas),
            sigmas,
            prediction: self.noise.prediction,
        };
        Ok(Trajectory::new(timesteps, way.skipped()?, rule))
    }
}

struct AncestralRule {
    sigmas: Vec<f32>,
    initial: f32,
    prediction: Prediction,
}

impl Rule for AncestralRule {
    fn initial_scale(&self) -> f32 {
        self.initial
    }

    fn input_divisor(&self, index: usize) -> f32 {
        input_divisor(self.sigmas[index])
    }

    fn level(&self, index: usize) -> Level {
        Level {
            signal: 1.,
            noise: self.sigmas[index],
        }
    }

    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) {
        let (sigma, next) = (self.sigmas[index], self.sigmas[index + 1]);
        let (here, there) = (sigma * sigma, next * next);
        let up = (there * (here - there) / here).sqrt();
        // Under 0 by rounding where σ is in the thousands.
        let down = (there - up * up).max(0.).sqrt();
        let fresh = rng.randn(latents.len());
        for (x, (out, fresh)) in latents.iter_mut().zip(output.iter().zip(fresh)) {
            let slope = (*x - self.prediction.clean_of_sigma(sigma, *x, *out)) / sigma;
            *x = *x + slope * (down - sigma) + fresh * up;
        }
    }
}
