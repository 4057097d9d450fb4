//! Stable Diffusion from a directory in diffusers' layout: text → noise → picture, step by step, from
//! noise alone or from a picture, all of it or a part.
//!
//! Versions 1 and 2 (Rombach et al. 2022, arXiv 2112.10752) and XL with Turbo (Podell et al. 2023,
//! arXiv 2307.01952; Sauer et al. 2023, arXiv 2311.17042), and fine-tunes of any size of them.
//!
//! A picture in the making is a [`Denoising`]: it owns its latents, its place in the sampler and its
//! random numbers. [`Pipeline::step`] moves any set of them on by one model evaluation, so a service
//! can let pictures join and leave between steps. A picture's numbers never depend on its company.

mod denoising;
mod error;
mod guidance;
mod layout;
mod original;
mod prompt;
mod render;
mod request;

use std::path::Path;

pub use self::denoising::{Denoising, Picture};
pub use self::error::Error;
use self::layout::Index;
pub use self::original::{Original, PictureFile};
use self::prompt::TextEncoder;
pub use self::request::{
    MAX_GUIDANCE, MAX_PROMPT_BYTES, MAX_PROMPT_CHUNKS, MAX_PROMPT_TOKENS, MAX_SIDE_PX,
    MAX_SIDE_RATIO, PromptSyntax, Request,
};
use crate::config::LoadError;
use crate::lora::{Lora, LoraFile, Part};
use crate::ops::precision::Precision;
use crate::scheduler;
use crate::unet::Unet;
use crate::vae::Vae;

/// A loaded checkpoint.
pub struct Pipeline {
    name: String,
    sha256: String,
    parameter_count: u64,
    /// One, or two for Stable Diffusion XL.
    texts: Vec<TextEncoder>,
    /// Whether an empty negative prompt stands for states of zeros.
    zeros_for_empty_prompt: bool,
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
        Self::load_adapted(folder, name, &[])
    }

    /// The same, with adapters merged into the UNet and the text encoders, in order.
    ///
    /// # Errors
    /// [`LoadError`]; an adapter that does not fit the model is refused with the tensor's name.
    pub fn load_adapted(folder: &Path, name: &str, loras: &[LoraFile]) -> Result<Self, LoadError> {
        let index = Index::read(folder)?;
        let scheduler = scheduler::Config::read(&folder.join("scheduler/scheduler_config.json"))?;
        let opened = loras
            .iter()
            .map(Lora::open)
            .collect::<Result<Vec<_>, _>>()?;
        let for_part = |part| opened.iter().map(|lora| lora.part(part)).collect();
        let mut texts = Vec::new();
        for (part, end) in index.text_encoders() {
            texts.push(TextEncoder::load(folder, end, for_part(part))?);
        }
        let pipeline = Self {
            name: name.to_owned(),
            sha256: layout::sha256(folder, &index, loras)?,
            parameter_count: layout::count_parameters(folder, &index)?,
            texts,
            zeros_for_empty_prompt: index.zeros_for_empty_prompt,
            unet: Unet::load_adapted(&folder.join("unet"), for_part(Part::Unet), Precision::F32)?,
            vae: Vae::load(&folder.join("vae"))?,
            scheduler: scheduler.for_latents(),
        };
        layout::check_parts(&pipeline, folder, &index)?;
        opened.iter().try_for_each(|lora| lora.finish())?;
        Ok(pipeline)
    }

    /// Bytes of the weights in `folder` once they are in memory, without loading them: four for each
    /// number, since all is computed in f32, whatever the files hold. Activations come on top.
    ///
    /// # Errors
    /// As [`Pipeline::load`] for what it reads: the index and the weights' headers.
    pub fn weight_bytes(folder: &Path) -> Result<u64, LoadError> {
        let index = Index::read(folder)?;
        let count = layout::count_parameters(folder, &index)?;
        Ok(count.saturating_mul(size_of::<f32>() as u64))
    }

    /// The name it is served as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 over all files of the checkpoint, and its adapters and their scales, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Numbers in the weights of all parts.
    pub fn parameter_count(&self) -> u64 {
        self.parameter_count
    }
}
