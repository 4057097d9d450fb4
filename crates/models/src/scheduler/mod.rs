//! Samplers: how predictions of a model turn noise into latents, step by step.
//!
//! [`Config`] reads `scheduler_config.json` and builds a [`Scheduler`]: the checkpoint's own, or another
//! by name, on the same fields. Each picture gets a [`Trajectory`] of its own, which holds all state
//! (place, multistep history) and draws any further noise from the picture's generator. Pictures at
//! different places can so share one batch.
//!
//! Everything follows diffusers 0.42 number by number: tables in f64 where NumPy makes them, and steps
//! in f32 as PyTorch computes them. One file per sampler, each with its paper and equation.

mod beta_quantile;
mod bound;
mod config;
mod ddim;
mod ddpm;
mod dpm_solver;
mod euler;
mod euler_ancestral;
mod flow_euler;
mod heun;
mod kind;
mod lcm;
mod multistep;
mod noise;
mod pndm;
mod prediction;
mod sigmas;
mod spacing;
mod trajectory;
mod unipc;
mod unipc_weights;

pub use config::Config;
pub use kind::Kind;
pub use trajectory::{Level, Trajectory, Way};

/// Why a sampler cannot be built, or a trajectory cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too few or too many steps.
    #[error("{steps} steps: the checkpoint's schedule takes {least} to {most}")]
    Steps {
        /// As asked.
        steps: usize,
        /// The fewest.
        least: usize,
        /// The most.
        most: usize,
    },
    /// Image to image with nothing to do, or beyond pure noise.
    #[error("strength {strength} of {steps} steps: must be at most 1 and leave one step")]
    Strength {
        /// As asked.
        strength: f64,
        /// As asked.
        steps: usize,
    },
    /// A name that no sampler has.
    #[error("there is no scheduler `{0}`; there are: {list}", list = kind::names())]
    Unknown(String),
    /// The model was trained for another family of samplers.
    #[error("scheduler `{name}` does not fit: {reason}")]
    Unfit {
        /// The sampler's name.
        name: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A field of the configuration that this sampler has no answer for.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
}

impl Error {
    /// The sentence without the path of any file: what a caller may read.
    pub fn without_file(&self) -> String {
        match self {
            Self::Config(error) => error.without_file(),
            _ => self.to_string(),
        }
    }
}

/// A way from noise to a picture.
pub trait Scheduler: Send + Sync {
    /// The name on the command line, such as `ddim`.
    fn name(&self) -> &'static str;

    /// A trajectory of its own for one picture.
    ///
    /// # Errors
    /// [`Error::Steps`] and [`Error::Strength`].
    fn start(&self, way: &Way) -> Result<Trajectory, Error>;
}
