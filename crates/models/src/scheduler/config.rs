//! `scheduler_config.json`: the checkpoint's own sampler, and any other built on the same fields, as
//! diffusers' `from_config` does.

use std::path::Path;

use super::ddim::Ddim;
use super::ddpm::Ddpm;
use super::dpm_solver::DpmSolver;
use super::euler::Euler;
use super::euler_ancestral::EulerAncestral;
use super::flow_euler::FlowEuler;
use super::heun::Heun;
use super::lcm::Lcm;
use super::pndm::Pndm;
use super::sigmas::force_karras;
use super::unipc::UniPc;
use super::{Error, Kind, Scheduler, kind};
use crate::config::{self, Fields};

/// What a checkpoint says of its sampler.
#[derive(Clone)]
pub struct Config {
    own: Kind,
    fields: Fields,
}

/// Numbers of other classes, which published files carry over from the class they were made from. They
/// do nothing here, as in diffusers.
const LEFT_OVER: &[&str] = &[
    "algorithm_type",
    "base_image_seq_len",
    "base_shift",
    "clip_sample",
    "clip_sample_range",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "max_image_seq_len",
    "max_shift",
    "original_inference_steps",
    "predict_x0",
    "sample_max_value",
    "set_alpha_to_one",
    "shift",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "solver_order",
    "solver_type",
    "steps_offset",
    "time_shift_type",
    "timestep_scaling",
    "timestep_spacing",
    "timestep_type",
    "variance_type",
];

/// Switches of other classes: off they do nothing, on they ask for what the class does not have.
const SWITCHES: &[&str] = &[
    "invert_sigmas",
    "rescale_betas_zero_snr",
    "stochastic_sampling",
    "thresholding",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
];

impl Config {
    /// Reads the file and builds its sampler once.
    ///
    /// # Errors
    /// [`config::Error`], naming the field that has no answer at its value.
    pub fn read(file: &Path) -> Result<Self, config::Error> {
        let mut fields = Fields::open(file)?;
        let class: String = fields.require("_class_name")?;
        let own = Kind::of_class(&class).ok_or_else(|| {
            fields.unsupported("_class_name", &class.as_str().into(), &kind::classes())
        })?;
        let all = fields.clone();
        build(own, &mut fields)?;
        fields.ignore(LEFT_OVER);
        for field in SWITCHES {
            fields.only(field, false)?;
        }
        fields.finish()?;
        Ok(Self { own, fields: all })
    }

    /// As diffusers' `StableDiffusionPipeline` changes every sampler it is given: the offset becomes 1
    /// and clean latents are not clipped (a rule for pixels, which latents are not).
    #[must_use]
    pub fn for_latents(mut self) -> Self {
        self.fields.set("steps_offset", 1);
        self.fields.set("clip_sample", false);
        self
    }

    /// As diffusers' `StableDiffusionInpaintPipeline` changes PNDM: a way that begins midway would begin
    /// inside of a Runge-Kutta step.
    #[must_use]
    pub fn without_runge_kutta(mut self) -> Self {
        self.fields.set("skip_prk_steps", true);
        self
    }

    /// The checkpoint's own sampler, or the one called `kind` on the fields that it knows of the
    /// checkpoint's. DPM-Solver++ by name has Karras' noise levels.
    ///
    /// # Errors
    /// [`Error::Config`], and [`Error::Unfit`] between flow matching and all else.
    pub fn build(&self, kind: Option<Kind>) -> Result<Box<dyn Scheduler>, Error> {
        let mut fields = self.fields.clone();
        let Some(kind) = kind else {
            return Ok(build(self.own, &mut fields)?);
        };
        let is_flow = [kind, self.own].map(|k| k == Kind::FlowEuler);
        let reason = match is_flow {
            [true, false] => {
                "it follows the velocity of flow matching, and this model predicts none"
            }
            [false, true] => {
                "this model predicts the velocity of flow matching; there is flow_euler"
            }
            _ => "",
        };
        if !reason.is_empty() {
            let name = kind.name();
            return Err(Error::Unfit { name, reason });
        }
        if let Some(algorithm) = match kind {
            Kind::Dpmpp2m => Some("dpmsolver++"),
            Kind::Dpmpp2mSde => Some("sde-dpmsolver++"),
            _ => None,
        } {
            fields.set("algorithm_type", algorithm);
            force_karras(&mut fields);
        }
        Ok(build(kind, &mut fields)?)
    }
}

/// Takes the fields that the class of `kind` knows.
fn build(kind: Kind, fields: &mut Fields) -> Result<Box<dyn Scheduler>, config::Error> {
    Ok(match kind {
        Kind::Ddim => Box::new(Ddim::read(fields)?),
        Kind::Ddpm => Box::new(Ddpm::read(fields)?),
        Kind::Pndm => Box::new(Pndm::read(fields)?),
        Kind::Euler => Box::new(Euler::read(fields)?),
        Kind::EulerAncestral => Box::new(EulerAncestral::read(fields)?),
        Kind::Heun => Box::new(Heun::read(fields)?),
        Kind::Dpmpp2m | Kind::Dpmpp2mSde => Box::new(DpmSolver::read(fields)?),
        Kind::UniPc => Box::new(UniPc::read(fields)?),
        Kind::Lcm => Box::new(Lcm::read(fields)?),
        Kind::FlowEuler => Box::new(FlowEuler::read(fields)?),
    })
}
