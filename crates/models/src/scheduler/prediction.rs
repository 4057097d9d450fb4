//! What a model predicts, and the clean latents that follow from it.

use super::Level;

/// What the model predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Prediction {
    /// The noise.
    Epsilon,
    /// The clean latents.
    Sample,
    /// √ᾱ · noise − √(1 − ᾱ) · clean (Salimans and Ho 2022, arXiv 2202.00512, appendix D).
    #[serde(rename = "v_prediction")]
    Velocity,
}

impl Prediction {
    /// The clean latents, given `x` at `level` on a schedule that keeps the variance.
    pub(super) fn clean(self, level: Level, x: f32, out: f32) -> f32 {
        let Level { signal, noise } = level;
        match self {
            Self::Epsilon => (x - noise * out) / signal,
            Self::Sample => out,
            Self::Velocity => signal * x - noise * out,
        }
    }

    /// The noise in `x`, likewise.
    pub(super) fn noise(self, level: Level, x: f32, out: f32) -> f32 {
        let Level { signal, noise } = level;
        match self {
            Self::Epsilon => out,
            Self::Sample => (x - signal * out) / noise,
            Self::Velocity => signal * out + noise * x,
        }
    }

    /// The clean latents, given `x` = clean + `sigma` · noise.
    pub(super) fn clean_of_sigma(self, sigma: f32, x: f32, out: f32) -> f32 {
        let variance = sigma * sigma + 1.;
        match self {
            Self::Epsilon => x - sigma * out,
            Self::Sample => out,
            Self::Velocity => out * (-sigma / variance.sqrt()) + x / variance,
        }
    }
}
