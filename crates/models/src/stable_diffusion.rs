//! Stable Diffusion from a directory in diffusers' layout: text → noise → picture, step by step.
//!
//! A picture in the making is a [`Denoising`]: it owns its latents, its place in the sampler and its
//! random numbers. [`Pipeline::step`] moves any set of them on by one model evaluation, so a service
//! can let pictures join and leave between steps. A picture's numbers never depend on its company.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::clip_text::ClipText;
use crate::clip_tokenizer::{self, ClipTokenizer};
use crate::config::{self, Fields, LoadError};
use crate::ops::values::values;
use crate::prompt_weighting as weighting;
use crate::scheduler::{self, Kind, Trajectory, Way};
use crate::torch_rng::TorchRng;
use crate::unet::{Context, Unet};
use crate::vae::Vae;
use crate::weights::{self, Weights, checkpoint_sha256};

/// The longest side of a picture, whatever the model.
pub const MAX_SIDE_PX: usize = 2048;
/// The longest side of a picture, in sides of the square that the model was trained on: attention
/// takes the square of a picture's pixels, and a model makes nothing of use far from its own size.
pub const MAX_SIDE_RATIO: usize = 4;
/// The longest prompt, in tokens (about 13 chunks of Stable Diffusion's 75).
pub const MAX_PROMPT_TOKENS: usize = 1000;
/// The most chunks of a prompt; each is one pass through the text encoder.
pub const MAX_PROMPT_CHUNKS: usize = 14;
/// The longest prompt, in bytes; looked at before the tokenizer is.
pub const MAX_PROMPT_BYTES: usize = 32 << 10;
/// The strongest guidance.
pub const MAX_GUIDANCE: f32 = 100.;

/// How a prompt is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptSyntax {
    /// As diffusers: all marks are words, and what is over the encoder's length is cut.
    #[default]
    Plain,
    /// As the web interfaces: emphasis, BREAK, chunks. See [`crate::prompt_weighting`].
    Webui,
}

/// One picture that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to show.
    pub prompt: String,
    /// What not to show; may be empty.
    pub negative_prompt: String,
    /// Seed of the noise, as `torch.Generator("cpu").manual_seed` takes it.
    pub seed: u64,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance (Ho and Salimans 2022); 1 or less switches it off.
    pub guidance: f32,
    /// Width in pixels, a multiple of the autoencoder's scale.
    pub width_px: usize,
    /// Height in pixels, a multiple of the autoencoder's scale.
    pub height_px: usize,
    /// How the prompts are read.
    pub syntax: PromptSyntax,
    /// The sampler; `None` for the checkpoint's own.
    pub scheduler: Option<Kind>,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The model gave NaN or infinity.
    #[error("the model gave a value that is not finite: no picture")]
    NotFinite,
    /// The picture is one colour all over.
    #[error("the model gave a picture of one colour: no picture")]
    Blank,
    /// The prompt cannot be tokenized.
    #[error(transparent)]
    Tokenizer(#[from] clip_tokenizer::Error),
    /// Shapes that do not fit: a bug here.
    #[error("cannot compute")]
    Candle(#[from] candle_core::Error),
}

fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
    Error::Invalid {
        field,
        reason: reason.into(),
    }
}

/// A finished picture, 8 bits per channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width_px: usize,
    /// Height in pixels.
    pub height_px: usize,
    /// Red, green, blue, row by row.
    pub rgb: Vec<u8>,
}

/// A loaded checkpoint.
pub struct Pipeline {
    name: String,
    sha256: String,
    parameter_count: u64,
    tokenizer: ClipTokenizer,
    text: ClipText,
    unet: Unet,
    vae: Vae,
    scheduler: scheduler::Config,
}

