//! Text embedding by the text tower of a CLIP checkpoint (transformers' `CLIPModel`;
//! Radford et al. 2021).

use crate::error::Error;
use models::clip::Clip;
use proto::dataset::v1::ModelInfo;
use std::path::Path;

/// A loaded model under the name that requests give.
pub(crate) struct Embedder {
    name: String,
    clip: Clip,
}

impl Embedder {
    /// Loads a folder in the CLIP layout of transformers.
    pub(crate) fn load(name: &str, folder: &Path) -> Result<Self, Error> {
        let failed = |error: models::clip::Error| Error::Model {
            model: name.to_owned(),
            reason: runtime::error::chain(&error),
        };
        Ok(Self {
            name: name.to_owned(),
            clip: Clip::load(folder).map_err(failed)?,
        })
    }

    /// Name to give in requests.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 over the checkpoint.
    pub(crate) fn sha256(&self) -> &str {
        self.clip.sha256()
    }

    /// What `Capabilities` say of it.
    pub(crate) fn info(&self) -> ModelInfo {
        ModelInfo {
            name: self.name.clone(),
            sha256: self.sha256().to_owned(),
            architecture: "CLIPModel".to_owned(),
            parameter_count: self.clip.parameter_count(),
        }
    }

    /// The vector of a text, of length 1. What is longer than the model reads is cut.
    pub(crate) fn embed(&self, text: &str) -> Result<Vec<f32>, Error> {
        self.clip
            .embed_text(text)
            .map_err(|error| Error::Embed(Box::new(error)))
    }
}
