//! Stable Diffusion from a directory in diffusers' layout: text → noise → picture, step by step.
//!
//! A picture in the making is a [`Denoising`]: it owns its latents, its place in the sampler and its
//! random numbers. [`Pipeline::step`] moves any set of them on by one model evaluation, so a service
//! can let pictures join and leave between steps. A picture's numbers never depend on its company.

mod denoising;
mod error;
mod layout;
mod prompt;
mod render;
mod request;

use std::path::Path;

pub use self::denoising::{Denoising, Picture};
pub use self::error::Error;
pub use self::request::{
    MAX_GUIDANCE, MAX_PROMPT_BYTES, MAX_PROMPT_CHUNKS, MAX_PROMPT_TOKENS, MAX_SIDE_PX,
    MAX_SIDE_RATIO, PromptSyntax, Request,
};
use crate::clip_text::ClipText;
use crate::clip_tokenizer::ClipTokenizer;
use crate::config::LoadError;
use crate::scheduler;
use crate::unet::Unet;
use crate::vae::Vae;
use crate::weights::checkpoint_sha256;

/// A loaded checkpoint.
pub struct Pipeline {
    name: String,
    sha256: String,
    parameter_count: u64,
    tokenizer: ClipTokenizer,
    text: ClipText,
    unet: Unet,
    vae: Vae,
    scheduler: scheduler::Config,
}

impl Pipeline {
    /// Loads a directory with `model_index.json`; `name` is what it is served as.
    ///
    /// # Errors
    /// [`LoadError`], naming the file and the field or tensor. Nothing is loaded by halves.
    pub fn load(folder: &Path, name: &str) -> Result<Self, LoadError> {
        layout::check_index(&folder.join("model_index.json"))?;
        let scheduler = scheduler::Config::read(&folder.join("scheduler/scheduler_config.json"))?;
        let pipeline = Self {
            name: name.to_owned(),
            sha256: checkpoint_sha256(folder, &layout::checkpoint_files(folder)?)?,
            parameter_count: layout::count_parameters(folder)?,
            tokenizer: ClipTokenizer::load(&folder.join("tokenizer"))?,
            text: ClipText::load(&folder.join("text_encoder"))?,
            unet: Unet::load(&folder.join("unet"))?,
            vae: Vae::load(&folder.join("vae"))?,
            scheduler: scheduler::Config {
                noise: scheduler.noise.for_latents(),
                ..scheduler
            },
        };
        pipeline.check_parts(folder)?;
        Ok(pipeline)
    }

    /// The name it is served as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 over all files of the checkpoint, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Numbers in the weights of all parts.
    pub fn parameter_count(&self) -> u64 {
        self.parameter_count
    }
}
