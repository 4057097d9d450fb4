//! LLaVA: a frozen CLIP tower, a projector and a Llama (Liu et al., 2023), trainable.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;
use serde::Deserialize;

use crate::clip_image::ImagePreprocessor;
use crate::clip_vision::{ClipVision, ClipVisionConfig};
use crate::conversation::{Encoded, IGNORE};
use crate::llama::{Llama, LlamaConfig};
use crate::llava_error::Error;
use crate::llava_tokenizer::{Expected, LlavaTokenizer};
use crate::loss::Target;
use crate::ops::splice::Source;
use crate::parameter::Parameter;
use crate::projector::Projector;
use crate::weights::Weights;

/// `config.json` of `LlavaForConditionalGeneration`.
#[derive(Debug, Clone, Deserialize)]
pub struct LlavaConfig {
    /// The language model.
    pub text_config: LlamaConfig,
    /// The image tower.
    pub vision_config: ClipVisionConfig,
    /// The token that stands for a picture.
    #[serde(alias = "image_token_id")]
    pub image_token_index: u32,
    /// Which of the tower's hidden states is used, counted as transformers counts them: 0 is the
    /// state before the first layer, −1 the one after the last.
    #[serde(default = "second_to_last")]
    pub vision_feature_layer: i64,
    /// `default` drops the class token, `full` keeps it.
    #[serde(default = "default_strategy")]
    pub vision_feature_select_strategy: String,
    /// Must be `gelu`.
    #[serde(default = "gelu")]
    pub projector_hidden_act: String,
    /// Whether the head is the embedding table (transformers 5 says so here).
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Must be true.
    #[serde(default = "yes")]
    pub multimodal_projector_bias: bool,
}

fn second_to_last() -> i64 {
    -2
}

fn default_strategy() -> String {
    "default".into()
}

fn gelu() -> String {
    "gelu".into()
}

fn yes() -> bool {
    true
}

impl LlavaConfig {
    /// Encoder layers to run for the features.
    fn feature_layers(&self) -> Option<usize> {
        let states = self.vision_config.num_hidden_layers as i64 + 1;
        let index = self.vision_feature_layer;
        let index = if index < 0 { states + index } else { index };
        (0..states).contains(&index).then_some(index as usize)
    }

    fn keeps_class_token(&self) -> bool {
        self.vision_feature_select_strategy == "full"
    }

    /// Positions that one picture takes.
    pub fn tokens_per_image(&self) -> usize {
        self.vision_config.patch_count() + usize::from(self.keeps_class_token())
    }

    fn check(&self) -> Result<(), String> {
        self.text_config.check()?;
        self.vision_config.check()?;
        let strategy = self.vision_feature_select_strategy.as_str();
        match () {
            () if self.feature_layers().is_none() => Err(format!(
                "vision_feature_layer {} does not exist",
                self.vision_feature_layer
            )),
            () if !matches!(strategy, "default" | "full") => Err(format!(
                "vision_feature_select_strategy `{strategy}` is not supported"
            )),
            () if self.projector_hidden_act != "gelu" => Err(format!(
                "projector_hidden_act `{}` is not supported",
                self.projector_hidden_act
            )),
            () if !self.multimodal_projector_bias => {
                Err("a projector without biases is not supported".into())
            }
            () => Ok(()),
        }
    }
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trained {
    /// Nothing: for answering questions.
    Nothing,
    /// The projector (stage 1).
    Projector,
    /// The projector and the language model (stage 2).
    ProjectorAndLanguage,
}

/// How a picture becomes square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// Centre crop (LLaVA's stage 1).
    Square,
    /// Padding with the mean colour (LLaVA 1.5's stage 2 and evaluation).
    Pad,
}

/// Features of one picture: (tokens per image) · (vision width) numbers. Cheap to clone.
pub type ImageFeatures = Arc<[f32]>;

/// A conversation and its pictures.
#[derive(Debug, Clone)]
pub struct Example {
    /// Tokens and labels.
    pub encoded: Encoded,
    /// One per image token, in order.
    pub features: Vec<ImageFeatures>,
}

