//! The noise that a model was trained with: ᾱ per time step.

use crate::config::{self, Fields};

use super::prediction::Prediction;

/// What a class takes for granted where its configuration says nothing.
pub(super) struct Defaults {
    start: f64,
    end: f64,
    schedule: &'static str,
    /// Schedules beyond the common ones.
    more: &'static [&'static str],
}

impl Defaults {
    /// Of most classes: as Ho et al. trained on pixels.
    pub(super) const PIXELS: Self = Self {
        start: 1e-4,
        end: 0.02,
        schedule: "linear",
        more: &[],
    };
    /// Of Heun's class.
    pub(super) const HEUN: Self = Self {
        start: 0.000_85,
        end: 0.012,
        schedule: "linear",
        more: &["exp"],
    };
    /// Of the consistency model's class.
    pub(super) const LCM: Self = Self {
        start: 0.000_85,
        end: 0.012,
        schedule: "scaled_linear",
        more: &[],
    };
}

/// A training schedule.
#[derive(Clone, Debug)]
pub(super) struct NoiseSchedule {
    /// ᾱ for each training time step, in f32 as PyTorch computes it.
    pub(super) alphas_cumprod: Vec<f32>,
    /// What the model predicts.
    pub(super) prediction: Prediction,
    /// Whether the last step has no signal (Lin et al. 2023).
    ends_in_noise: bool,
    /// Whether `beta_schedule` is the cosine one, which some classes treat on its own.
    pub(super) is_cosine: bool,
}

impl NoiseSchedule {
    /// Takes the fields of a schedule. `rescales` says whether the class knows
    /// `rescale_betas_zero_snr`.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(
        fields: &mut Fields,
        defaults: &Defaults,
        rescales: bool,
    ) -> Result<Self, config::Error> {
        let count: usize = fields.take_or("num_train_timesteps", 1000)?;
        if count == 0 || count > 1 << 20 {
            return Err(fields.invalid("num_train_timesteps", "must be 1 to 1048576"));
        }
        let kind: String = fields.take_or("beta_schedule", defaults.schedule.to_owned())?;
        let mut betas = read_betas(fields, defaults, &kind, count)?;
        let ends_in_noise = rescales && fields.take_or("rescale_betas_zero_snr", false)?;
        if ends_in_noise {
            betas = rescale_zero_terminal_snr(&betas);
        }
        Ok(Self {
            alphas_cumprod: cumulative_alphas(&betas),
            prediction: fields.take_or("prediction_type", Prediction::Epsilon)?,
            ends_in_noise,
            is_cosine: kind == "squaredcos_cap_v2",
        })
    }

    /// Training time steps.
    pub(super) fn count(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// Refuses a model that predicts noise where the last step is noise alone: the sampler would divide
    /// by its signal, 0.
    ///
    /// # Errors
    /// [`config::Error::Invalid`].
    pub(super) fn refuse_noise_from_noise(self, fields: &Fields) -> Result<Self, config::Error> {
        if self.ends_in_noise && self.prediction == Prediction::Epsilon {
            let reason = "cannot be epsilon with rescale_betas_zero_snr: pure noise says nothing of the picture";
            return Err(fields.invalid("prediction_type", reason));
        }
        Ok(self)
    }

    /// For samplers that divide by the signal: the last step keeps the least signal that diffusers
    /// leaves it, σ = 4096.
    #[must_use]
    pub(super) fn with_finite_sigmas(mut self) -> Self {
        if let (Some(last), true) = (self.alphas_cumprod.last_mut(), self.ends_in_noise) {
            *last = 2f32.powi(-24);
        }
        self
    }

    /// ᾱ beyond the last step, from `set_alpha_to_one`.
    ///
    /// # Errors
    /// [`config::Error`].
    pub(super) fn read_final(
        &self,
        fields: &mut Fields,
        default: bool,
    ) -> Result<f32, config::Error> {
        Ok(match fields.take_or("set_alpha_to_one", default)? {
            true => 1.,
            false => self.alphas_cumprod[0],
        })
    }

    /// Noise over signal per time step, in f32.
    pub(super) fn sigmas(&self) -> Vec<f32> {
        let sigma = |alpha: &f32| ((1. - alpha) / alpha).sqrt();
        self.alphas_cumprod.iter().map(sigma).collect()
    }
}

fn read_betas(
    fields: &mut Fields,
    defaults: &Defaults,
    kind: &str,
    count: usize,
) -> Result<Vec<f32>, config::Error> {
    let start: f64 = fields.take_or("beta_start", defaults.start)?;
    let end: f64 = fields.take_or("beta_end", defaults.end)?;
    if let Some(betas) = fields.take::<Vec<f32>>("trained_betas")? {
        let reason = format!("must list {count} numbers from 0 to 1");
        return match betas.len() == count && betas.iter().all(|b| (0. ..=1.).contains(b)) {
            true => Ok(betas),
            false => Err(fields.invalid("trained_betas", reason)),
        };
    }
    if !(0. < start && start <= end && end < 1.) {
        return Err(fields.invalid("beta_start", "and `beta_end` must rise within 0 to 1"));
    }
    let square = |roots: Vec<f32>| roots.iter().map(|b| b * b).collect();
    match kind {
        "linear" => Ok(linspace(start, end, count)),
        "scaled_linear" => Ok(square(linspace(start.sqrt(), end.sqrt(), count))),
        "squaredcos_cap_v2" => Ok(betas_of(count, cosine)),
        "exp" if defaults.more.contains(&"exp") => Ok(betas_of(count, |t| (-12. * t).exp())),
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
    let at = |i: usize| match i < count / 2 {
        true => start + step * i as f32,
        false => end - step * (count - 1 - i) as f32,
    };
    (0..count).map(at).collect()
}

/// ᾱ of Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 17.
fn cosine(t: f64) -> f64 {
    let angle = (t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2;
    angle.cos().powi(2)
}

/// β from a continuous ᾱ, at most 0.999.
fn betas_of(count: usize, alpha_bar: impl Fn(f64) -> f64) -> Vec<f32> {
    let at = |i: usize| alpha_bar(i as f64 / count as f64);
    (0..count)
        .map(|i| (1. - at(i + 1) / at(i)).min(0.999) as f32)
        .collect()
}

/// `torch.cumprod(1 − β)`: multiplied in f64, kept in f32.
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
