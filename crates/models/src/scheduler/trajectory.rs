//! The way of one picture: which time step comes next, and what to do with the model's answer.

use super::Error;
use crate::torch_rng::TorchRng;

/// How long a way is, and where on it a picture begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Way {
    /// Steps of the whole way.
    pub steps: usize,
    /// The part of the way that is gone: 1 begins with noise alone, less begins with a picture under
    /// the noise of that place (image to image).
    pub strength: f64,
    /// Tokens that a transformer sees of the latents; flow matching may shift its times by it.
    pub token_count: usize,
    /// For flow matching: times from 1 to 1/steps, as FLUX's pipeline asks for. Otherwise they run over
    /// what the model was trained on, as with Stable Diffusion 3.
    pub flow_times_from_one: bool,
}

impl Way {
    /// From noise alone.
    pub fn of(steps: usize) -> Self {
        Self {
            steps,
            strength: 1.,
            token_count: 0,
            flow_times_from_one: false,
        }
    }

    /// Steps that are left out at the start: diffusers' `get_timesteps`.
    ///
    /// # Errors
    /// [`Error::Strength`] when none or more than all would be left.
    pub(super) fn skipped(&self) -> Result<usize, Error> {
        let kept = (self.steps as f64 * self.strength) as usize;
        self.check(kept)?;
        Ok(self.steps - kept)
    }

    /// As [`Way::skipped`], rounded as the pipelines of flow matching do.
    ///
    /// # Errors
    /// [`Error::Strength`].
    pub(super) fn skipped_flow(&self) -> Result<usize, Error> {
        let steps = self.steps as f64;
        let skipped = (steps - steps * self.strength) as usize;
        self.check(self.steps.saturating_sub(skipped))?;
        Ok(skipped)
    }

    fn check(&self, kept: usize) -> Result<(), Error> {
        match self.strength.is_finite() && self.strength <= 1. && kept > 0 {
            true => Ok(()),
            false => Err(Error::Strength {
                strength: self.strength,
                steps: self.steps,
            }),
        }
    }
}

/// What latents are made of at one place: `signal · clean + noise · unit noise`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Factor of the clean latents.
    pub signal: f32,
    /// Factor of the noise.
    pub noise: f32,
}

impl Level {
    /// Of a schedule that keeps the variance, given ᾱ.
    pub(super) fn of_alpha(alpha: f32) -> Self {
        Self {
            signal: alpha.sqrt(),
            noise: (1. - alpha).sqrt(),
        }
    }
}

/// The arithmetic of one sampler; `index` counts the model evaluations of the whole way.
pub(super) trait Rule: Send + Sync {
    /// What unit noise is multiplied by at the start of the whole way.
    fn initial_scale(&self) -> f32 {
        1.
    }

    /// What the latents are divided by before the model sees them.
    fn input_divisor(&self, _index: usize) -> f32 {
        1.
    }

    /// What the latents are made of before evaluation `index`.
    fn level(&self, index: usize) -> Level;

    /// Moves `latents` on, given the model's `output` for them.
    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng);
}

/// The way of one picture.
pub struct Trajectory {
    timesteps: Vec<f32>,
    begin: usize,
    next: usize,
    rule: Box<dyn Rule>,
}

impl Trajectory {
    /// Through `timesteps` from the one numbered `begin`.
    pub(super) fn new(timesteps: Vec<f32>, begin: usize, rule: impl Rule + 'static) -> Self {
        let begin = begin.min(timesteps.len());
        Self {
            timesteps,
            begin,
            next: begin,
            rule: Box::new(rule),
        }
    }

    /// The time step of the next model evaluation; `None` when the picture is done.
    pub fn timestep(&self) -> Option<f32> {
        self.timesteps.get(self.next).copied()
    }

    /// Model evaluations of the way (more than the steps for samplers of second order).
    pub fn evaluations(&self) -> usize {
        self.timesteps.len().saturating_sub(self.begin)
    }

    /// What unit noise is multiplied by to begin without a picture.
    pub fn initial_scale(&self) -> f32 {
        self.rule.initial_scale()
    }

    /// What the latents are divided by before the model sees them.
    pub fn input_divisor(&self) -> f32 {
        self.rule.input_divisor(self.next)
    }

    /// What latents are made of at this place: to begin with a picture, give it that much noise.
    pub fn level(&self) -> Level {
        self.rule.level(self.next)
    }

    /// Moves `latents` on, given the model's `output` for them (guidance applied).
    pub fn advance(&mut self, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) {
        if self.next < self.timesteps.len() {
            self.rule.advance(self.next, output, latents, rng);
            self.next += 1;
        }
    }
}