/// The loss of a batch.
#[derive(Debug)]
pub struct BatchLoss {
    /// A scalar; call `backward` on it.
    pub value: Tensor,
    /// Positions with a label.
    pub supervised_count: usize,
    /// Positions in total.
    pub token_count: usize,
}

/// A model with its tokenizer and image preprocessing.
#[derive(Debug)]
pub struct Llava {
    pub(crate) config: LlavaConfig,
    pub(crate) folder: PathBuf,
    pub(crate) vision: ClipVision,
    pub(crate) projector: Projector,
    pub(crate) language: Llama,
    tokenizer: LlavaTokenizer,
    preprocessor: ImagePreprocessor,
}

impl Llava {
    /// Loads a Hugging Face LLaVA directory: `config.json`, `model*.safetensors`, `tokenizer.json`,
    /// `preprocessor_config.json`. All key layouts that transformers 4.37 to 5.x wrote are read.
    ///
    /// # Errors
    /// Names the file, and the field or tensor, that is missing, unexpected or wrong.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let Parts {
            mut config,
            tokenizer,
            preprocessor,
            weights,
        } = Parts::open(folder)?;
        let has = |name: &str| key_names(name).iter().any(|key| weights.contains(key));
        config.text_config.tie_word_embeddings = (config.tie_word_embeddings
            || config.text_config.tie_word_embeddings)
            && !has("language_model.lm_head.weight");
        let take = |name: &str, shape: &[usize]| {
            let found = key_names(name)
                .into_iter()
                .find(|key| weights.contains(key));
            Ok(weights.values(found.as_deref().unwrap_or(name), shape)?)
        };
        let vision = ClipVision::load(config.vision_config.clone(), |name, shape| {
            take(&format!("vision_tower.vision_model.{name}"), shape)
        })?;
        let is_two_layers = has("multi_modal_projector.linear_2.weight");
        let (inputs, outputs) = (
            config.vision_config.hidden_size,
            config.text_config.hidden_size,
        );
        let projector = Projector::load(inputs, outputs, is_two_layers, take)?;
        let language = Llama::load(config.text_config.clone(), take)?;
        weights.finish(&["position_ids", "rotary_emb.inv_freq", "image_newline"])?;
        Ok(Self {
            config,
            folder: folder.to_path_buf(),
            vision,
            projector,
            language,
            tokenizer,
            preprocessor,
        })
    }

    /// Looks at a directory without reading its weights: whether [`Llava::load`] would find a
    /// configuration it supports, a tokenizer that fits, and whole weight files.
    ///
    /// # Errors
    /// Those of [`Llava::load`] that show without reading tensors.
    pub fn inspect(folder: &Path) -> Result<Inspected, Error> {
        let Parts {
            config, weights, ..
        } = Parts::open(folder)?;
        let count = |key: &str| {
            weights
                .shape(key)
                .map_or(0, |shape| shape.iter().product::<usize>() as u64)
        };
        Ok(Inspected {
            parameter_count: weights.keys().map(count).sum(),
            config,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &LlavaConfig {
        &self.config
    }

    /// The directory it was loaded from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &LlavaTokenizer {
        &self.tokenizer
    }

    /// The language model.
    pub fn language(&self) -> &Llama {
        &self.language
    }

    /// Chooses what is trained.
    ///
    /// # Errors
    /// candle's.
    pub fn set_trained(&mut self, trained: Trained) -> Result<(), Error> {
        for parameter in self.projector.parameters_mut() {
            parameter.set_trained(trained != Trained::Nothing)?;
        }
        for parameter in self.language.parameters_mut() {
            parameter.set_trained(trained == Trained::ProjectorAndLanguage)?;
        }
        Ok(())
    }

    /// Parameters of projector and language model, trained or not, in a fixed order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> + Clone {
        self.projector
            .parameters()
            .chain(self.language.parameters())
    }

    /// The same, to be changed.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.projector
            .parameters_mut()
            .chain(self.language.parameters_mut())
    }

    /// Features of pictures, in order. A picture's features are the same bits in any batch.
    pub fn image_features(&self, pictures: &[RgbImage], aspect: Aspect) -> Vec<ImageFeatures> {
        pictures
            .par_iter()
            .map(|picture| self.features_of(picture, aspect))
            .collect()
    }

    /// Mean loss of a batch with gradients to what is trained. `divisor`: the number of supervised
    /// tokens to divide by, when the batch is a part of a larger one.
    ///
    /// # Errors
    /// Refuses a batch with nothing supervised, and pictures that do not match the image tokens.
    pub fn loss(&self, examples: &[Example], divisor: Option<usize>) -> Result<BatchLoss, Error> {
        let batch = self.lay_out(examples)?;
        let supervised_count = batch.targets.len();
        if supervised_count == 0 {
            return Err(Error::Input("no token of the batch is supervised".into()));
        }
        let hidden = self.hidden(&batch)?;
        let value =
            self.language
                .loss(&hidden, &batch.targets, divisor.unwrap_or(supervised_count))?;
        Ok(BatchLoss {
            value,
            supervised_count,
            token_count: batch.plan.len(),
        })
    }

    /// Logits of every position of a batch whose sequences lie end to end: (tokens, vocabulary).
    ///
    /// # Errors
    /// As [`Llava::loss`], except that nothing needs to be supervised.
    pub fn logits(&self, examples: &[Example]) -> Result<Tensor, Error> {
        let hidden = self.hidden(&self.lay_out(examples)?)?;
        Ok(self.language.logits(&hidden)?)
    }

    /// Embeddings of one sequence of tokens, pictures expanded: (positions, hidden) numbers.
    pub(crate) fn embed_prompt(
        &self,
        tokens: &[u32],
        features: &[ImageFeatures],
    ) -> Result<Vec<f32>, Error> {
        let encoded = Encoded {
            tokens: tokens.to_vec(),
            labels: vec![IGNORE; tokens.len()],
            unsupervised: None,
        };
        let batch = self.lay_out(&[Example {
            encoded,
            features: features.to_vec(),
        }])?;
        let x = self
            .language
            .embed(&batch.plan, &self.projector.forward(&batch.features)?)?;
        Ok(x.flatten_all()?.to_vec1()?)
    }

    fn hidden(&self, batch: &Batch) -> Result<Tensor, Error> {
        let projected = self.projector.forward(&batch.features)?;
        let x = self.language.embed(&batch.plan, &projected)?;
        Ok(self.language.hidden(x, &batch.lengths)?)
    }

    fn features_of(&self, picture: &RgbImage, aspect: Aspect) -> ImageFeatures {
        let pixels = match aspect {
            Aspect::Square => self.preprocessor.square(picture),
            Aspect::Pad => self.preprocessor.pad(picture),
        };
        let layers = self.config.feature_layers().unwrap_or(0);
        let state = self.vision.hidden_state(&pixels, layers);
        let skipped = if self.config.keeps_class_token() {
            0
        } else {
            self.config.vision_config.hidden_size
        };
        Arc::from(&state[skipped..])
    }

    fn lay_out(&self, examples: &[Example]) -> Result<Batch, Error> {
        let (per_image, width) = (
            self.config.tokens_per_image(),
            self.config.vision_config.hidden_size,
        );
        let mut layout = Layout::default();
        let mut features: Vec<f32> = Vec::new();
        for example in examples {
            let images = example.encoded.image_count(self.config.image_token_index);
            if images != example.features.len() {
                let given = example.features.len();
                return Err(Error::Input(format!(
                    "{images} `<image>` marks, but {given} pictures"
                )));
            }
            if example
                .features
                .iter()
                .any(|f| f.len() != per_image * width)
            {
                return Err(Error::Input("image features of another model".into()));
            }
            layout.append(&example.encoded, self.config.image_token_index, per_image)?;
            example
                .features
                .iter()
                .for_each(|f| features.extend_from_slice(f));
        }
        let limit = self.config.text_config.max_position_embeddings;
        if let Some(length) = layout
            .lengths
            .iter()
            .find(|&&length| length > limit || length == 0)
        {
            return Err(Error::Input(format!(
                "a sequence of {length} positions; 1 to {limit} are possible"
            )));
        }
        if features.is_empty() {
            features = vec![0.0; width]; // one row that no position takes
        }
        let rows = features.len() / width;
        Ok(Batch {
            plan: layout.plan.into(),
            lengths: layout.lengths.into(),
            targets: layout.targets.into(),
            features: Tensor::from_vec(features, (rows, width), &Device::Cpu)?,
        })
    }
}

