//! What is asked of a checkpoint, and what it refuses.

use super::denoiser::Denoiser;
use super::error::invalid;
use super::{Error, Original, Pipeline};
use crate::scheduler::Kind;

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
    /// What not to show; may be empty, which for a checkpoint with `force_zeros_for_empty_prompt` (as
    /// Stable Diffusion XL) stands for states of zeros, as no negative prompt does in diffusers.
    pub negative_prompt: String,
    /// Seed of the noise, as `torch.Generator("cpu").manual_seed` takes it.
    pub seed: u64,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance (Ho and Salimans 2022); 1 or less switches it off, and with it the
    /// negative prompt: one model evaluation a step, as Turbo wants it. FLUX takes it as an input, or not
    /// at all, and no negative prompt.
    pub guidance: f32,
    /// Width in pixels, a multiple of the autoencoder's scale.
    pub width_px: usize,
    /// Height in pixels, a multiple of the autoencoder's scale.
    pub height_px: usize,
    /// How the prompts are read.
    pub syntax: PromptSyntax,
    /// The sampler; `None` for the checkpoint's own.
    pub scheduler: Option<Kind>,
    /// How much of guidance's over-exposure is taken back, 0 to 1 (Lin et al. 2024, section 3.4).
    pub guidance_rescale: f32,
    /// Last layers of the text encoders that the prompt does not go through; the negative prompt goes
    /// through all, as in diffusers.
    pub clip_skip: usize,
    /// What to go on from; `None` for noise alone.
    pub original: Option<Original>,
}

impl Default for Request {
    /// An empty prompt by diffusers' defaults, and of no size.
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative_prompt: String::new(),
            seed: 0,
            steps: 50,
            guidance: 7.5,
            width_px: 0,
            height_px: 0,
            syntax: PromptSyntax::Plain,
            scheduler: None,
            guidance_rescale: 0.,
            clip_skip: 0,
            original: None,
        }
    }
}

impl Pipeline {
    /// Pixels along one side of one latent.
    pub fn scale_px(&self) -> usize {
        self.vae.config().scale()
    }

    /// What widths and heights are multiples of: one latent, or one token of a transformer.
    pub fn size_multiple_px(&self) -> usize {
        self.scale_px() * self.denoiser.patch()
    }

    /// The side of the square that the model was trained on.
    pub fn default_side_px(&self) -> usize {
        self.denoiser.own_side() * self.scale_px()
    }

    /// The longest side of a picture. Both sides at once give [`MAX_SIDE_RATIO`]² times the pixels
    /// that the model was trained on.
    pub fn max_side_px(&self) -> usize {
        let most = self.default_side_px().saturating_mul(MAX_SIDE_RATIO);
        let drawn = self.denoiser.max_side().saturating_mul(self.scale_px());
        most.min(MAX_SIDE_PX).min(drawn)
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
        let (scale, most) = (self.size_multiple_px(), self.max_side_px());
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
        if !(0. ..=1.).contains(&request.guidance_rescale) {
            let reason = format!("{} is not within 0 to 1", request.guidance_rescale);
            return Err(invalid("guidance_rescale", reason));
        }
        let is_joint = !matches!(self.denoiser, Denoiser::Unet(_));
        if is_joint && request.clip_skip > 0 {
            let reason = "is for models with a UNet; use 0";
            return Err(invalid("clip_skip", reason));
        }
        let layers = self.texts.iter().map(|text| text.model.layer_count());
        let most = layers.min().unwrap_or_default().saturating_sub(1);
        if request.clip_skip > most {
            let reason = format!("{} layers, at most {most}", request.clip_skip);
            return Err(invalid("clip_skip", reason));
        }
        self.check_original(request)?;
        self.start(request)?;
        self.check_prompt("prompt", &request.prompt, request.syntax)?;
        self.check_prompt("negative_prompt", &request.negative_prompt, request.syntax)
    }

    fn check_original(&self, request: &Request) -> Result<(), Error> {
        let asked = (request.width_px, request.height_px);
        let mask = request.original.as_ref().and_then(|o| o.mask.as_ref());
        if self.only_inpaints() && mask.is_none() {
            let reason = "is missing: this checkpoint only repaints a part of a picture";
            return Err(invalid("mask_image", reason));
        }
        let Some(original) = &request.original else {
            return Ok(());
        };
        // The way back from a picture is proved for UNets alone.
        if !matches!(self.denoiser, Denoiser::Unet(_)) {
            let reason = "is for models with a UNet; this one begins with noise";
            return Err(invalid("init_image", reason));
        }
        if !(original.strength > 0. && original.strength <= 1.) {
            let reason = format!("{} is not over 0 and at most 1", original.strength);
            return Err(invalid("strength", reason));
        }
        let files = [
            ("init_image", Some(&original.picture)),
            ("mask_image", mask),
        ];
        for (field, file) in files {
            let Some((width, height)) = file.map(|f| f.size_px()).filter(|size| *size != asked)
            else {
                continue;
            };
            let reason = format!(
                "is {width} × {height} px, the picture shall have {} × {} px",
                asked.0, asked.1
            );
            return Err(invalid(field, reason));
        }
        Ok(())
    }

    fn check_prompt(
        &self,
        field: &'static str,
        text: &str,
        syntax: PromptSyntax,
    ) -> Result<(), Error> {
        if text.len() > MAX_PROMPT_BYTES {
            let reason = format!("{} bytes, at most {MAX_PROMPT_BYTES}", text.len());
            return Err(invalid(field, reason));
        }
        if syntax == PromptSyntax::Webui && !matches!(self.denoiser, Denoiser::Unet(_)) {
            let reason = "webui is for models with CLIP's text encoders alone; use plain";
            return Err(invalid("prompt_syntax", reason));
        }
        for encoder in &self.texts {
            let count = encoder.tokenizer.encode(text)?.len();
            if count > MAX_PROMPT_TOKENS {
                let reason = format!("{count} tokens, at most {MAX_PROMPT_TOKENS}");
                return Err(invalid(field, reason));
            }
            if syntax == PromptSyntax::Webui {
                // Each BREAK begins a chunk, however few tokens stand before it.
                let count = encoder.chunks(text, syntax, &mut Vec::new())?.len();
                if count > MAX_PROMPT_CHUNKS {
                    let reason = format!("{count} chunks, at most {MAX_PROMPT_CHUNKS}");
                    return Err(invalid(field, reason));
                }
            }
        }
        Ok(())
    }
}
