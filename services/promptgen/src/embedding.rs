//! Text embedding, by the text half of a CLIP or SigLIP, or by a folder of sentence-transformers: what
//! the folder holds decides.

use crate::error::Error;
use models::measuring::TextModel;
use proto::dataset::v1::ModelInfo;
use std::path::Path;

/// A loaded model under the name that requests give.
pub(crate) struct Embedder {
    name: String,
    inner: TextModel,
}

impl Embedder {
    /// Loads a folder of any layout that [`TextModel`] knows.
    pub(crate) fn load(name: &str, folder: &Path) -> Result<Self, Error> {
        let failed = |error: models::measuring::Error| Error::Model {
            model: name.to_owned(),
            reason: runtime::error::chain(&error),
        };
        Ok(Self {
            name: name.to_owned(),
            inner: TextModel::load(folder).map_err(failed)?,
        })
    }

    /// Name to give in requests.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 over the checkpoint.
    pub(crate) fn sha256(&self) -> &str {
        self.inner.sha256()
    }

    /// What `Capabilities` say of it.
    pub(crate) fn info(&self) -> ModelInfo {
        ModelInfo {
            name: self.name.clone(),
            sha256: self.sha256().to_owned(),
            architecture: self.inner.architecture().to_owned(),
            parameter_count: self.inner.parameter_count(),
        }
    }

    /// The vector of a text, of length 1. What is longer than the model reads is cut.
    pub(crate) fn embed(&self, text: &str) -> Result<Vec<f32>, Error> {
        self.inner
            .embed_text(text)
            .map_err(|error| Error::Embed(Box::new(error)))
    }
}
