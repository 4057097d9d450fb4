//! Samplers: how a prediction of the model becomes the next, less noisy latents.
//!
//! A [`Scheduler`] is read from `scheduler_config.json` and shared; each picture gets a [`Trajectory`]
//! of its own, which holds all state (multistep history, place) and draws any further noise from the
//! picture's own generator. Pictures at different places can so share one batch.

mod ddim;
mod noise;

use std::path::{Path, PathBuf};

pub use ddim::Ddim;
pub use noise::{NoiseSchedule, Prediction};

use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

/// Why a trajectory cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too few or too many steps.
    #[error("{steps} steps: the checkpoint's schedule takes 1 to {most}")]
    Steps {
        /// As asked.
        steps: usize,
        /// The most.
        most: usize,
    },
    /// A name that no sampler has.
    #[error("there is no scheduler `{0}`; there are: {list}", list = known_names())]
    Unknown(String),
    /// A sampler that diffusers has and this version does not.
    #[error("scheduler `{0}` is known but not offered yet; offered: {list}", list = offered_names())]
    NotOffered(&'static str),
}

/// A way from noise to a picture.
pub trait Scheduler: Send + Sync {
    /// The name on the command line, such as `ddim`.
    fn name(&self) -> &'static str;

    /// A trajectory of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Steps`].
    fn start(&self, steps: usize) -> Result<Box<dyn Trajectory>, Error>;
}

/// The way of one picture.
pub trait Trajectory: Send + Sync {
    /// The time step of the next model evaluation; `None` when the picture is done.
    fn timestep(&self) -> Option<f32>;

    /// Model evaluations of the whole way (more than the steps for second-order samplers).
    fn evaluations(&self) -> usize;

    /// What unit noise is multiplied by at the start.
    fn initial_scale(&self) -> f32 {
        1.
    }

    /// What the latents are multiplied by before the model sees them.
    fn input_scale(&self) -> f32 {
        1.
    }

    /// Moves `latents` on, given the model's `output` for them (guidance applied).
    fn advance(&mut self, output: &[f32], latents: &mut [f32], rng: &mut TorchRng);
}

/// The samplers of the command line, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Song et al. 2020 (arXiv 2010.02502), without noise.
    Ddim,
    /// Any other of diffusers' samplers, by its name here.
    Later(&'static str),
}

/// Name here, diffusers' class.
const KNOWN: [(&str, &str); 11] = [
    ("ddim", "DDIMScheduler"),
    ("ddpm", "DDPMScheduler"),
    ("pndm", "PNDMScheduler"),
    ("euler", "EulerDiscreteScheduler"),
    ("euler_a", "EulerAncestralDiscreteScheduler"),
    ("heun", "HeunDiscreteScheduler"),
    ("dpmpp_2m", "DPMSolverMultistepScheduler"),
    ("dpmpp_2m_sde", "DPMSolverMultistepScheduler (sde)"),
    ("unipc", "UniPCMultistepScheduler"),
    ("lcm", "LCMScheduler"),
    ("flow_euler", "FlowMatchEulerDiscreteScheduler"),
];

impl Kind {
    /// The sampler called `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn parse(name: &str) -> Result<Self, Error> {
        let found = KNOWN.iter().find(|(known, _)| *known == name);
        found
            .map(|(known, _)| Self::of(known))
            .ok_or_else(|| Error::Unknown(name.to_owned()))
    }

    /// The sampler that diffusers calls `class`.
    pub fn of_class(class: &str) -> Option<Self> {
        KNOWN
            .iter()
            .find(|(_, known)| *known == class)
            .map(|(name, _)| Self::of(name))
    }

    fn of(name: &'static str) -> Self {
        if name == "ddim" {
            Self::Ddim
        } else {
            Self::Later(name)
        }
    }

    /// Builds it on `noise`, the schedule the model was trained with.
    ///
    /// # Errors
    /// [`Error::NotOffered`].
    pub fn build(self, noise: &NoiseSchedule) -> Result<Box<dyn Scheduler>, Error> {
        match self {
            Self::Ddim => Ok(Box::new(Ddim::new(noise.clone()))),
            Self::Later(name) => Err(Error::NotOffered(name)),
        }
    }
}

/// Names that [`Kind::build`] has an answer for.
pub fn offered() -> Vec<&'static str> {
    KNOWN
        .iter()
        .filter(|(name, _)| Kind::of(name) == Kind::Ddim)
        .map(|(name, _)| *name)
        .collect()
}

fn offered_names() -> String {
    offered().join(", ")
}

fn known_names() -> String {
    KNOWN
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The checkpoint's own sampler and its noise schedule.
#[derive(Clone)]
pub struct Config {
    /// The sampler that `_class_name` says.
    pub kind: Kind,
    /// What the model was trained with.
    pub noise: NoiseSchedule,
}

impl Config {
    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub fn read(file: &Path) -> Result<Self, config::Error> {
        let mut fields = Fields::open(file)?;
        let class: String = fields.require("_class_name")?;
        let kind = Kind::of_class(&class).ok_or_else(|| {
            fields.unsupported(
                "_class_name",
                &class.as_str().into(),
                "diffusers' scheduler classes that generate here",
            )
        })?;
        let noise = NoiseSchedule::from_fields(&mut fields, PathBuf::from(file))?;
        fields.finish()?;
        Ok(Self { kind, noise })
    }
}
