//! The samplers by name.

use super::Error;

/// A sampler of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Song et al. 2020, without noise.
    Ddim,
    /// Ho et al. 2020.
    Ddpm,
    /// Liu et al. 2022.
    Pndm,
    /// Karras et al. 2022, first order.
    Euler,
    /// Euler with fresh noise at each step.
    EulerAncestral,
    /// Karras et al. 2022, second order.
    Heun,
    /// DPM-Solver++ (Lu et al. 2022); by name with Karras' noise levels.
    Dpmpp2m,
    /// Its stochastic form; by name with Karras' noise levels.
    Dpmpp2mSde,
    /// Zhao et al. 2023.
    UniPc,
    /// Latent consistency, Luo et al. 2023.
    Lcm,
    /// Flow matching, Esser et al. 2024.
    FlowEuler,
}

/// Name here, diffusers' class, in the order of the command line. A class that stands twice is the
/// first of its lines.
const KNOWN: [(Kind, &str, &str); 11] = [
    (Kind::Ddim, "ddim", "DDIMScheduler"),
    (Kind::Ddpm, "ddpm", "DDPMScheduler"),
    (Kind::Pndm, "pndm", "PNDMScheduler"),
    (Kind::Euler, "euler", "EulerDiscreteScheduler"),
    (
        Kind::EulerAncestral,
        "euler_a",
        "EulerAncestralDiscreteScheduler",
    ),
    (Kind::Heun, "heun", "HeunDiscreteScheduler"),
    (Kind::Dpmpp2m, "dpmpp_2m", "DPMSolverMultistepScheduler"),
    (
        Kind::Dpmpp2mSde,
        "dpmpp_2m_sde",
        "DPMSolverMultistepScheduler",
    ),
    (Kind::UniPc, "unipc", "UniPCMultistepScheduler"),
    (Kind::Lcm, "lcm", "LCMScheduler"),
    (
        Kind::FlowEuler,
        "flow_euler",
        "FlowMatchEulerDiscreteScheduler",
    ),
];

impl Kind {
    /// The sampler called `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn parse(name: &str) -> Result<Self, Error> {
        let found = KNOWN.iter().find(|(_, known, _)| *known == name);
        found
            .map(|(kind, _, _)| *kind)
            .ok_or_else(|| Error::Unknown(name.to_owned()))
    }

    /// All of them, in the order of the command line.
    pub fn all() -> impl Iterator<Item = Self> {
        KNOWN.iter().map(|(kind, _, _)| *kind)
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        let found = KNOWN.iter().find(|(kind, _, _)| *kind == self);
        found.map_or("", |(_, name, _)| name)
    }

    /// The sampler that diffusers calls `class`.
    pub(super) fn of_class(class: &str) -> Option<Self> {
        let found = KNOWN.iter().find(|(_, _, known)| *known == class);
        found.map(|(kind, _, _)| *kind)
    }
}

/// All names, for the eye.
pub(super) fn names() -> String {
    let names: Vec<&str> = KNOWN.iter().map(|(_, name, _)| *name).collect();
    names.join(", ")
}

/// All classes, for the eye.
pub(super) fn classes() -> String {
    let mut classes: Vec<&str> = KNOWN.iter().map(|(_, _, class)| *class).collect();
    classes.dedup();
    classes.join(", ")
}
