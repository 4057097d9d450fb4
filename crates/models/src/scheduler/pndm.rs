//! PNDM (Liu et al. 2022, arXiv 2202.09778), as diffusers' `PNDMScheduler`: linear multistep with the
//! transfer of equation 9, begun by one improved Euler step (`skip_prk_steps`, as Stable Diffusion
//! ships it) or by Runge-Kutta steps of four evaluations each (equation 12).

use super::noise::{Defaults, NoiseSchedule};
use super::prediction::Prediction;
use super::spacing::Spacing;
use super::trajectory::Rule;
use super::{Error, Level, Scheduler, Trajectory, Way};
use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

/// Steps that Runge-Kutta begins with.
const RUNGE_KUTTA_STEPS: usize = 4;

/// The pseudo-numerical sampler.
pub(super) struct Pndm {
    noise: NoiseSchedule,
    spacing: Spacing,
    final_alpha_cumprod: f32,
    skips_runge_kutta: bool,
}

impl Pndm {
    /// Takes the class's fields. `rescale_betas_zero_snr` is none of them: diffusers leaves it out.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let noise = NoiseSchedule::read(fields, &Defaults::PIXELS, false)?;
        if noise.prediction == Prediction::Sample {
            let offered = "PNDM takes epsilon, v_prediction";
            return Err(fields.unsupported("prediction_type", &"sample".into(), offered));
        }
        Ok(Self {
            final_alpha_cumprod: noise.read_final(fields, false)?,
            noise,
            spacing: Spacing::read_or_leading(fields)?,
            skips_runge_kutta: fields.take_or("skip_prk_steps", false)?,
        })
    }

    /// The time steps of all evaluations, and how many of them are Runge-Kutta's.
    fn evaluations(&self, visited: &[usize], stride: usize) -> (Vec<usize>, usize) {
        if self.skips_runge_kutta {
            // The second is evaluated twice: where the first step lands, and again from there.
            let again = visited.iter().take(2).skip(1);
            let all = visited.iter().take(2).chain(again);
            return (all.chain(visited.iter().skip(2)).copied().collect(), 0);
        }
        let (first, rest) = visited.split_at(RUNGE_KUTTA_STEPS - 1);
        let after = visited.iter().skip(1);
        let mut all = Vec::new();
        for (from, to) in first.iter().zip(after) {
            let middle = to + stride / 2;
            all.extend([*from, middle, middle, *to]);
        }
        let count = all.len();
        all.extend(rest);
        (all, count)
    }
}

impl Scheduler for Pndm {
    fn name(&self) -> &'static str {
        "pndm"
    }

    fn start(&self, way: &Way) -> Result<Trajectory, Error> {
        let count = self.noise.count();
        let visited = self.spacing.whole(count, way.steps)?;
        if !self.skips_runge_kutta && way.steps < RUNGE_KUTTA_STEPS {
            return Err(Error::Steps {
                steps: way.steps,
                least: RUNGE_KUTTA_STEPS,
                most: count,
            });
        }
        let stride = count / way.steps;
        let (timesteps, runge_kutta) = self.evaluations(&visited, stride);
        let shown = timesteps.iter().map(|t| *t as f32).collect();
        let rule = PndmRule {
            timesteps,
            runge_kutta,
            stride,
            noise: self.noise.clone(),
            final_alpha_cumprod: self.final_alpha_cumprod,
            done: 0,
            outputs: Vec::new(),
            sum: Vec::new(),
            from: Vec::new(),
        };
        Ok(Trajectory::new(shown, way.skipped()?, rule))
    }
}

struct PndmRule {
    timesteps: Vec<usize>,
    runge_kutta: usize,
    stride: usize,
    noise: NoiseSchedule,
    final_alpha_cumprod: f32,
    /// Evaluations so far.
    done: usize,
    /// Up to four outputs, newest last.
    outputs: Vec<Vec<f32>>,
    /// What Runge-Kutta has added up.
    sum: Vec<f32>,
    /// The latents that a step of several evaluations goes from.
    from: Vec<f32>,
}

