//! What is asked of a checkpoint, and what it refuses.

use super::denoiser::Denoiser;
use super::error::invalid;
use super::{Error, Pipeline};
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
        self.start(request)?;
        self.check_prompt("prompt", &request.prompt, request.syntax)?;
        self.check_prompt("negative_prompt", &request.negative_prompt, request.syntax)
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
