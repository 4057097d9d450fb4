//! What a run writes down about itself: its record, and the result of each training.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use proto::dataset::v1::Artefact;
use serde::{Deserialize, Serialize};

use super::RunFolder;
use crate::{recipe::Recipe, synth::Summary};

/// `run.json`: what the run was, beside what it made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    /// Name of the recipe.
    pub name: String,
    /// The recipe, as it was read.
    pub recipe: String,
    /// Hash of the recipe.
    pub recipe_sha256: String,
    /// Version of this program.
    pub version: String,
    /// What made the dataset beside the recipe: versions of the services, hashes of their models
    /// and of the abilities, by name.
    pub models: BTreeMap<String, String>,
    /// Manifest hash of the dataset.
    pub manifest_sha256: String,
    /// What synthesis came to.
    pub synthesis: Summary,
    /// What making the benchmark's pictures came to.
    pub held_out: Summary,
    /// Training data that the benchmark's pictures were not held against.
    #[serde(default)]
    pub overlap_not_checked: Vec<String>,
    /// Seconds that each step took, when it was done.
    pub seconds: BTreeMap<String, f64>,
}

impl Record {
    /// Refuses a folder that holds a run of another recipe.
    pub(super) fn check_same_recipe(&self, recipe: &Recipe, folder: &RunFolder) -> Result<()> {
        ensure!(
            self.recipe_sha256.is_empty() || self.recipe_sha256 == recipe.hash(),
            "{} holds a run of another recipe (`{}`); choose another --out, or delete it",
            folder.root().display(),
            self.name
        );
        Ok(())
    }
}

/// A trained model, as `train/<run>/result.json` holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trained {
    /// Where the model lies.
    pub model_uri: String,
    /// Its hash.
    pub model_sha256: String,
    /// Loss of the last step.
    pub final_loss: f64,
    /// Samples skipped since no token was supervised.
    pub skipped_samples: u64,
}

impl Trained {
    /// The model as a request names it.
    pub(super) fn reference(&self) -> Artefact {
        Artefact {
            uri: self.model_uri.clone(),
            sha256: self.model_sha256.clone(),
            size_bytes: 0,
        }
    }
}
