//! The models that measure pictures and texts, loaded by the layout that a folder has.
//!
//! | layout | told by | measures |
//! |---|---|---|
//! | CLIP | `architectures`: `CLIPModel` | pictures and texts |
//! | SigLIP, SigLIP 2 of fixed resolution | `SiglipModel` | pictures and texts |
//! | sentence-transformers over BERT | `modules.json` | texts |
//! | Stable Diffusion's safety checker | `StableDiffusionSafetyChecker` | safety |
//! | ViT classifier | `ViTForImageClassification` | safety |
//!
//! A layout that is not among those for its purpose is refused by name.

use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::clip::{self, Clip};
use crate::config::{self, Fields, LoadError};
use crate::safety_checker::SafetyChecker;
use crate::sentence::SentenceEmbedder;
use crate::siglip::Siglip;
use crate::vit_classifier::VitClassifier;
use crate::{clip_tokenizer, llava_error, weights};

/// Why a model cannot be loaded or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder holds a model of another kind.
    #[error("{} holds {found}, which is not supported here; there are: {supported}", folder.display())]
    Layout {
        /// The folder.
        folder: PathBuf,
        /// What its config.json says that it is.
        found: String,
        /// What would do.
        supported: &'static str,
    },
    /// Labels that the classifier does not have, or none that tells an unsafe picture.
    #[error("{}: {reason}", folder.display())]
    Labels {
        /// The folder.
        folder: PathBuf,
        /// Which, and which there are.
        reason: String,
    },
    /// A configuration, weights or a tokenizer.
    #[error(transparent)]
    Load(Box<LoadError>),
    /// A CLIP.
    #[error(transparent)]
    Clip(Box<clip::Error>),
    /// A preprocessor's file, or another in JSON.
    #[error(transparent)]
    File(#[from] llava_error::Error),
    /// A tensor operation.
    #[error("cannot compute")]
    Compute(#[from] candle_core::Error),
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        Self::Load(Box::new(error))
    }
}

impl From<clip::Error> for Error {
    fn from(error: clip::Error) -> Self {
        Self::Clip(Box::new(error))
    }
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        LoadError::from(error).into()
    }
}

impl From<weights::Error> for Error {
    fn from(error: weights::Error) -> Self {
        LoadError::from(error).into()
    }
}

impl From<clip_tokenizer::Error> for Error {
    fn from(error: clip_tokenizer::Error) -> Self {
        LoadError::from(error).into()
    }
}

/// A model that puts pictures and texts into one space.
pub enum ImageTextModel {
    /// transformers' `CLIPModel`.
    Clip(Box<Clip>),
    /// transformers' `SiglipModel`.
    Siglip(Box<Siglip>),
}

impl ImageTextModel {
    /// Loads a folder.
    ///
    /// # Errors
    /// [`Error`], naming folder, file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        match architecture(folder)?.as_str() {
            "CLIPModel" => Ok(Self::Clip(Box::new(Clip::load(folder)?))),
            "SiglipModel" => Ok(Self::Siglip(Box::new(Siglip::load(folder)?))),
            found => Err(refused(folder, found, "CLIPModel, SiglipModel")),
        }
    }

    /// SHA-256 over the files of the checkpoint, in hex.
    pub fn sha256(&self) -> &str {
        match self {
            Self::Clip(model) => model.sha256(),
            Self::Siglip(model) => model.sha256(),
        }
    }

    /// Class of the model in the words of its configuration.
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::Clip(_) => "CLIPModel",
            Self::Siglip(_) => "SiglipModel",
        }
    }

    /// Numbers in the checkpoint.
    pub fn parameter_count(&self) -> u64 {
        match self {
            Self::Clip(model) => model.parameter_count(),
            Self::Siglip(model) => model.parameter_count(),
        }
    }

    /// Length of its vectors.
    pub fn dim(&self) -> usize {
        match self {
            Self::Clip(model) => model.dim(),
            Self::Siglip(model) => model.dim(),
        }
    }

    /// The unit vector of a text; what is over the encoder's length is cut.
    ///
    /// # Errors
    /// [`Error`], for a text that cannot be tokenized.
    pub fn embed_text(&self, text: &str) -> Result<Vec<f32>, Error> {
        match self {
            Self::Clip(model) => Ok(model.embed_text(text)?),
            Self::Siglip(model) => model.embed_text(text),
        }
    }

    /// The unit vector of a picture.
    ///
    /// # Errors
    /// [`Error::Compute`].
    pub fn embed_image(&self, picture: &RgbImage) -> Result<Vec<f32>, Error> {
        match self {
            Self::Clip(model) => {
                let mut vectors = model.embed_images(std::slice::from_ref(picture))?;
                Ok(vectors.remove(0))
            }
            Self::Siglip(model) => model.embed_image(picture),
        }
    }

    /// Embeds a picture and a text, so that whoever asks first waits no longer than the others.
    ///
    /// # Errors
    /// As the two.
    pub fn warm_up(&self) -> Result<(), Error> {
        let _vector = self.embed_image(&RgbImage::new(32, 32))?;
        self.embed_text("a picture").map(|_vector| ())
    }
}