impl Rule for PndmRule {
    fn level(&self, index: usize) -> Level {
        let timestep = self.timesteps.get(index).copied().unwrap_or_default();
        Level::of_alpha(self.noise.alphas_cumprod[timestep])
    }

    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) {
        match self.done < self.runge_kutta {
            true => self.advance_runge_kutta(index, output, latents),
            false => self.advance_multistep(index, output, latents),
        }
        self.done += 1;
    }
}

impl PndmRule {
    fn advance_runge_kutta(&mut self, index: usize, output: &[f32], latents: &mut [f32]) {
        let half = match self.done % 2 {
            0 => self.stride / 2,
            _ => 0,
        };
        let to = self.timesteps[index].checked_sub(half);
        let from = self.timesteps[self.done / 4 * 4];
        let stage = self.done % 4;
        if stage == 0 {
            self.sum = vec![0.; output.len()];
            self.outputs.push(output.to_vec());
            self.from = latents.to_vec();
        }
        let weight: f32 = [1. / 6., 1. / 3., 1. / 3., 1. / 6.][stage];
        for (sum, out) in self.sum.iter_mut().zip(output) {
            *sum += weight * out;
        }
        latents.copy_from_slice(&self.from);
        match stage {
            3 => self.transfer(from, to, &self.sum, latents),
            _ => self.transfer(from, to, output, latents),
        }
    }

    fn advance_multistep(&mut self, index: usize, output: &[f32], latents: &mut [f32]) {
        let here = self.timesteps[index];
        let (mut from, mut to) = (here, here.checked_sub(self.stride));
        let mut slope = output.to_vec();
        if self.runge_kutta == 0 && self.done == 1 {
            // The improved Euler step: the first step again, with the mean of both ends.
            (from, to) = (here + self.stride, Some(here));
            self.mix(&[(0, 1.)], 2., &mut slope, true);
            latents.copy_from_slice(&self.from);
        } else {
            self.remember(output, latents);
            let weights: &[(usize, f32)] = match self.outputs.len() {
                1 => &[(0, 1.)],
                2 => &[(0, 3.), (1, -1.)],
                3 => &[(0, 23.), (1, -16.), (2, 5.)],
                _ => &[(0, 55.), (1, -59.), (2, 37.), (3, -9.)],
            };
            let divisor = [1., 2., 12., 24.][weights.len() - 1];
            self.mix(weights, divisor, &mut slope, false);
        }
        self.transfer(from, to, &slope, latents);
    }

    fn remember(&mut self, output: &[f32], latents: &[f32]) {
        if self.done == 0 {
            self.from = latents.to_vec();
        }
        if self.outputs.len() > 3 {
            self.outputs.remove(0);
        }
        self.outputs.push(output.to_vec());
    }

    /// The weighted mean of outputs by age (0 is the newest), on top of `slope` or instead of it.
    fn mix(&self, weights: &[(usize, f32)], divisor: f32, slope: &mut [f32], on_top: bool) {
        for (i, slope) in slope.iter_mut().enumerate() {
            let mut sum = if on_top { *slope } else { 0. };
            for (age, weight) in weights {
                sum += weight * self.outputs[self.outputs.len() - 1 - age][i];
            }
            *slope = sum / divisor;
        }
    }

    /// Equation 9 of the paper: from one time step to another along `slope`.
    fn transfer(&self, from: usize, to: Option<usize>, slope: &[f32], latents: &mut [f32]) {
        let alphas = &self.noise.alphas_cumprod;
        let alpha = alphas[from.min(alphas.len() - 1)];
        let alpha_to = to.map_or(self.final_alpha_cumprod, |to| alphas[to]);
        let (rest, rest_to) = (1. - alpha, 1. - alpha_to);
        let of_latents = (alpha_to / alpha).sqrt();
        let divisor = alpha * rest_to.sqrt() + (alpha * rest * alpha_to).sqrt();
        let here = Level::of_alpha(alpha);
        for (x, out) in latents.iter_mut().zip(slope) {
            let noise = self.noise.prediction.noise(here, *x, *out);
            *x = of_latents * *x - (alpha_to - alpha) * noise / divisor;
        }
    }
}
