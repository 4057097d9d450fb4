//! Image classifiers (Dosovitskiy et al. 2021), as transformers' `ViTForImageClassification`: the form in
//! which detectors of unsafe pictures are published.

use std::collections::BTreeMap;
use std::path::Path;

use image::RgbImage;

use crate::blocks::{Linear, Source};
use crate::clip_image::{Filter, ImagePreprocessor};
use crate::config::Fields;
use crate::encoder::{Activation, Shape};
use crate::image_tower::{self, ImageTower};
use crate::measuring::Error;
use crate::ops::math::softmax_row;
use crate::ops::values::values;
use crate::weights::{Weights, folder_sha256};

/// A loaded classifier.
pub struct VitClassifier {
    tower: ImageTower,
    head: Linear,
    labels: Vec<String>,
    preprocessor: ImagePreprocessor,
    sha256: String,
    parameter_count: u64,
}

impl VitClassifier {
    /// Loads a folder with `config.json`, `model.safetensors` and `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error`], naming file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let mut fields = Fields::open(&folder.join("config.json"))?;
        let base = image_tower::Config {
            shape: Shape {
                width: 768,
                inner: 3072,
                layers: 12,
                heads: 12,
                activation: Activation::Gelu,
                eps: 1e-12,
            },
            side_px: 224,
            patch_px: 16,
        };
        fields.only("qkv_bias", true)?;
        let config = image_tower::Config::from_fields(&mut fields, base)?;
        let labels = labels(&mut fields)?;
        let weights = Weights::open_in(folder, &["model"])?;
        let at = Source::new(&weights);
        let preprocessor = ImagePreprocessor::load_exact(folder, Filter::Bilinear)?;
        preprocessor.check_side(folder, config.side_px)?;
        let width = config.shape.width;
        Ok(Self {
            tower: ImageTower::load(&at.at("vit"), config, &image_tower::VIT)?,
            head: Linear::load(&at.at("classifier"), width, labels.len(), true)?,
            labels,
            preprocessor,
            sha256: folder_sha256(folder)?,
            parameter_count: weights.parameter_count(),
        })
    }

    /// SHA-256 over the files of the checkpoint, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Numbers in the checkpoint.
    pub fn parameter_count(&self) -> u64 {
        self.parameter_count
    }

    /// Names of the classes, by their numbers.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The probability of each class, in the order of [`labels`](Self::labels).
    ///
    /// # Errors
    /// [`Error::Compute`].
    pub fn probabilities(&self, picture: &RgbImage) -> Result<Vec<f32>, Error> {
        let pooled = self.tower.first_state(&self.preprocessor.square(picture))?;
        let mut scores = values(&self.head.forward(&pooled)?)?.to_vec();
        softmax_row(&mut scores);
        Ok(scores)
    }
}

/// `id2label`, whose keys must count from 0.
fn labels(fields: &mut Fields) -> Result<Vec<String>, Error> {
    let by_id: BTreeMap<usize, String> = fields.require("id2label")?;
    if by_id.is_empty() || !by_id.keys().copied().eq(0..by_id.len()) {
        return Err(fields.invalid("id2label", "does not count from 0").into());
    }
    Ok(by_id.into_values().collect())
}