/// What [`Llava::inspect`] found.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// The configuration.
    pub config: LlavaConfig,
    /// Numbers in all tensors.
    pub parameter_count: u64,
}

/// A directory opened and checked, tensors not yet read.
struct Parts {
    config: LlavaConfig,
    tokenizer: LlavaTokenizer,
    preprocessor: ImagePreprocessor,
    weights: Weights,
}

impl Parts {
    fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("config.json");
        let config: LlavaConfig = crate::checkpoint::read_json(&path)?;
        config
            .check()
            .map_err(|reason| Error::Config { path, reason })?;
        let expected = Expected {
            image_token: config.image_token_index,
            vocab_size: config.text_config.vocab_size,
            begin_token: config.text_config.bos_token_id,
            end_token: config
                .text_config
                .stop_tokens()
                .first()
                .copied()
                .unwrap_or(2),
        };
        let tokenizer = LlavaTokenizer::load(folder, expected)?;
        let preprocessor = ImagePreprocessor::load(folder)?;
        if preprocessor.side_px() != config.vision_config.image_size {
            let reason = format!(
                "`crop_size` is not the tower's image_size {}",
                config.vision_config.image_size
            );
            return Err(Error::Config {
                path: folder.join("preprocessor_config.json"),
                reason,
            });
        }
        let weights = Weights::open_in(folder, &["model"])?;
        Ok(Self {
            config,
            tokenizer,
            preprocessor,
            weights,
        })
    }
}

