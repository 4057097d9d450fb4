//! Stable Diffusion's safety checker, as diffusers' `StableDiffusionSafetyChecker`: a CLIP image vector
//! against 17 concepts, each with a threshold, which 3 concepts of special care lower by 0.01 where
//! they are near (Rando et al. 2022 read the concepts out).

use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::blocks::{Linear, Source};
use crate::clip;
use crate::clip_image::ImagePreprocessor;
use crate::config::Fields;
use crate::encoder::unit;
use crate::image_tower::{self, ImageTower};
use crate::measuring::Error;
use crate::ops::values::values;
use crate::weights::{Weights, checkpoint_sha256, deciding_files};

/// What a special-care concept adds to the scores after it.
const ADJUSTMENT: f32 = 0.01;

/// A loaded checker.
pub struct SafetyChecker {
    tower: ImageTower,
    projection: Linear,
    special_care: Vec<Concept>,
    concepts: Vec<Concept>,
    preprocessor: ImagePreprocessor,
    sha256: String,
    parameter_count: u64,
}

/// A direction, and the cosine from which on a picture counts as showing it.
struct Concept {
    vector: Vec<f32>,
    threshold: f32,
}

/// What the checker finds in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ConceptScores {
    /// Cosines with the concepts of special care.
    pub special_care: Vec<f32>,
    /// Cosines with the concepts.
    pub concepts: Vec<f32>,
    /// How far the nearest concept lies over its threshold, rounded to 3 decimals as diffusers does;
    /// the picture is unsafe where this is over 0.
    pub worst: f32,
}

impl SafetyChecker {
    /// Loads the folder `safety_checker/` of a checkpoint. The preprocessor is `preprocessor_config.json`
    /// in it, or else in the `feature_extractor/` beside it.
    ///
    /// # Errors
    /// [`Error`], naming file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let mut fields = Fields::open(&folder.join("config.json"))?;
        let dim = fields.take_or("projection_dim", 512)?;
        let config = image_config(&mut fields)?;
        let weights = Weights::open_in(folder, &["model"])?;
        let parameter_count = weights.parameter_count();
        // transformers 4 writes `vision_model.vision_model.`, 5 writes `vision_model.`.
        let weights = weights.with_optional_prefix("vision_model.vision_model.");
        let at = Source::new(&weights);
        let vision = match weights.contains("pre_layrnorm.weight") {
            true => Source::new(&weights),
            false => at.at("vision_model"),
        };
        let file = preprocessor_file(folder);
        let preprocessor = ImagePreprocessor::read(&file)?;
        preprocessor.check_side(file.parent().unwrap_or(folder), config.side_px)?;
        let concepts = |name: &str| Concept::load_all(&at, name, dim);
        Ok(Self {
            tower: ImageTower::load(&vision, config, &image_tower::CLIP)?,
            projection: Linear::load(&at.at("visual_projection"), config.shape.width, dim, false)?,
            special_care: concepts("special_care_embeds")?,
            concepts: concepts("concept_embeds")?,
            preprocessor,
            sha256: sha256(folder, &file)?,
            parameter_count,
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

    /// Holds a picture against all concepts.
    ///
    /// # Errors
    /// [`Error::Compute`].
    pub fn scores(&self, picture: &RgbImage) -> Result<ConceptScores, Error> {
        let pooled = self.tower.first_state(&self.preprocessor.square(picture))?;
        let vector = unit(values(&self.projection.forward(&pooled)?)?.to_vec());
        let cosines = |concepts: &[Concept]| -> Vec<f32> {
            concepts
                .iter()
                .map(|concept| concept.cosine(&vector))
                .collect()
        };
        let (special_care, concepts) = (cosines(&self.special_care), cosines(&self.concepts));
        let mut adjustment = 0.;
        for (concept, cosine) in self.special_care.iter().zip(&special_care) {
            if concept.score(*cosine, adjustment) > 0. {
                adjustment = ADJUSTMENT;
            }
        }
        let scores = self.concepts.iter().zip(&concepts);
        let worst = scores
            .map(|(concept, cosine)| concept.score(*cosine, adjustment))
            .fold(f32::NEG_INFINITY, f32::max);
        Ok(ConceptScores {
            special_care,
            concepts,
            worst,
        })
    }
}

impl Concept {
    fn load_all(at: &Source<'_>, name: &str, dim: usize) -> Result<Vec<Self>, Error> {
        // 17 and 3 in the published file; another count would mean the same.
        let count = at.shape(name).and_then(|shape| shape.first().copied());
        let count = count.unwrap_or_default();
        let vectors = at.values(name, &[count, dim])?;
        let thresholds = at.values(&format!("{name}_weights"), &[count])?;
        let all = vectors.chunks(dim).zip(thresholds);
        Ok(all
            .map(|(vector, threshold)| Self {
                vector: unit(vector.to_vec()),
                threshold,
            })
            .collect())
    }

    fn cosine(&self, unit_vector: &[f32]) -> f32 {
        self.vector
            .iter()
            .zip(unit_vector)
            .map(|(a, b)| a * b)
            .sum()
    }

    /// As diffusers: in f32, rounded to 3 decimals, halves to even.
    fn score(&self, cosine: f32, adjustment: f32) -> f32 {
        ((cosine - self.threshold + adjustment) * 1000.).round_ties_even() / 1000.
    }
}

/// `vision_config`; old files have some of its fields in `vision_config_dict` too, which wins.
fn image_config(fields: &mut Fields) -> Result<image_tower::Config, Error> {
    let mut image_fields = fields.nested("vision_config")?;
    let config = image_tower::Config::from_fields(&mut image_fields, clip::BASE)?;
    Ok(match fields.optional_nested("vision_config_dict")? {
        Some(mut over) => image_tower::Config::from_fields(&mut over, config)?,
        None => config,
    })
}

fn preprocessor_file(folder: &Path) -> PathBuf {
    const NAME: &str = "preprocessor_config.json";
    let own = folder.join(NAME);
    let beside = folder
        .parent()
        .map(|all| all.join("feature_extractor").join(NAME));
    match beside {
        Some(beside) if !own.is_file() && beside.is_file() => beside,
        _ => own,
    }
}

/// Over the folder's files; with those of a neighbour, names are relative to the folder of both.
fn sha256(folder: &Path, preprocessor: &Path) -> Result<String, Error> {
    let mut files = deciding_files(folder)?;
    if preprocessor.starts_with(folder) {
        return Ok(checkpoint_sha256(folder, &files)?);
    }
    files.push(preprocessor.to_path_buf());
    Ok(checkpoint_sha256(
        folder.parent().unwrap_or(folder),
        &files,
    )?)
}
