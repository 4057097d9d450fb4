//! Stable Diffusion from a directory in diffusers' layout: text → noise → picture, step by step, from
//! noise alone or from a picture, all of it or a part.
//!
//! Versions 1 and 2 (Rombach et al. 2022, arXiv 2112.10752) and XL with Turbo (Podell et al. 2023,
//! arXiv 2307.01952; Sauer et al. 2023, arXiv 2311.17042), 3 and 3.5 (Esser et al. 2024, arXiv
//! 2403.03206), FLUX.1, and fine-tunes of any size of them.
//!
//! A picture in the making is a [`Denoising`]: it owns its latents, its place in the sampler and its
//! random numbers. [`Pipeline::step`] moves any set of them on by one model evaluation, so a service
//! can let pictures join and leave between steps. A picture's numbers never depend on its company.

mod denoiser;
mod denoising;
mod error;
mod guidance;
mod joint_parts;
mod joint_text;
mod layout;
mod original;
mod prompt;
mod render;
mod request;

use std::path::Path;

use self::denoiser::Denoiser;
pub use self::denoising::{Denoising, Picture};
pub use self::error::Error;
use self::joint_text::T5Text;
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
use crate::vae::Vae;

/// A loaded checkpoint.
pub struct Pipeline {
    name: String,
    sha256: String,
    precision: Precision,
    parameter_count: u64,
    /// CLIP's: one, or two for Stable Diffusion XL and 3.
    texts: Vec<TextEncoder>,
    /// The long text's, where the family has one.
    t5: Option<T5Text>,
    /// Whether an empty negative prompt stands for states of zeros.
    zeros_for_empty_prompt: bool,
    denoiser: Denoiser,
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

    /// The same, with adapters merged into the denoiser and CLIP's text encoders, in order.
    ///
    /// # Errors
    /// [`LoadError`]; an adapter that does not fit the model is refused with the tensor's name.
    pub fn load_adapted(folder: &Path, name: &str, loras: &[LoraFile]) -> Result<Self, LoadError> {
        Self::load_in(Precision::F32, folder, name, loras)
    }

    /// The same, with a denoiser that computes in `precision`; text encoders and autoencoder stay f32.
    /// [`Precision::check`] tells whether the processor has it.
    ///
    /// # Errors
    /// As [`Pipeline::load_adapted`].
    pub fn load_in(
        precision: Precision,
        folder: &Path,
        name: &str,
        loras: &[LoraFile],
    ) -> Result<Self, LoadError> {
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
            sha256: layout::sha256(folder, &index, loras, precision)?,
            precision,
            parameter_count: layout::count_parameters(folder, &index)?,
            texts,
            t5: T5Text::load(folder, &index)?,
            zeros_for_empty_prompt: index.zeros_for_empty_prompt,
            denoiser: Denoiser::load(folder, index.family, for_part(Part::Unet), precision)?,
            vae: Vae::load(&folder.join("vae"))?,
            scheduler: scheduler.for_latents(),
        };
        layout::check_parts(&pipeline, folder, &index)?;
        opened.iter().try_for_each(|lora| lora.finish())?;
        Ok(pipeline)
    }

    /// Bytes of the weights in `folder` once they are in memory, without loading them: four for each
    /// number, as of f32, whatever the files hold; a denoiser in bf16 takes half. Activations come on top.
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

    /// In which numbers the denoiser computes.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// SHA-256 over all files of the checkpoint, its adapters and their scales, and a precision other
    /// than f32, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Numbers in the weights of all parts.
    pub fn parameter_count(&self) -> u64 {
        self.parameter_count
    }
}
