//! What `diptych generate` goes on from, and how many pictures it makes.

use std::path::PathBuf;

use clap::Args;

/// Further arguments of `generate`.
#[derive(Debug, Args)]
pub struct PictureArgs {
    /// Picture to go on from, a PNG or JPEG file; its size is the result's.
    #[arg(long, value_name = "FILE")]
    pub init_image: Option<PathBuf>,
    /// White where the picture is repainted, and black where it stays; of the same size [default:
    /// everywhere].
    #[arg(long, requires = "init_image", value_name = "FILE")]
    pub mask: Option<PathBuf>,
    /// How far to go from the picture, over 0 to 1: so many of the steps are made [default: 0.8].
    #[arg(long, requires = "init_image", value_parser = strength, value_name = "F")]
    pub strength: Option<f32>,
    /// Pictures to make; the k-th, from 0, has the seed plus k and is written to FILE-k.png.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64), value_name = "N")]
    pub num_images: u32,
    /// How much of guidance's over-exposure is taken back, 0 to 1 (Lin et al. 2024, section 3.4).
    #[arg(long, default_value_t = 0.0, value_parser = rescale, value_name = "F")]
    pub guidance_rescale: f32,
    /// Last layers of the text encoder that the prompt does not go through.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100), value_name = "N")]
    pub clip_skip: u32,
    /// Write a picture that the checkpoint's safety checker flags; without it that is refused.
    #[arg(long)]
    pub allow_unsafe: bool,
}

fn strength(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|&s: &f32| s > 0. && s <= 1.);
    value.ok_or_else(|| "give a number over 0, and at most 1".to_owned())
}

fn rescale(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|s| (0. ..=1.).contains(s));
    value.ok_or_else(|| "give a number from 0 to 1".to_owned())
}