impl Pipeline {
    /// Loads a directory with `model_index.json`; `name` is what it is served as.
    ///
    /// # Errors
    /// [`LoadError`], naming the file and the field or tensor. Nothing is loaded by halves.
    pub fn load(folder: &Path, name: &str) -> Result<Self, LoadError> {
        check_index(&folder.join("model_index.json"))?;
        let scheduler = scheduler::Config::read(&folder.join("scheduler/scheduler_config.json"))?;
        let pipeline = Self {
            name: name.to_owned(),
            sha256: checkpoint_sha256(folder, &checkpoint_files(folder)?)?,
            parameter_count: count_parameters(folder)?,
            tokenizer: ClipTokenizer::load(&folder.join("tokenizer"))?,
            text: ClipText::load(&folder.join("text_encoder"))?,
            unet: Unet::load(&folder.join("unet"))?,
            vae: Vae::load(&folder.join("vae"))?,
            scheduler: scheduler.for_latents(),
        };
        pipeline.check_parts(folder)?;
        Ok(pipeline)
    }

    /// The name it is served as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 over all files of the checkpoint, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Numbers in the weights of all parts.
    pub fn parameter_count(&self) -> u64 {
        self.parameter_count
    }

    /// Pixels along one side of one latent: widths and heights are multiples of it.
    pub fn scale_px(&self) -> usize {
        self.vae.config().scale()
    }

    /// The side of the square that the model was trained on.
    pub fn default_side_px(&self) -> usize {
        self.unet.config().sample_size.unwrap_or(64) * self.scale_px()
    }

    /// The longest side of a picture. Both sides at once give [`MAX_SIDE_RATIO`]² times the pixels
    /// that the model was trained on.
    pub fn max_side_px(&self) -> usize {
        let most = self.default_side_px().saturating_mul(MAX_SIDE_RATIO);
        most.min(MAX_SIDE_PX)
    }

    /// What a picture costs the device, in pictures of the model's own size, rounded up.
    pub fn cost(&self, request: &Request) -> usize {
        let own = self.default_side_px().saturating_pow(2).max(1);
        let pixels = request.width_px.saturating_mul(request.height_px);
        pixels.div_ceil(own)
    }