/// A model that embeds texts.
pub enum TextModel {
    /// The text half of a model of both.
    ImageText(ImageTextModel),
    /// A folder of sentence-transformers.
    Sentence(Box<SentenceEmbedder>),
}

impl TextModel {
    /// Loads a folder.
    ///
    /// # Errors
    /// [`Error`], naming folder, file, field or tensor.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        match architecture(folder)?.as_str() {
            SENTENCE => Ok(Self::Sentence(Box::new(SentenceEmbedder::load(folder)?))),
            "CLIPModel" | "SiglipModel" => ImageTextModel::load(folder).map(Self::ImageText),
            found => Err(refused(
                folder,
                found,
                "CLIPModel, SiglipModel, a folder of sentence-transformers with modules.json",
            )),
        }
    }

    /// SHA-256 over the files of the checkpoint, in hex.
    pub fn sha256(&self) -> &str {
        match self {
            Self::ImageText(model) => model.sha256(),
            Self::Sentence(model) => model.sha256(),
        }
    }

    /// Class of the model in the words of its configuration.
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::ImageText(model) => model.architecture(),
            Self::Sentence(_) => SENTENCE,
        }
    }

    /// Numbers in the checkpoint.
    pub fn parameter_count(&self) -> u64 {
        match self {
            Self::ImageText(model) => model.parameter_count(),
            Self::Sentence(model) => model.parameter_count(),
        }
    }

    /// The unit vector of a text; what is over the encoder's length is cut.
    ///
    /// # Errors
    /// [`Error`], for a text that cannot be tokenized.
    pub fn embed_text(&self, text: &str) -> Result<Vec<f32>, Error> {
        match self {
            Self::ImageText(model) => model.embed_text(text),
            Self::Sentence(model) => model.embed_text(text),
        }
    }
}

/// When a classifier calls a picture unsafe.
#[derive(Clone, Debug, PartialEq)]
pub struct UnsafeRule {
    /// Labels of unsafe pictures; empty means those that detectors are known to have.
    pub labels: Vec<String>,
    /// Sum of their probabilities from which on a picture is unsafe, 0 to 1.
    pub threshold: f32,
}

impl Default for UnsafeRule {
    fn default() -> Self {
        Self {
            labels: Vec::new(),
            threshold: 0.5,
        }
    }
}

/// What published detectors call unsafe pictures.
const UNSAFE_LABELS: [&str; 7] = [
    "nsfw", "unsafe", "porn", "hentai", "sexy", "explicit", "sexual",
];

/// A model that tells unsafe pictures.
pub enum SafetyModel {
    /// diffusers' `StableDiffusionSafetyChecker`.
    Checker(Box<SafetyChecker>),
    /// transformers' `ViTForImageClassification`.
    Classifier {
        /// The model.
        model: Box<VitClassifier>,
        /// Places of the unsafe labels.
        unsafe_places: Vec<usize>,
        /// As [`UnsafeRule::threshold`].
        threshold: f32,
    },
}

/// What a safety model says of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// How unsafe: over the bound is unsafe. A checker's distance from its nearest threshold, or a
    /// classifier's probability.
    pub score: f32,
    /// The verdict.
    pub is_unsafe: bool,
}

impl SafetyModel {
    /// Loads a folder; `rule` is for classifiers, a checker has thresholds of its own.
    ///
    /// # Errors
    /// [`Error`], naming folder, file, field, tensor or label.
    pub fn load(folder: &Path, rule: &UnsafeRule) -> Result<Self, Error> {
        match architecture(folder)?.as_str() {
            CHECKER => Ok(Self::Checker(Box::new(SafetyChecker::load(folder)?))),
            CLASSIFIER => {
                let model = Box::new(VitClassifier::load(folder)?);
                Ok(Self::Classifier {
                    unsafe_places: unsafe_places(folder, model.labels(), rule)?,
                    model,
                    threshold: rule.threshold,
                })
            }
            found => Err(refused(
                folder,
                found,
                "StableDiffusionSafetyChecker, ViTForImageClassification",
            )),
        }
    }

