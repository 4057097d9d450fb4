//! What an operator says of a remote image model.

use std::str::FromStr;

use clap::Args;

/// What the server of the back-end `openai-images` offers; where it is, and every bound on it, stands
/// in the options of remote models, --llm-url and those after it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Remote image model")]
pub struct RemoteOptions {
    /// Size that the server offers, as WIDTHxHEIGHT in pixels; repeat it for more. The first is the
    /// default; others are refused.
    #[arg(long = "image-size", env = "DIPTYCH_IMAGE_SIZES", value_delimiter = ',', default_value = DEFAULT_SIZE, value_name = "SIZE")]
    pub sizes: Vec<ImageSize>,
    /// The server takes `seed`, `negative_prompt`, `num_inference_steps` and `guidance_scale` beside
    /// OpenAI's own fields, and the same seed gives the same picture, as vLLM-Omni and SGLang have it.
    /// Without it seeds, steps and guidance are not sent, and pictures are marked as made without.
    #[arg(long = "image-settings", env = "DIPTYCH_IMAGE_SETTINGS")]
    pub takes_settings: bool,
}

/// The one size that all providers offer.
const DEFAULT_SIZE: &str = "1024x1024";

impl Default for RemoteOptions {
    fn default() -> Self {
        let size = ImageSize {
            width_px: 1024,
            height_px: 1024,
        };
        Self {
            sizes: vec![size],
            takes_settings: false,
        }
    }
}

/// Width and height of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSize {
    /// In pixels.
    pub width_px: u32,
    /// In pixels.
    pub height_px: u32,
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.parse().ok().filter(|side| (1..=16_384).contains(side));
        let sides = text.split_once('x');
        let sides = sides.and_then(|(width, height)| Some((side(width)?, side(height)?)));
        let (width_px, height_px) =
            sides.ok_or_else(|| format!("{text:?} should look like 1024x1024"))?;
        Ok(Self {
            width_px,
            height_px,
        })
    }
}

impl std::fmt::Display for ImageSize {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}x{}", self.width_px, self.height_px)
    }
}