    /// The sampler's name that `kind`, or the checkpoint, asks for.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that does not fit the checkpoint.
    pub fn scheduler_name(&self, kind: Option<Kind>) -> Result<&'static str, Error> {
        Ok(self.scheduler(kind)?.name())
    }

    /// Looks at a request without computing anything.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the field.
    pub fn check(&self, request: &Request) -> Result<(), Error> {
        let (scale, most) = (self.scale_px(), self.max_side_px());
        for (field, side) in [
            ("width_px", request.width_px),
            ("height_px", request.height_px),
        ] {
            if side == 0 || side > most || !side.is_multiple_of(scale) {
                let reason = format!("{side} is not a multiple of {scale} from {scale} to {most}");
                return Err(invalid(field, reason));
            }
        }
        if !(0. ..=MAX_GUIDANCE).contains(&request.guidance) {
            return Err(invalid(
                "guidance",
                format!("{} is not within 0 to {MAX_GUIDANCE}", request.guidance),
            ));
        }
        self.start(request)?;
        for (field, text) in [
            ("prompt", &request.prompt),
            ("negative_prompt", &request.negative_prompt),
        ] {
            if text.len() > MAX_PROMPT_BYTES {
                return Err(invalid(
                    field,
                    format!("{} bytes, at most {MAX_PROMPT_BYTES}", text.len()),
                ));
            }
            let count = self.tokenizer.encode(text)?.len();
            if count > MAX_PROMPT_TOKENS {
                return Err(invalid(
                    field,
                    format!("{count} tokens, at most {MAX_PROMPT_TOKENS}"),
                ));
            }
            if request.syntax == PromptSyntax::Webui {
                // Each BREAK begins a chunk, however few tokens stand before it.
                let count = self.weighted_chunks(text)?.len();
                if count > MAX_PROMPT_CHUNKS {
                    let reason = format!("{count} chunks, at most {MAX_PROMPT_CHUNKS}");
                    return Err(invalid(field, reason));
                }
            }
        }
        Ok(())
    }

    /// Starts a picture: encodes its prompts and draws its noise.
    ///
    /// # Errors
    /// [`Error::Invalid`], and what the encoder gives.
    pub fn begin(&self, request: &Request) -> Result<Denoising, Error> {
        self.check(request)?;
        let trajectory = self.start(request)?;
        let mut warnings = Vec::new();
        let text = self.context(&request.prompt, request.syntax, &mut warnings)?;
        let guided = request.guidance > 1.;
        let negative =
            guided.then(|| self.context(&request.negative_prompt, request.syntax, &mut warnings));
        let scale = self.scale_px();
        let shape = [
            self.unet.config().in_channels,
            request.height_px / scale,
            request.width_px / scale,
        ];
        let mut rng = TorchRng::new(request.seed);
        let mut latents = rng.randn(shape.iter().product());
        let initial = trajectory.initial_scale();
        latents.iter_mut().for_each(|v| *v *= initial);
        let negative = negative.transpose()?;
        Ok(Denoising {
            latents,
            shape,
            trajectory,
            rng,
            guidance: request.guidance,
            text,
            negative,
            done: 0,
            warnings,
        })
    }

    /// Moves each picture that is not done on by one model evaluation.
    ///
    /// # Errors
    /// [`Error::Candle`]; a picture that went wrong numerically is found by [`Pipeline::finish`].
    pub fn step(&self, pictures: &mut [&mut Denoising]) -> Result<(), Error> {
        let mut by_shape: BTreeMap<[usize; 3], Vec<&mut Denoising>> = BTreeMap::new();
        for picture in pictures.iter_mut().filter(|p| !p.is_done()) {
            by_shape.entry(picture.shape).or_default().push(picture);
        }
        for (shape, mut group) in by_shape {
            let predictions = self.predict(shape, &group)?;
            let mut rows = values(&predictions)?
                .chunks(shape.iter().product())
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>()
                .into_iter();
            for picture in &mut group {
                picture.advance(&mut rows);
            }
        }
        Ok(())
    }

    /// Decodes pictures that are done; one result each.
    pub fn finish(&self, pictures: &[&Denoising]) -> Vec<Result<Picture, Error>> {
        pictures
            .par_iter()
            .map(|picture| self.decode(picture))
            .collect()
    }

    /// Makes one picture from start to end.
    ///
    /// # Errors
    /// As [`Pipeline::begin`], [`Pipeline::step`] and [`Pipeline::finish`].
    pub fn generate(&self, request: &Request) -> Result<Picture, Error> {
        let mut picture = self.begin(request)?;
        while !picture.is_done() {
            self.step(&mut [&mut picture])?;
        }
        self.decode(&picture)
    }

    fn scheduler(&self, kind: Option<Kind>) -> Result<Box<dyn scheduler::Scheduler>, Error> {
        self.scheduler
            .build(kind)
            .map_err(|e| invalid("scheduler", e.to_string()))
    }

    fn start(&self, request: &Request) -> Result<Trajectory, Error> {
        self.scheduler(request.scheduler)?
            .start(&Way::of(request.steps))
            .map_err(|e| invalid("steps", e.to_string()))
    }

    /// Text states of a prompt, laid out for the UNet.
    fn context(
        &self,
        prompt: &str,
        syntax: PromptSyntax,
        warnings: &mut Vec<String>,
    ) -> Result<Arc<Context>, Error> {
        let length = self.prompt_length();
        let chunks = match syntax {
            PromptSyntax::Plain => {
                let mut tokens = self.tokenizer.encode(prompt)?;
                let over = tokens.len().saturating_sub(length - 2);
                if over > 0 {
                    warnings.push(format!("the last {over} tokens of the prompt were cut off"));
                    tokens.truncate(length - 2);
                }
                let weights = vec![1.; tokens.len()];
                vec![weighting::Chunk { tokens, weights }]
            }
            PromptSyntax::Webui => self.weighted_chunks(prompt)?,
        };
        let width = self.text.config().hidden_size;
        let mut states = Vec::new();
        for chunk in &chunks {
            let encoded = self
                .text
                .encode(&self.tokenizer.framed(&chunk.tokens, length))?;
            let mut rows = values(&encoded.hidden)?.to_vec();
            // Start, end and padding keep the weight 1.
            let mut weights = vec![1.; length];
            weights[1..=chunk.weights.len()].copy_from_slice(&chunk.weights);
            weighting::apply(&mut rows, width, &weights);
            states.extend(rows);
        }
        let states = Tensor::from_vec(states, (chunks.len() * length, width), &Device::Cpu)?;
        Ok(Arc::new(self.unet.context(&states)?))
    }

    fn weighted_chunks(&self, prompt: &str) -> Result<Vec<weighting::Chunk>, Error> {
        let capacity = self.prompt_length() - 2;
        let pieces = weighting::parse(prompt);
        Ok(weighting::chunks(&pieces, capacity, |text| {
            self.tokenizer.encode(text)
        })?)
    }

    /// Tokens that the text encoder takes at a time.
    fn prompt_length(&self) -> usize {
        let most = self.text.config().max_position_embeddings;
        self.tokenizer.max_length.map_or(most, |n| n.min(most))
    }

    /// The model's output for a group of one shape: for each picture one sample, two with guidance
    /// (negative prompt first).
    fn predict(&self, shape: [usize; 3], group: &[&mut Denoising]) -> Result<Tensor, Error> {
        let mut inputs = Vec::new();
        let mut timesteps = Vec::new();
        let mut contexts: Vec<&Context> = Vec::new();
        for picture in group {
            let divisor = picture.trajectory.input_divisor();
            for context in picture.negative.iter().chain([&picture.text]) {
                inputs.extend(picture.latents.iter().map(|v| v / divisor));
                timesteps.push(picture.trajectory.timestep().unwrap_or_default());
                contexts.push(context);
            }
        }
        let [channels, height, width] = shape;
        let inputs = Tensor::from_vec(
            inputs,
            (contexts.len(), channels, height, width),
            &Device::Cpu,
        )?;
        Ok(self.unet.forward(&inputs, &timesteps, &contexts)?)
    }

    fn decode(&self, picture: &Denoising) -> Result<Picture, Error> {
        if !picture.latents.iter().all(|v| v.is_finite()) {
            return Err(Error::NotFinite);
        }
        let [channels, height, width] = picture.shape;
        let latents =
            Tensor::from_slice(&picture.latents, (1, channels, height, width), &Device::Cpu)?;
        let decoded = self.vae.decode(&latents)?;
        let decoded = values(&decoded)?;
        if !decoded.iter().all(|v| v.is_finite()) {
            return Err(Error::NotFinite);
        }
        let byte = |v: &f32| ((v / 2. + 0.5).clamp(0., 1.) * 255.).round_ties_even() as u8;
        let rgb: Vec<u8> = decoded.iter().map(byte).collect();
        let pixels = rgb.as_chunks::<3>().0;
        if pixels.iter().all(|pixel| *pixel == pixels[0]) {
            return Err(Error::Blank);
        }
        let scale = self.scale_px();
        Ok(Picture {
            width_px: width * scale,
            height_px: height * scale,
            rgb,
        })
    }

    /// Parts that were each read well, but do not belong together.
    fn check_parts(&self, folder: &Path) -> Result<(), LoadError> {
        let bad = |part: &str, field: &str, reason: String| {
            let file = folder.join(part).join("config.json");
            Err(LoadError::Config(config::Error::Invalid {
                file,
                field: field.into(),
                reason,
            }))
        };
        let (text, unet, vae) = (self.text.config(), self.unet.config(), self.vae.config());
        if unet.cross_attention_dim != text.hidden_size {
            let reason = format!(
                "is {}, the text encoder gives {}",
                unet.cross_attention_dim, text.hidden_size
            );
            return bad("unet", "cross_attention_dim", reason);
        }
        if unet.in_channels != vae.latent_channels || unet.out_channels != vae.latent_channels {
            let reason = format!(
                "is {}, the autoencoder has {}",
                unet.in_channels, vae.latent_channels
            );
            return bad("unet", "in_channels", reason);
        }
        if self.tokenizer.vocab_size() > text.vocab_size || self.prompt_length() < 3 {
            let reason = format!(
                "is {}, the tokenizer has {} tokens",
                text.vocab_size,
                self.tokenizer.vocab_size()
            );
            return bad("text_encoder", "vocab_size", reason);
        }
        Ok(())
    }
}