    /// SHA-256 over the files of the checkpoint, in hex.
    pub fn sha256(&self) -> &str {
        match self {
            Self::Checker(model) => model.sha256(),
            Self::Classifier { model, .. } => model.sha256(),
        }
    }

    /// Class of the model in the words of its configuration.
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::Checker(_) => CHECKER,
            Self::Classifier { .. } => CLASSIFIER,
        }
    }

    /// What the score of [`judge`](Self::judge) is, so that scores of two settings are not taken for
    /// one another: of a classifier, the labels that are added up.
    pub fn measure(&self) -> String {
        match self {
            Self::Checker(_) => CHECKER.to_owned(),
            Self::Classifier {
                model,
                unsafe_places,
                ..
            } => {
                let labels = unsafe_places.iter().map(|&at| model.labels()[at].as_str());
                labels.collect::<Vec<_>>().join(",")
            }
        }
    }

    /// Numbers in the checkpoint.
    pub fn parameter_count(&self) -> u64 {
        match self {
            Self::Checker(model) => model.parameter_count(),
            Self::Classifier { model, .. } => model.parameter_count(),
        }
    }

    /// How unsafe a picture is.
    ///
    /// # Errors
    /// [`Error::Compute`].
    pub fn judge(&self, picture: &RgbImage) -> Result<Judgement, Error> {
        let score = match self {
            Self::Checker(model) => model.scores(picture)?.worst,
            Self::Classifier {
                model,
                unsafe_places,
                ..
            } => {
                let probabilities = model.probabilities(picture)?;
                unsafe_places.iter().map(|&at| probabilities[at]).sum()
            }
        };
        Ok(self.judgement(score))
    }

    /// Judges a picture, so that whoever asks first waits no longer than the others.
    ///
    /// # Errors
    /// As [`judge`](Self::judge).
    pub fn warm_up(&self) -> Result<(), Error> {
        self.judge(&RgbImage::new(32, 32)).map(|_judgement| ())
    }

    /// The verdict that a score means.
    pub fn judgement(&self, score: f32) -> Judgement {
        let is_unsafe = match self {
            Self::Checker(_) => score > 0.,
            Self::Classifier { threshold, .. } => score >= *threshold,
        };
        Judgement { score, is_unsafe }
    }
}

const SENTENCE: &str = "SentenceTransformer";
const CHECKER: &str = "StableDiffusionSafetyChecker";
const CLASSIFIER: &str = "ViTForImageClassification";

/// The class of the model in a folder. Files without `architectures` are known by `model_type`, and
/// those without both count as CLIP, as they always did.
fn architecture(folder: &Path) -> Result<String, Error> {
    if folder.join("modules.json").is_file() {
        return Ok(SENTENCE.to_owned());
    }
    let mut fields = Fields::open(&folder.join("config.json"))?;
    let classes: Vec<String> = fields.take_or("architectures", Vec::new())?;
    if let Some(class) = classes.into_iter().next() {
        return Ok(class);
    }
    let model_type: Option<String> = fields.take("model_type")?;
    Ok(match model_type.as_deref() {
        None | Some("clip") => "CLIPModel".to_owned(),
        Some("siglip") => "SiglipModel".to_owned(),
        Some(other) => format!("a model of type `{other}`"),
    })
}

fn refused(folder: &Path, found: &str, supported: &'static str) -> Error {
    Error::Layout {
        folder: folder.into(),
        found: found.to_owned(),
        supported,
    }
}

fn unsafe_places(folder: &Path, labels: &[String], rule: &UnsafeRule) -> Result<Vec<usize>, Error> {
    let place = |name: &str| labels.iter().position(|l| l.eq_ignore_ascii_case(name));
    let wrong = |reason| Error::Labels {
        folder: folder.into(),
        reason,
    };
    let there_are = labels.join(", ");
    if rule.labels.is_empty() {
        let known: Vec<usize> = UNSAFE_LABELS
            .iter()
            .filter_map(|name| place(name))
            .collect();
        return match known.is_empty() {
            true => Err(wrong(format!(
                "none of its labels is known to mean unsafe, name those that do; there are: {there_are}"
            ))),
            false => Ok(known),
        };
    }
    let named = rule.labels.iter().map(|name| {
        let missing = || wrong(format!("has no label `{name}`; there are: {there_are}"));
        place(name).ok_or_else(missing)
    });
    named.collect()
}
