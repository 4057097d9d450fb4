//! Whether the parts of a pipeline with a transformer belong together.

use std::path::Path;

use super::Pipeline;
use super::denoiser::Denoiser;
use crate::config::{self, LoadError};

/// Refuses parts that were each read well, but do not belong together; `bad` makes the error for a part,
/// a field of it and a reason.
pub(super) fn check_joint(
    pipeline: &Pipeline,
    folder: &Path,
    bad: impl Fn(&str, &str, String) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    check_sampler(pipeline, folder)?;
    let (channels, of_vae) = (
        pipeline.denoiser.channels(),
        pipeline.vae.config().latent_channels,
    );
    if channels != of_vae {
        let reason = format!("is for latents of {channels}, the autoencoder has {of_vae}");
        return bad("transformer", "in_channels", reason);
    }
    let (text_dim, pooled_dim) = match &pipeline.denoiser {
        Denoiser::Sd3(model) => (model.config().text_dim, model.config().pooled_dim),
        Denoiser::Flux(model) => (model.config().text_dim, model.config().pooled_dim),
        Denoiser::Unet(_) => return Ok(()),
    };
    if let Some(text) = &pipeline.t5 {
        let (width, (known, has)) = (text.width(), text.vocabularies());
        if width != text_dim {
            let reason = format!("is {text_dim}, T5 gives {width}");
            return bad("transformer", "joint_attention_dim", reason);
        }
        if has > known {
            let reason = format!("is {known}, the tokenizer has {has} tokens");
            return bad(&format!("text_encoder{}", text.end), "vocab_size", reason);
        }
    }
    check_clips(pipeline, text_dim, pooled_dim, bad)
}

/// What CLIP gives must fit: pooled texts side by side, and for Stable Diffusion 3 states too.
fn check_clips(
    pipeline: &Pipeline,
    text_dim: usize,
    pooled_dim: usize,
    bad: impl Fn(&str, &str, String) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let is_sd3 = matches!(pipeline.denoiser, Denoiser::Sd3(_));
    let mut pooled = 0;
    for (text, end) in pipeline.texts.iter().zip(["", "_2"]) {
        pooled += match (is_sd3, text.model.projected_dim()) {
            (false, _) => text.width(),
            (true, Some(dim)) => dim,
            (true, None) => {
                let part = format!("text_encoder{end}");
                let reason = "has no tensor `text_projection.weight` beside it";
                return bad(&part, "projection_dim", reason.to_owned());
            }
        };
    }
    if pooled != pooled_dim {
        let reason = format!("is {pooled_dim}, CLIP's encoders give {pooled}");
        return bad("transformer", "pooled_projection_dim", reason);
    }
    if is_sd3 && pipeline.text_width() > text_dim {
        let width = pipeline.text_width();
        let reason = format!("is {text_dim}, CLIP's encoders give {width} side by side");
        return bad("transformer", "joint_attention_dim", reason);
    }
    Ok(())
}

/// A transformer predicts the velocity of flow matching, which other samplers do not take.
fn check_sampler(pipeline: &Pipeline, folder: &Path) -> Result<(), LoadError> {
    let built = pipeline.scheduler.build(None);
    if built.is_ok_and(|sampler| sampler.name() == "flow_euler") {
        return Ok(());
    }
    Err(LoadError::Config(config::Error::Invalid {
        file: folder.join("scheduler/scheduler_config.json"),
        field: "_class_name".to_owned(),
        reason: "must be FlowMatchEulerDiscreteScheduler for this model".to_owned(),
    }))
}