/// A picture in the making.
pub struct Denoising {
    /// `(channels, height, width)`, row-major.
    latents: Vec<f32>,
    shape: [usize; 3],
    trajectory: Trajectory,
    rng: TorchRng,
    guidance: f32,
    text: Arc<Context>,
    negative: Option<Arc<Context>>,
    done: usize,
    /// What the caller should know, such as a prompt that was cut.
    pub warnings: Vec<String>,
}

impl Denoising {
    /// Whether it only needs to be decoded.
    pub fn is_done(&self) -> bool {
        self.trajectory.timestep().is_none()
    }

    /// Model evaluations made.
    pub fn evaluations_done(&self) -> usize {
        self.done
    }

    /// Model evaluations of the whole way.
    pub fn evaluations(&self) -> usize {
        self.trajectory.evaluations()
    }

    /// Takes its predictions, guides, and moves on.
    fn advance(&mut self, rows: &mut impl Iterator<Item = Vec<f32>>) {
        let mut output = rows.next().unwrap_or_default();
        if self.negative.is_some() {
            let text = rows.next().unwrap_or_default();
            let guidance = self.guidance;
            output
                .iter_mut()
                .zip(text)
                .for_each(|(o, t)| *o += guidance * (t - *o));
        }
        self.trajectory
            .advance(&output, &mut self.latents, &mut self.rng);
        self.done += 1;
    }
}

