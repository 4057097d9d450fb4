//! What DPM-Solver and UniPC share: their time steps and noise levels, and points on the schedule in
//! the words of their papers.

use super::noise::{Defaults, NoiseSchedule};
use super::sigmas::{Last, Spread, Trained};
use super::spacing::Spacing;
use super::{Error, Level};
use crate::config::{self, Fields};

/// A schedule with the noise levels of a multistep solver.
pub(super) struct Multistep {
    pub(super) noise: NoiseSchedule,
    pub(super) last: Last,
    spacing: Spacing,
    spread: Spread,
}

/// Where the two classes differ.
pub(super) struct Differences {
    /// Time steps from here on are not visited.
    pub(super) visited_before: usize,
    /// Whether time steps of spread noise levels are rounded; otherwise they are cut.
    pub(super) rounds: bool,
}

impl Multistep {
    /// Takes the shared fields; `knows_lu` for the class that has `use_lu_lambdas`.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields, knows_lu: bool) -> Result<Self, config::Error> {
        let noise = NoiseSchedule::read(fields, &Defaults::PIXELS, true)?;
        for field in ["use_flow_sigmas", "use_dynamic_shifting"] {
            fields.only(field, false)?;
        }
        // Of use only with one of the two above.
        fields.ignore(&["flow_shift", "time_shift_type"]);
        Ok(Self {
            noise: noise.with_finite_sigmas(),
            spacing: Spacing::read_or_linspace(fields)?,
            spread: Spread::read(fields, knows_lu)?,
            last: fields.take_or("final_sigmas_type", Last::Zero)?,
        })
    }

    /// Whether the noise levels are Karras' or Lu's, whose time steps are rounded.
    pub(super) fn is_rounded_spread(&self) -> bool {
        matches!(self.spread, Spread::Karras | Spread::Lu)
    }

    /// Time steps and noise levels; the last level is where the way ends.
    ///
    /// # Errors
    /// [`Error::Steps`].
    pub(super) fn tables(
        &self,
        steps: usize,
        differences: &Differences,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let trained = Trained::new(self.noise.sigmas());
        let before = differences.visited_before;
        let visited = self.spacing.multistep(self.noise.count(), before, steps)?;
        if visited.is_empty() {
            return Err(Error::Steps {
                steps,
                least: 1,
                most: before,
            });
        }
        let (timesteps, sigmas) = match self.spread {
            Spread::Visited => {
                let sigmas = visited.iter().map(|t| trained.at(*t)).collect();
                (visited, sigmas)
            }
            spread => {
                let sigmas = spread.levels(trained.most().into(), trained.least().into(), steps);
                let timesteps: Vec<f64> = sigmas.iter().map(|s| trained.timestep_of(*s)).collect();
                (timesteps, sigmas)
            }
        };
        let whole = |t: &f64| match differences.rounds {
            true => t.round_ties_even() as f32,
            false => t.trunc() as f32,
        };
        let last = match self.last {
            Last::Zero => 0.,
            Last::SigmaMin => trained.least(),
        };
        let sigmas = sigmas.iter().map(|s| *s as f32).chain([last]).collect();
        Ok((timesteps.iter().map(whole).collect(), sigmas))
    }
}

/// A point on the schedule: α, σ with α² + σ² = 1, and λ = log α − log σ, half the log-SNR.
#[derive(Clone, Copy)]
pub(super) struct Point {
    pub(super) alpha: f32,
    pub(super) sigma: f32,
    pub(super) lambda: f32,
}

impl Point {
    /// From noise over signal.
    pub(super) fn of(sigma: f32) -> Self {
        let alpha = 1. / (sigma * sigma + 1.).sqrt();
        let sigma = sigma * alpha;
        Self {
            alpha,
            sigma,
            lambda: alpha.ln() - sigma.ln(),
        }
    }

    /// What latents are made of here.
    pub(super) fn level(self) -> Level {
        Level {
            signal: self.alpha,
            noise: self.sigma,
        }
    }
}

/// `solver_order`.
///
/// # Errors
/// [`config::Error`].
pub(super) fn read_order(fields: &mut Fields) -> Result<usize, config::Error> {
    let order = fields.take_or("solver_order", 2)?;
    match (1..=3).contains(&order) {
        true => Ok(order),
        false => Err(fields.unsupported("solver_order", &order.into(), "1 to 3")),
    }
}
