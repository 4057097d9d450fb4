//! Euler's method on the probability flow of Karras et al. 2022 (arXiv 2206.00364), algorithm 1 of first
//! order: x ← x + (σ' − σ) · (x − clean) / σ, as diffusers' `EulerDiscreteScheduler` without churn.

use super::noise::{Defaults, NoiseSchedule};
use super::prediction::Prediction;
use super::sigmas::{Last, Spread, Trained};
use super::spacing::{Spacing, linspace};
use super::trajectory::Rule;
use super::{Error, Level, Scheduler, Trajectory, Way};
use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

/// How the noise levels between whole time steps are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Interpolation {
    /// Linear in the visited time steps.
    Linear,
    /// Even in log σ from the most to the least, whatever is visited.
    LogLinear,
}

/// What the model is told of a noise level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum TimestepKind {
    /// The time step.
    Discrete,
    /// ¼ log σ, for models that predict v.
    Continuous,
}

/// The sampler of first order.
pub(super) struct Euler {
    noise: NoiseSchedule,
    spacing: Spacing,
    spread: Spread,
    interpolation: Interpolation,
    timestep_kind: TimestepKind,
    last: Last,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
}

impl Euler {
    /// Takes the class's fields.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let noise = NoiseSchedule::read(fields, &Defaults::PIXELS, true)?;
        Ok(Self {
            noise: noise.with_finite_sigmas(),
            spacing: Spacing::read_or_linspace(fields)?,
            spread: Spread::read(fields, false)?,
            interpolation: fields.take_or("interpolation_type", Interpolation::Linear)?,
            timestep_kind: fields.take_or("timestep_type", TimestepKind::Discrete)?,
            last: fields.take_or("final_sigmas_type", Last::Zero)?,
            sigma_min: fields.take("sigma_min")?,
            sigma_max: fields.take("sigma_max")?,
        })
    }

    /// Time steps and noise levels; the last level is where the way ends.
    fn tables(&self, steps: usize) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let trained = Trained::new(self.noise.sigmas());
        let visited = self.spacing.real(self.noise.count(), steps)?;
        let mut timesteps: Vec<f32> = visited.iter().map(|t| *t as f32).collect();
        let mut sigmas = match self.interpolation {
            Interpolation::Linear => timesteps.iter().map(|t| trained.at((*t).into())).collect(),
            Interpolation::LogLinear => log_linear(&trained, steps),
        };
        if self.spread != Spread::Visited {
            let most = self.sigma_max.unwrap_or_else(|| sigmas[0]);
            let least = self.sigma_min.unwrap_or_else(|| sigmas[sigmas.len() - 1]);
            sigmas = self.spread.levels(most, least, steps);
            let timestep = |sigma: &f64| trained.timestep_of(*sigma) as f32;
            timesteps = sigmas.iter().map(timestep).collect();
        }
        let mut sigmas: Vec<f32> = sigmas.iter().map(|s| *s as f32).collect();
        if self.timestep_kind == TimestepKind::Continuous
            && self.noise.prediction == Prediction::Velocity
        {
            timesteps = sigmas.iter().map(|s| 0.25 * s.ln()).collect();
        }
        sigmas.push(match self.last {
            Last::Zero => 0.,
            Last::SigmaMin => trained.least(),
        });
        Ok((timesteps, sigmas))
    }
}

/// One level more than steps, of which diffusers takes the last for the way's end.
fn log_linear(trained: &Trained, steps: usize) -> Vec<f64> {
    let (most, least) = (trained.most().ln(), trained.least().ln());
    linspace(most.into(), least.into(), steps + 1)
        .into_iter()
        .map(|log| f64::from((log as f32).exp()))
        .collect()
}

impl Scheduler for Euler {
    fn name(&self) -> &'static str {
        "euler"
    }

    fn start(&self, way: &Way) -> Result<Trajectory, Error> {
        let (timesteps, sigmas) = self.tables(way.steps)?;
        let rule = EulerRule {
            initial: initial_scale(self.spacing, &sigmas),
            sigmas,
            prediction: self.noise.prediction,
        };
        Ok(Trajectory::new(timesteps, way.skipped()?, rule))
    }
}

/// What unit noise is multiplied by, so that it has the variance of the first level.
pub(super) fn initial_scale(spacing: Spacing, sigmas: &[f32]) -> f32 {
    let most = sigmas.iter().copied().fold(0., f32::max);
    match spacing.starts_at_noise() {
        true => most,
        false => (most * most + 1.).sqrt(),
    }
}

/// What latents are divided by, so that the model sees the variance that it was trained on.
pub(super) fn input_divisor(sigma: f32) -> f32 {
    (sigma * sigma + 1.).sqrt()
}

struct EulerRule {
    sigmas: Vec<f32>,
    initial: f32,
    prediction: Prediction,
}

impl Rule for EulerRule {
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

    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) {
        let (sigma, next) = (self.sigmas[index], self.sigmas[index + 1]);
        for (x, out) in latents.iter_mut().zip(output) {
            let slope = (*x - self.prediction.clean_of_sigma(sigma, *x, *out)) / sigma;
            *x += slope * (next - sigma);
        }
    }
}