/// A batch with sequences end to end.
struct Batch {
    plan: Arc<[Source]>,
    lengths: Arc<[usize]>,
    targets: Arc<[Target]>,
    features: Tensor,
}

#[derive(Default)]
struct Layout {
    plan: Vec<Source>,
    lengths: Vec<usize>,
    targets: Vec<Target>,
    feature_rows: u32,
}

impl Layout {
    fn append(
        &mut self,
        encoded: &Encoded,
        image_token: u32,
        per_image: usize,
    ) -> Result<(), Error> {
        let start = self.plan.len();
        for (&token, &label) in encoded.tokens.iter().zip(&encoded.labels) {
            if label != IGNORE && self.plan.len() > start {
                let token =
                    u32::try_from(label).map_err(|_| Error::Input(format!("label {label}")))?;
                self.targets.push(Target {
                    row: self.plan.len() as u32 - 1,
                    token,
                });
            }
            if token == image_token {
                let rows = self.feature_rows..self.feature_rows + per_image as u32;
                self.feature_rows = rows.end;
                self.plan.extend(rows.map(Source::Feature));
            } else {
                self.plan.push(Source::Token(token));
            }
        }
        self.lengths.push(self.plan.len() - start);
        Ok(())
    }
}

/// The names that a tensor has had in files written by transformers 4.37 to 5.x, canonical first.
fn key_names(canonical: &str) -> Vec<String> {
    let mut names = vec![canonical.to_owned()];
    if let Some(leaf) = canonical.strip_prefix("vision_tower.vision_model.") {
        names.push(format!("vision_tower.{leaf}")); // 5.6 and later
        names.push(format!("model.vision_tower.vision_model.{leaf}")); // 5.4
        names.push(format!("model.vision_tower.{leaf}")); // in-memory names
    } else if let Some(leaf) = canonical.strip_prefix("language_model.model.") {
        names.push(format!("model.language_model.model.{leaf}")); // 5.4
        names.push(format!("model.language_model.{leaf}")); // in-memory names
    } else if canonical.starts_with("multi_modal_projector.") {
        names.push(format!("model.{canonical}")); // 5.4 and in-memory names
    } else if canonical == "language_model.lm_head.weight" {
        names.push("lm_head.weight".into()); // in-memory names
        names.push("model.language_model.lm_head.weight".into());
    }
    names
}
