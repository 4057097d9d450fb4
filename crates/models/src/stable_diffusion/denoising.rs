//! A picture in the making, and when it is made.

use std::sync::Arc;

use super::denoiser::Context;
use super::guidance::Guidance;
use super::original::Surroundings;
use crate::scheduler::{Level, Trajectory};
use crate::torch_rng::TorchRng;

/// A finished picture, 8 bits per channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width_px: usize,
    /// Height in pixels.
    pub height_px: usize,
    /// Red, green, blue, row by row.
    pub rgb: Vec<u8>,
}

/// Latents without noise.
const CLEAN: Level = Level {
    signal: 1.,
    noise: 0.,
};

/// A picture in the making.
pub struct Denoising {
    /// `(channels, height, width)`, row-major.
    pub(super) latents: Vec<f32>,
    pub(super) shape: [usize; 3],
    pub(super) trajectory: Trajectory,
    pub(super) rng: TorchRng,
    pub(super) guidance: Guidance,
    pub(super) text: Arc<Context>,
    pub(super) negative: Option<Arc<Context>>,
    pub(super) surroundings: Surroundings,
    pub(super) done: usize,
    /// What the caller should know, such as a prompt that was cut.
    pub warnings: Vec<String>,
}

impl Denoising {
    /// Whether it only needs to be decoded.
    pub fn is_done(&self) -> bool {
        self.trajectory.timestep().is_none()
    }

    /// Model evaluations made.
    pub fn evaluations_done(&self) -> usize {
        self.done
    }

    /// Model evaluations of the whole way.
    pub fn evaluations(&self) -> usize {
        self.trajectory.evaluations()
    }

    /// Takes its predictions, guides, and moves on.
    pub(super) fn advance(&mut self, rows: &mut impl Iterator<Item = Vec<f32>>) {
        let mut output = rows.next().unwrap_or_default();
        if self.negative.is_some() {
            let text = rows.next().unwrap_or_default();
            self.guidance.apply(&mut output, &text);
        }
        self.trajectory
            .advance(&output, &mut self.latents, &mut self.rng);
        self.done += 1;
        let level = match self.is_done() {
            true => CLEAN,
            false => self.trajectory.level(),
        };
        self.surroundings.restore(level, &mut self.latents);
    }
}
