//! Noise levels σ of a way, and the time steps that belong to them.

use super::beta_quantile::beta_quantile;
use super::spacing::linspace;
use crate::config::{self, Fields};

/// How the noise levels of a way lie between the largest and the smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// As the visited time steps have them.
    Visited,
    /// Karras et al. 2022 (arXiv 2206.00364), equation 5, ρ = 7.
    Karras,
    /// Even in log σ.
    Exponential,
    /// Quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173).
    Beta,
    /// Even in log-SNR (Lu et al. 2022, arXiv 2206.00927).
    Lu,
}

/// What the last noise level of a way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Last {
    /// None.
    Zero,
    /// The least of the training schedule.
    SigmaMin,
}

/// Fields that switch a spread on, and the spread.
const SWITCHES: [(&str, Spread); 4] = [
    ("use_karras_sigmas", Spread::Karras),
    ("use_exponential_sigmas", Spread::Exponential),
    ("use_beta_sigmas", Spread::Beta),
    ("use_lu_lambdas", Spread::Lu),
];

impl Spread {
    /// Takes the switches that the class knows; two at once are refused.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields, knows_lu: bool) -> Result<Self, config::Error> {
        let mut found = Self::Visited;
        let known = SWITCHES.len() - usize::from(!knows_lu);
        for (field, spread) in &SWITCHES[..known] {
            let is_on = fields.take_or(field, false)?;
            if is_on && found != Self::Visited {
                return Err(fields.invalid(field, "cannot be on with another spread of sigmas"));
            }
            if is_on {
                found = *spread;
            }
        }
        Ok(found)
    }

    /// `count` noise levels from `most` down to `least`; nothing for [`Spread::Visited`].
    pub(super) fn levels(self, most: f64, least: f64, count: usize) -> Vec<f64> {
        let ramp = linspace(0., 1., count).into_iter();
        match self {
            Self::Visited => Vec::new(),
            Self::Karras => {
                let (from, to) = (most.powf(1. / 7.), least.powf(1. / 7.));
                ramp.map(|r| (from + r * (to - from)).powf(7.)).collect()
            }
            Self::Exponential => linspace(most.ln(), least.ln(), count)
                .into_iter()
                .map(f64::exp)
                .collect(),
            Self::Beta => ramp
                .map(|r| least + beta_quantile(1. - r) * (most - least))
                .collect(),
            Self::Lu => {
                // Here log σ is even, which is log-SNR up to its sign. NumPy keeps it in f32's values.
                let (from, to) = (
                    f64::from((most as f32).ln()),
                    f64::from((least as f32).ln()),
                );
                ramp.map(|r| (from + r * (to - from)).exp()).collect()
            }
        }
    }
}

/// Removes every switch, and sets Karras': what a name on the command line stands for.
pub(super) fn force_karras(fields: &mut Fields) {
    for (field, spread) in SWITCHES {
        fields.set(field, spread == Spread::Karras);
    }
}

/// A training schedule's noise levels, by time step.
pub(super) struct Trained {
    sigmas: Vec<f32>,
    logs: Vec<f32>,
}

impl Trained {
    pub(super) fn new(sigmas: Vec<f32>) -> Self {
        let logs = sigmas.iter().map(|s| s.ln()).collect();
        Self { sigmas, logs }
    }

    /// The least, at the first time step.
    pub(super) fn least(&self) -> f32 {
        self.sigmas.first().copied().unwrap_or_default()
    }

    /// The most, at the last time step.
    pub(super) fn most(&self) -> f32 {
        self.sigmas.last().copied().unwrap_or_default()
    }

    /// σ at a time step, linear between whole ones: `numpy.interp`.
    pub(super) fn at(&self, timestep: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let low = (timestep.max(0.) as usize).min(last);
        let (from, to) = (self.sigmas[low], self.sigmas[(low + 1).min(last)]);
        (f64::from(to) - f64::from(from)) * (timestep - low as f64).clamp(0., 1.) + f64::from(from)
    }

    /// The time step that has this σ, linear in log σ between whole ones.
    pub(super) fn timestep_of(&self, sigma: f64) -> f64 {
        let log = sigma.max(1e-10).ln();
        let below = self.logs.iter().rposition(|known| f64::from(*known) <= log);
        let low = below.unwrap_or(0).min(self.logs.len().saturating_sub(2));
        let high = (low + 1).min(self.logs.len() - 1);
        let (from, to) = (self.logs[low], self.logs[high]);
        let part = ((f64::from(from) - log) / f64::from(from - to)).clamp(0., 1.);
        (1. - part) * low as f64 + part * high as f64
    }
}
