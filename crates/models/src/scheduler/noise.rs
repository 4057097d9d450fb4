//! The noise that a model was trained with: ᾱ per time step, and which time steps a sampler visits.

use std::path::PathBuf;

use super::Error;
use crate::config::{self, Fields};

/// What the model predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The clean latents.
    Sample,
    /// √ᾱ · noise − √(1 − ᾱ) · clean (Salimans and Ho 2022).
    VPrediction,
}

#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// A training schedule, as `scheduler_config.json` has it.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    /// ᾱ for each training time step, in f32 as PyTorch computes it.
    pub alphas_cumprod: Vec<f32>,
    /// What the model predicts.
    pub prediction: Prediction,
    /// ᾱ beyond the last step.
    pub final_alpha_cumprod: f32,
    /// Bound of the predicted clean latents.
    pub clip: Option<f32>,
    spacing: Spacing,
    steps_offset: usize,
}

impl NoiseSchedule {
    /// Takes the fields of a schedule; `file` is named in errors.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn from_fields(fields: &mut Fields, file: PathBuf) -> Result<Self, config::Error> {
        fields.only("thresholding", false)?;
        // Of use only with thresholding, or left over from a PNDM configuration as diffusers leaves them.
        fields.ignore(&[
            "dynamic_thresholding_ratio",
            "sample_max_value",
            "skip_prk_steps",
            "variance_type",
        ]);
        let count: usize = fields.take_or("num_train_timesteps", 1000)?;
        if count == 0 || count > 1 << 20 {
            return Err(fields.invalid("num_train_timesteps", "must be 1 to 1048576"));
        }
        let mut betas = read_betas(fields, count)?;
        let rescaled = fields.take_or("rescale_betas_zero_snr", false)?;
        if rescaled {
            betas = rescale_zero_terminal_snr(&betas);
        }
        let prediction = fields.take_or("prediction_type", Prediction::Epsilon)?;
        if rescaled && prediction == Prediction::Epsilon {
            let reason = "cannot be epsilon with rescale_betas_zero_snr: pure noise says nothing of the picture";
            return Err(config::Error::Invalid {
                file,
                field: "prediction_type".into(),
                reason: reason.into(),
            });
        }
        let alphas_cumprod = cumulative_alphas(&betas);
        let to_one = fields.take_or("set_alpha_to_one", true)?;
        let clip_range = fields.take_or("clip_sample_range", 1.)?;
        Ok(Self {
            final_alpha_cumprod: if to_one { 1. } else { alphas_cumprod[0] },
            alphas_cumprod,
            prediction,
            clip: fields.take_or("clip_sample", true)?.then_some(clip_range),
            spacing: fields.take_or("timestep_spacing", Spacing::Leading)?,
            steps_offset: fields.take_or("steps_offset", 0)?,
        })
    }

    /// As diffusers' `StableDiffusionPipeline` changes every schedule it is given: the offset becomes 1
    /// and clean latents are not clipped (a rule for pixels, which latents are not).
    #[must_use]
    pub fn for_latents(mut self) -> Self {
        self.steps_offset = 1;
        self.clip = None;
        self
    }

    /// Training time steps.
    pub fn train_steps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// The time steps of a way of `steps` steps, from noise to picture (Lin et al. 2023, table 2).
    ///
    /// # Errors
    /// [`Error::Steps`].
    pub fn timesteps(&self, steps: usize) -> Result<Vec<usize>, Error> {
        let count = self.train_steps();
        if steps == 0 || steps > count {
            return Err(Error::Steps { steps, most: count });
        }
        let timesteps: Vec<usize> = match self.spacing {
            Spacing::Leading => (0..steps)
                .rev()
                .map(|i| i * (count / steps) + self.steps_offset)
                .collect(),
            Spacing::Trailing => {
                let ratio = count as f64 / steps as f64;
                let at = |i| (count as f64 - ratio * i as f64).round_ties_even();
                (0..steps).map(|i| at(i) as usize - 1).collect()
            }
            Spacing::Linspace if steps == 1 => vec![0],
            Spacing::Linspace => {
                let gap = (count - 1) as f64 / (steps - 1) as f64;
                (0..steps)
                    .rev()
                    .map(|i| (gap * i as f64).round_ties_even() as usize)
                    .collect()
            }
        };
        match timesteps.iter().all(|t| *t < count) {
            true => Ok(timesteps),
            // A leading schedule with an offset runs over its end when it visits every step.
            false => Err(Error::Steps {
                steps,
                most: count - 1,
            }),
        }
    }
}

fn read_betas(fields: &mut Fields, count: usize) -> Result<Vec<f32>, config::Error> {
    let (start, end): (f64, f64) = (
        fields.take_or("beta_start", 1e-4)?,
        fields.take_or("beta_end", 0.02)?,
    );
    let kind: String = fields.take_or("beta_schedule", "linear".to_owned())?;
    if let Some(betas) = fields.take::<Vec<f32>>("trained_betas")? {
        return if betas.len() == count && betas.iter().all(|b| (0. ..=1.).contains(b)) {
            Ok(betas)
        } else {
            Err(fields.invalid(
                "trained_betas",
                format!("must list {count} numbers from 0 to 1"),
            ))
        };
    }
    if !(0. < start && start <= end && end < 1.) {
        return Err(fields.invalid("beta_start", "and `beta_end` must rise within 0 to 1"));
    }
    match kind.as_str() {
        "linear" => Ok(linspace(start, end, count)),
        "scaled_linear" => Ok(linspace(start.sqrt(), end.sqrt(), count)
            .iter()
            .map(|b| b * b)
            .collect()),
        "squaredcos_cap_v2" => Ok(cosine_betas(count)),
        other => {
            let offered = "linear, scaled_linear, squaredcos_cap_v2";
            Err(fields.unsupported("beta_schedule", &other.into(), offered))
        }
    }
}

/// `torch.linspace` in f32: from both ends to the middle.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    let at = |i: usize| {
        if i < count / 2 {
            start + step * i as f32
        } else {
            end - step * (count - 1 - i) as f32
        }
    };
    (0..count).map(at).collect()
}

/// Nichol and Dhariwal 2021 (arXiv 2102.09672), β at most 0.999.
fn cosine_betas(count: usize) -> Vec<f32> {
    let alpha_bar = |t: f64| {
        ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
            .cos()
            .powi(2)
    };
    let at = |i: usize| i as f64 / count as f64;
    (0..count)
        .map(|i| (1. - alpha_bar(at(i + 1)) / alpha_bar(at(i))).min(0.999) as f32)
        .collect()
}

/// `torch.cumprod(1 − β)`: summed up in f64, kept in f32.
fn cumulative_alphas(betas: &[f32]) -> Vec<f32> {
    let mut product = 1f64;
    betas
        .iter()
        .map(|beta| {
            product *= f64::from(1. - beta);
            product as f32
        })
        .collect()
}

/// Lin et al. 2023 (arXiv 2305.08891), algorithm 1: no signal is left at the last step.
fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumulative_alphas(betas).iter().map(|a| a.sqrt()).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else {
        return Vec::new();
    };
    let stretch = first / (first - last);
    let bars: Vec<f32> = roots
        .iter()
        .map(|root| ((root - last) * stretch).powi(2))
        .collect();
    let mut before = 1.;
    bars.iter()
        .map(|bar| 1. - bar / std::mem::replace(&mut before, *bar))
        .collect()
}