/// The parts that are loaded, and the classes that can be.
const PARTS: [(&str, &[&str]); 4] = [
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
];

fn check_index(file: &Path) -> Result<(), LoadError> {
    let mut fields = Fields::open(file)?;
    fields.only("_class_name", "StableDiffusionPipeline")?;
    for (part, classes) in PARTS {
        let (_, class): (String, String) = fields.require(part)?;
        if !classes.contains(&class.as_str()) {
            return Err(fields
                .unsupported(part, &class.into(), &classes.join(", "))
                .into());
        }
    }
    // Read from its own file, which has the class too. A safety checker is not run, and the service's
    // replies say that nothing was checked.
    fields.ignore(&[
        "scheduler",
        "safety_checker",
        "feature_extractor",
        "requires_safety_checker",
    ]);
    for adapter in ["image_encoder"] {
        match fields.take::<(Option<String>, Option<String>)>(adapter)? {
            Some((_, Some(class))) => {
                return Err(fields.unsupported(adapter, &class.into(), "none").into());
            }
            _ => continue,
        }
    }
    Ok(fields.finish()?)
}

/// Every file that decides the picture.
fn checkpoint_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let mut files = vec![folder.join("model_index.json")];
    for part in PARTS.iter().map(|(part, _)| *part).chain(["scheduler"]) {
        files.extend(weights::deciding_files(&folder.join(part))?);
    }
    Ok(files)
}

/// Numbers in the weights of all parts.
fn count_parameters(folder: &Path) -> Result<u64, LoadError> {
    let parts = ["text_encoder", "unet", "vae"];
    let count = |part| {
        Ok(
            Weights::open_in(&folder.join(part), &["model", "diffusion_pytorch_model"])?
                .parameter_count(),
        )
    };
    parts.into_iter().map(count).sum()
}
