//! Euler's method along a flow (Lipman et al. 2022, arXiv 2210.02747; Esser et al. 2024, arXiv
//! 2403.03206): x ← x + (σ' − σ) · velocity, with time shifted by equation 23 of the latter, as diffusers'
//! `FlowMatchEulerDiscreteScheduler`.

use super::sigmas::Spread;
use super::spacing::linspace;
use super::trajectory::Rule;
use super::{Error, Level, Scheduler, Trajectory, Way};
use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

/// How a dynamic shift bends time.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum ShiftKind {
    /// By e^μ.
    Exponential,
    /// By μ.
    Linear,
}

/// Which way time is shifted.
#[derive(Clone, Copy, Debug)]
enum Shift {
    /// The same for all sizes.
    Fixed(f64),
    /// By the number of tokens, as FLUX: μ on the line through both pairs.
    Dynamic {
        kind: ShiftKind,
        /// (tokens, μ) of the smallest and of the largest picture.
        line: [(f64, f64); 2],
    },
}

/// The sampler of flow matching.
pub(super) struct FlowEuler {
    count: usize,
    shift: Shift,
    /// Where σ ends, if not where the shift leaves it.
    terminal: Option<f64>,
    spread: Spread,
    is_inverted: bool,
    is_stochastic: bool,
}

impl FlowEuler {
    /// Takes the class's fields.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let count: usize = fields.take_or("num_train_timesteps", 1000)?;
        if count == 0 || count > 1 << 20 {
            return Err(fields.invalid("num_train_timesteps", "must be 1 to 1048576"));
        }
        Ok(Self {
            count,
            shift: Shift::read(fields)?,
            terminal: fields.take("shift_terminal")?.filter(|t| *t != 0.),
            spread: Spread::read(fields, false)?,
            is_inverted: fields.take_or("invert_sigmas", false)?,
            is_stochastic: fields.take_or("stochastic_sampling", false)?,
        })
    }

    /// σ of each step, and where the way ends.
    fn sigmas(&self, way: &Way) -> Vec<f64> {
        let count = self.count as f64;
        // The trained range is shifted once before the way's own shift, unless that is dynamic.
        let trained = |sigma: f64| match self.shift {
            Shift::Fixed(shift) => f64::from(shifted(shift, sigma) as f32),
            Shift::Dynamic { .. } => f64::from(sigma as f32),
        };
        let times = match way.flow_times_from_one {
            true => linspace(1., 1. / way.steps as f64, way.steps),
            false => linspace(trained(1.) * count, trained(1. / count) * count, way.steps)
                .iter()
                .map(|t| t / count)
                .collect(),
        };
        let mut sigmas: Vec<f64> = times
            .iter()
            .map(|t| self.shift.apply(way.token_count, *t))
            .collect();
        if let Some(terminal) = self.terminal {
            let scale = (1. - sigmas[sigmas.len() - 1]) / (1. - terminal);
            sigmas.iter_mut().for_each(|s| *s = 1. - (1. - *s) / scale);
        }
        match self.spread {
            Spread::Visited => sigmas,
            spread => spread.levels(sigmas[0], sigmas[sigmas.len() - 1], way.steps),
        }
    }
}

impl Shift {
    fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let fixed = fields.take_or("shift", 1.)?;
        let kind = fields.take_or("time_shift_type", ShiftKind::Exponential)?;
        let line = [
            (
                fields.take_or("base_image_seq_len", 256.)?,
                fields.take_or("base_shift", 0.5)?,
            ),
            (
                fields.take_or("max_image_seq_len", 4096.)?,
                fields.take_or("max_shift", 1.15)?,
            ),
        ];
        Ok(match fields.take_or("use_dynamic_shifting", false)? {
            true => Self::Dynamic { kind, line },
            false => Self::Fixed(fixed),
        })
    }

    fn apply(self, token_count: usize, t: f64) -> f64 {
        match self {
            Self::Fixed(shift) => shifted(shift, t),
            Self::Dynamic { kind, line } => {
                let [(from, low), (to, high)] = line;
                let mu = low + (token_count as f64 - from) * (high - low) / (to - from);
                let weight = match kind {
                    ShiftKind::Exponential => mu.exp(),
                    ShiftKind::Linear => mu,
                };
                weight / (weight + (1. / t - 1.))
            }
        }
    }
}

/// Equation 23 of Esser et al.
fn shifted(shift: f64, t: f64) -> f64 {
    shift * t / (1. + (shift - 1.) * t)
}

impl Scheduler for FlowEuler {
    fn name(&self) -> &'static str {
        "flow_euler"
    }

    fn start(&self, way: &Way) -> Result<Trajectory, Error> {
        if way.steps == 0 || way.steps > self.count {
            return Err(Error::Steps {
                steps: way.steps,
                least: 1,
                most: self.count,
            });
        }
        let mut sigmas: Vec<f32> = self.sigmas(way).iter().map(|s| *s as f32).collect();
        if self.is_inverted {
            sigmas.iter_mut().for_each(|s| *s = 1. - *s);
        }
        let timesteps = sigmas.iter().map(|s| s * self.count as f32).collect();
        sigmas.push(if self.is_inverted { 1. } else { 0. });
        let is_stochastic = self.is_stochastic;
        let rule = FlowRule {
            sigmas,
            is_stochastic,
        };
        Ok(Trajectory::new(timesteps, way.skipped_flow()?, rule))
    }
}

struct FlowRule {
    sigmas: Vec<f32>,
    is_stochastic: bool,
}

impl Rule for FlowRule {
    fn level(&self, index: usize) -> Level {
        Level {
            signal: 1. - self.sigmas[index],
            noise: self.sigmas[index],
        }
    }

    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) {
        let (sigma, next) = (self.sigmas[index], self.sigmas[index + 1]);
        if !self.is_stochastic {
            for (x, out) in latents.iter_mut().zip(output) {
                *x += (next - sigma) * out;
            }
            return;
        }
        let fresh = rng.randn(latents.len());
        for (x, (out, fresh)) in latents.iter_mut().zip(output.iter().zip(fresh)) {
            *x = (1. - next) * (*x - sigma * out) + next * fresh;
        }
    }
}
