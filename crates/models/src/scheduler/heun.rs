//! Heun's method (Karras et al. 2022, arXiv 2206.00364, algorithm 1): each step of Euler's method is
//! taken again with the mean of the slopes at both ends, as diffusers' `HeunDiscreteScheduler` without
//! churn. Every step but the last costs two evaluations.

use super::bound::Bound;
use super::euler::{initial_scale, input_divisor};
use super::noise::{Defaults, NoiseSchedule};
use super::prediction::Prediction;
use super::sigmas::{Spread, Trained};
use super::spacing::Spacing;
use super::trajectory::Rule;
use super::{Error, Level, Scheduler, Trajectory, Way};
use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

/// The sampler of second order.
pub(super) struct Heun {
    noise: NoiseSchedule,
    spacing: Spacing,
    spread: Spread,
    bound: Bound,
}

impl Heun {
    /// Takes the class's fields. `rescale_betas_zero_snr` is none of them: diffusers leaves it out.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        Ok(Self {
            noise: NoiseSchedule::read(fields, &Defaults::HEUN, false)?,
            spacing: Spacing::read_or_linspace(fields)?,
            spread: Spread::read(fields, false)?,
            bound: Bound::read_clip(fields, false)?,
        })
    }
}

impl Scheduler for Heun {
    fn name(&self) -> &'static str {
        "heun"
    }

    fn start(&self, way: &Way) -> Result<Trajectory, Error> {
        let trained = Trained::new(self.noise.sigmas());
        let visited = self.spacing.real(self.noise.count(), way.steps)?;
        let mut timesteps: Vec<f32> = visited.iter().map(|t| *t as f32).collect();
        let mut sigmas: Vec<f64> = timesteps.iter().map(|t| trained.at((*t).into())).collect();
        if self.spread != Spread::Visited {
            sigmas = self
                .spread
                .levels(sigmas[0], sigmas[sigmas.len() - 1], way.steps);
            let timestep = |sigma: &f64| trained.timestep_of(*sigma) as f32;
            timesteps = sigmas.iter().map(timestep).collect();
        }
        let sigmas: Vec<f32> = sigmas.iter().map(|s| *s as f32).chain([0.]).collect();
        // Two evaluations at every level between the ends.
        let twice = timesteps.iter().skip(1).flat_map(|t| [*t, *t]);
        let evaluated = timesteps.iter().take(1).copied().chain(twice).collect();
        let rule = HeunRule {
            initial: initial_scale(self.spacing, &sigmas),
            sigmas,
            prediction: self.noise.prediction,
            bound: self.bound,
            first: None,
        };
        Ok(Trajectory::new(evaluated, 2 * way.skipped()?, rule))
    }
}

struct HeunRule {
    sigmas: Vec<f32>,
    initial: f32,
    prediction: Prediction,
    bound: Bound,
    /// Within a step: where it began, and the slope there.
    first: Option<(Vec<f32>, Vec<f32>)>,
}

impl HeunRule {
    fn slope(&self, sigma: f32, output: &[f32], latents: &[f32]) -> Vec<f32> {
        let pairs = latents.iter().zip(output);
        let mut clean: Vec<f32> = pairs
            .map(|(x, out)| self.prediction.clean_of_sigma(sigma, *x, *out))
            .collect();
        self.bound.apply(&mut clean);
        let pairs = latents.iter().zip(clean);
        pairs.map(|(x, clean)| (x - clean) / sigma).collect()
    }

    /// The noise level that evaluation `index` looks at.
    fn sigma(&self, index: usize) -> f32 {
        self.sigmas[index.div_ceil(2)]
    }
}

impl Rule for HeunRule {
    fn initial_scale(&self) -> f32 {
        self.initial
    }

    fn input_divisor(&self, index: usize) -> f32 {
        input_divisor(self.sigma(index))
    }

    fn level(&self, index: usize) -> Level {
        Level {
            signal: 1.,
            noise: self.sigma(index),
        }
    }

    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) {
        let step = index / 2;
        let gap = self.sigmas[step + 1] - self.sigmas[step];
        let slope = self.slope(self.sigma(index), output, latents);
        match self.first.take() {
            None => {
                let begin = latents.to_vec();
                for (x, slope) in latents.iter_mut().zip(&slope) {
                    *x += slope * gap;
                }
                self.first = Some((begin, slope));
            }
            Some((begin, first)) => {
                let slopes = first.iter().zip(slope).map(|(a, b)| (a + b) / 2.);
                for (x, (begin, slope)) in latents.iter_mut().zip(begin.iter().zip(slopes)) {
                    *x = begin + slope * gap;
                }
            }
        }
    }
}
