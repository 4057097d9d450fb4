//! Latent consistency (Luo et al. 2023, arXiv 2310.04378): multistep consistency sampling (algorithm 3),
//! with the boundary scalings of Song et al. 2023 (arXiv 2303.01469, equation 25), as diffusers'
//! `LCMScheduler`. For models that were distilled to it.

use super::bound::Bound;
use super::noise::{Defaults, NoiseSchedule};
use super::trajectory::Rule;
use super::{Error, Level, Scheduler, Trajectory, Way};
use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

/// The spread of the data in the boundary scalings.
const SIGMA_DATA: f32 = 0.5;

/// The sampler of consistency models.
pub(super) struct Lcm {
    noise: NoiseSchedule,
    bound: Bound,
    original_steps: usize,
    timestep_scaling: f32,
}

impl Lcm {
    /// Takes the class's fields.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let noise = NoiseSchedule::read(fields, &Defaults::LCM, true)?;
        let noise = noise.refuse_noise_from_noise(fields)?;
        // The class has these, and its steps are those of the distillation all the same.
        fields.ignore(&["timestep_spacing", "steps_offset", "set_alpha_to_one"]);
        let original_steps = fields.take_or("original_inference_steps", 50)?;
        if original_steps == 0 || original_steps > noise.count() {
            let reason = format!("must be 1 to {}", noise.count());
            return Err(fields.invalid("original_inference_steps", reason));
        }
        Ok(Self {
            noise,
            bound: Bound::read(fields, false)?,
            original_steps,
            timestep_scaling: fields.take_or("timestep_scaling", 10.)?,
        })
    }

    /// Evenly among the steps of the distillation, from the last.
    fn visited(&self, steps: usize) -> Result<Vec<usize>, Error> {
        let original = self.original_steps;
        if steps == 0 || steps > original {
            return Err(Error::Steps {
                steps,
                least: 1,
                most: original,
            });
        }
        let stride = self.noise.count() / original;
        let gap = original as f64 / steps as f64;
        let skipped = (0..steps).map(|i| (i as f64 * gap).floor() as usize);
        Ok(skipped.map(|s| (original - s) * stride - 1).collect())
    }
}

impl Scheduler for Lcm {
    fn name(&self) -> &'static str {
        "lcm"
    }

    fn start(&self, way: &Way) -> Result<Trajectory, Error> {
        let visited = self.visited(way.steps)?;
        let alphas = visited.iter().map(|t| self.noise.alphas_cumprod[*t]);
        let timesteps: Vec<f32> = visited.iter().map(|t| *t as f32).collect();
        let rule = LcmRule {
            alphas: alphas.collect(),
            scaled: timesteps
                .iter()
                .map(|t| t * self.timestep_scaling)
                .collect(),
            noise: self.noise.clone(),
            bound: self.bound,
        };
        Ok(Trajectory::new(timesteps, way.skipped()?, rule))
    }
}

struct LcmRule {
    /// ᾱ at each step.
    alphas: Vec<f32>,
    /// The time step that the boundary scalings see.
    scaled: Vec<f32>,
    noise: NoiseSchedule,
    bound: Bound,
}

impl Rule for LcmRule {
    fn level(&self, index: usize) -> Level {
        Level::of_alpha(self.alphas.get(index).copied().unwrap_or(1.))
    }

    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) {
        let (here, prediction) = (self.level(index), self.noise.prediction);
        let mut clean: Vec<f32> = latents
            .iter()
            .zip(output)
            .map(|(x, out)| prediction.clean(here, *x, *out))
            .collect();
        self.bound.apply(&mut clean);
        let scaled = self.scaled[index];
        let whole = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        let (skip, take) = (SIGMA_DATA * SIGMA_DATA / whole, scaled / whole.sqrt());
        for (x, clean) in latents.iter_mut().zip(clean) {
            *x = take * clean + skip * *x;
        }
        if index + 1 < self.alphas.len() {
            let next = self.level(index + 1);
            let fresh = rng.randn(latents.len());
            for (x, fresh) in latents.iter_mut().zip(fresh) {
                *x = next.signal * *x + next.noise * fresh;
            }
        }
    }
}
