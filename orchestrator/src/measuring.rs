//! The models that measure prompts and pictures, as a recipe names them.

#[cfg(feature = "embedded")]
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Models by name, or by folder for services in this process. Empty takes what an endpoint has, or what
/// comes with the suite.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeasuringModels {
    /// Scores pictures: a CLIP or SigLIP in transformers' layout, or `builtin:nano-clip`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scoring_model: String,
    /// Embeds prompts: a CLIP, a SigLIP, a folder of sentence-transformers, or `builtin:nano-clip`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub embedding_model: String,
    /// Tells unsafe pictures: diffusers' safety checker, or a ViT classifier.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub safety_model: String,
}

impl MeasuringModels {
    /// Whether none is named.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What the embedded diffusion service takes from the environment, by the names in its --help.
#[cfg(feature = "embedded")]
#[derive(clap::Parser)]
struct Environment {
    #[command(flatten)]
    options: diffusion::Options,
}

/// Sets the models that measure in an embedded diffusion service: those of the recipe, and for safety
/// those of the environment where the recipe names none.
///
/// # Errors
/// A folder that is missing, or a variable that makes no sense.
#[cfg(feature = "embedded")]
pub(crate) fn equip(
    options: diffusion::Options,
    models: &MeasuringModels,
) -> Result<diffusion::Options> {
    use clap::Parser as _;
    let given = Environment::try_parse_from(["diffusion"]);
    let diffusion::Options {
        safety_model,
        unsafe_labels,
        unsafe_threshold,
        unsafe_pictures,
        ..
    } = given
        .map_err(|error| crate::bad_input::flattened(&error))?
        .options;
    let named = named_folder("safety", &models.safety_model, "")?;
    Ok(diffusion::Options {
        scoring_models: named_folder("scoring", &models.scoring_model, "builtin:nano-clip")?
            .into_iter()
            .collect(),
        safety_model: named.or(safety_model),
        unsafe_labels,
        unsafe_threshold,
        unsafe_pictures,
        ..options
    })
}

/// The folder of a model that a recipe names, under the name in the recipe; `None` for an empty name,
/// and for `builtin`, which is served anyhow.
///
/// # Errors
/// Another built-in name, or a folder that is missing.
#[cfg(feature = "embedded")]
pub(crate) fn named_folder(
    kind: &str,
    model: &str,
    builtin: &str,
) -> Result<Option<runtime::options::NamedFolder>> {
    use anyhow::anyhow;
    if model.is_empty() || model == builtin {
        return Ok(None);
    }
    let wrong = |reason: String| anyhow!("{reason}").context(crate::bad_input::BadInput);
    if model.starts_with("builtin:") {
        let known = match builtin {
            "" => "none comes with the suite".to_owned(),
            builtin => format!("only {builtin}"),
        };
        return Err(wrong(format!(
            "there is no built-in {kind} model `{model}`, {known}"
        )));
    }
    let folder = std::path::absolute(model)?;
    if !folder.is_dir() {
        let folder = folder.display();
        return Err(wrong(format!("there is no {kind} model folder {folder}")));
    }
    Ok(Some(runtime::options::NamedFolder {
        name: model.to_owned(),
        folder,
    }))
}
