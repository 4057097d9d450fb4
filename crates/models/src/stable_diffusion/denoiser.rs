//! The network that denoises: a UNet, or one of the transformers that came after it.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::layout::Family;
use super::{Error, Pipeline, Request};
use crate::config::LoadError;
use crate::mmdit::flux::{self, Flux};
use crate::mmdit::{self, sd3::Sd3};
use crate::ops::precision::Precision;
use crate::scheduler::Way;
use crate::unet::{self, AdditionConfig, Unet};
use crate::weights::Adapters;

/// The network that denoises.
pub(super) enum Denoiser {
    Unet(Box<Unet>),
    Sd3(Sd3),
    Flux(Flux),
}

/// A prompt as one of them wants it.
pub(super) enum Context {
    Unet(unet::Context),
    Joint(mmdit::Context),
}

impl Denoiser {
    /// Loads the part of `folder` that denoises, with adapters merged, computing in `precision`.
    pub(super) fn load(
        folder: &Path,
        family: Family,
        adapters: Adapters,
        precision: Precision,
    ) -> std::result::Result<Self, LoadError> {
        let transformer = folder.join("transformer");
        Ok(match family {
            Family::Sd3 => Self::Sd3(Sd3::load(&transformer, adapters, precision)?),
            Family::Flux => Self::Flux(Flux::load(&transformer, adapters, precision)?),
            Family::Sd | Family::Xl => {
                let unet = Unet::load_adapted(&folder.join("unet"), adapters, precision)?;
                Self::Unet(Box::new(unet))
            }
        })
    }

    /// Channels of the latents.
    pub(super) fn channels(&self) -> usize {
        match self {
            Self::Unet(unet) => unet.config().in_channels,
            Self::Sd3(model) => model.config().channels,
            Self::Flux(model) => model.config().channels,
        }
    }

    /// Width of the text states.
    pub(super) fn text_dim(&self) -> usize {
        match self {
            Self::Unet(unet) => unet.config().cross_attention_dim,
            Self::Sd3(model) => model.config().text_dim,
            Self::Flux(model) => model.config().text_dim,
        }
    }

    /// Conditions beside the text states that a UNet takes, such as XL's.
    pub(super) fn addition(&self) -> Option<AdditionConfig> {
        match self {
            Self::Unet(unet) => unet.config().addition,
            Self::Sd3(_) | Self::Flux(_) => None,
        }
    }

    /// A transformer's context for text states `(tokens, text_dim)` and a pooled text.
    pub(super) fn joint_context(
        &self,
        rows: &Tensor,
        pooled: &[f32],
        request: &Request,
    ) -> std::result::Result<Arc<Context>, Error> {
        let context = match self {
            Self::Unet(_) => return Err(mixed_up().into()),
            Self::Sd3(model) => model.context(rows, pooled)?,
            Self::Flux(model) => model.context(rows, pooled, request.guidance)?,
        };
        Ok(Arc::new(Context::Joint(context)))
    }

    /// The side of the square that it was trained on, in latents.
    pub(super) fn own_side(&self) -> usize {
        match self {
            Self::Unet(unet) => unet.config().sample_size.unwrap_or(64),
            Self::Sd3(model) => model.config().sample_size,
            Self::Flux(_) => flux::SAMPLE_SIZE,
        }
    }

    /// Latents that a side must be a multiple of.
    pub(super) fn patch(&self) -> usize {
        match self {
            Self::Unet(_) => 1,
            Self::Sd3(model) => model.config().patch_size,
            Self::Flux(_) => flux::PATCH_SIZE,
        }
    }

    /// The longest side, in latents, where the network has one.
    pub(super) fn max_side(&self) -> usize {
        match self {
            Self::Sd3(model) => {
                let config = model.config();
                config.max_side.saturating_mul(config.patch_size)
            }
            Self::Unet(_) | Self::Flux(_) => usize::MAX,
        }
    }

    /// Whether guidance is by a negative prompt. FLUX was distilled: it takes the strength as an input or
    /// not at all, and one evaluation a step.
    pub(super) fn takes_negative(&self) -> bool {
        !matches!(self, Self::Flux(_))
    }

    /// The prediction for `latents` `(batch, channels, height, width)`, each sample at its own time step
    /// with its own text: the same shape.
    pub(super) fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[f32],
        contexts: &[&Context],
    ) -> Result<Tensor> {
        let joint = || {
            contexts
                .iter()
                .map(|c| c.joint())
                .collect::<Result<Vec<_>>>()
        };
        match self {
            Self::Unet(unet) => {
                let own: Vec<_> = contexts.iter().map(|c| c.unet()).collect::<Result<_>>()?;
                unet.forward(latents, timesteps, &own)
            }
            Self::Sd3(model) => model.forward(latents, timesteps, &joint()?),
            Self::Flux(model) => model.forward(latents, timesteps, &joint()?),
        }
    }
}

impl Context {
    fn unet(&self) -> Result<&unet::Context> {
        match self {
            Self::Unet(context) => Ok(context),
            Self::Joint(_) => Err(mixed_up()),
        }
    }

    fn joint(&self) -> Result<&mmdit::Context> {
        match self {
            Self::Joint(context) => Ok(context),
            Self::Unet(_) => Err(mixed_up()),
        }
    }
}

/// A picture of one pipeline was given to another: a bug in the caller.
fn mixed_up() -> candle_core::Error {
    candle_core::Error::Msg("text states of another kind of model".to_owned())
}

impl Pipeline {
    /// The sampler's way for a request: flow matching shifts its times by the number of tokens, and begins
    /// FLUX's at 1.
    pub(super) fn way(&self, request: &Request) -> Way {
        let side_px = self.size_multiple_px();
        Way {
            token_count: (request.height_px / side_px) * (request.width_px / side_px),
            flow_times_from_one: matches!(self.denoiser, Denoiser::Flux(_)),
            ..Way::of(request.steps)
        }
    }
}
