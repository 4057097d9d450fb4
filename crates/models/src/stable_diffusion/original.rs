//! Pictures that are gone on from: image to image, and repainting a part.
//!
//! As diffusers' `StableDiffusionImg2ImgPipeline` and `StableDiffusionInpaintPipeline` do, and those of
//! XL: the same numbers drawn in the same order, so that a seed gives their picture.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use image::ImageError;

use super::error::invalid;
use super::{Error, Pipeline, Request};
use crate::clip_image::{RgbImage, decode_rgb, dimensions_px};
use crate::ops::values::values;
use crate::scheduler::{Level, Trajectory};
use crate::torch_rng::TorchRng;

/// A picture to go on from, and how far.
#[derive(Clone, Debug, PartialEq)]
pub struct Original {
    /// The picture, of the size that is asked for.
    pub picture: PictureFile,
    /// The part of the way to go, over 0 to 1.
    pub strength: f64,
    /// White (half of the light or more) where it is to be repainted; `None` for everywhere.
    pub mask: Option<PictureFile>,
}

/// A PNG or JPEG file whose head was read. It is decoded when its turn comes, so that pictures that
/// wait take little memory.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureFile {
    bytes: Arc<[u8]>,
    width_px: usize,
    height_px: usize,
}

impl PictureFile {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// The decoder's, and when a side is over 16,384 pixels.
    pub fn open(bytes: &[u8]) -> Result<Self, ImageError> {
        let (width_px, height_px) = dimensions_px(bytes)?;
        Ok(Self {
            bytes: bytes.into(),
            width_px: width_px as usize,
            height_px: height_px as usize,
        })
    }

    /// Width and height in pixels.
    pub fn size_px(&self) -> (usize, usize) {
        (self.width_px, self.height_px)
    }

    /// The encoded file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn decode(&self, field: &'static str) -> Result<RgbImage, Error> {
        let picture = decode_rgb(&self.bytes);
        picture.map_err(|e| invalid(field, format!("cannot be decoded: {e}")))
    }
}

/// What a picture begins with.
pub(super) struct Beginning {
    pub(super) latents: Vec<f32>,
    pub(super) surroundings: Surroundings,
}

/// What is known of the part of a picture that stays.
pub(super) enum Surroundings {
    /// Nothing stays.
    None,
    /// A UNet that knows nothing of masks: after each step what stays is put back.
    Kept {
        /// `(channels, height, width)`, without noise.
        clean: Vec<f32>,
        /// As many unit normal numbers.
        noise: Vec<f32>,
        /// 1 where the picture is repainted, once for each place and channel.
        mask: Vec<f32>,
    },
    /// An inpainting UNet is told: planes of the mask and of the latents of what stays.
    Told(Vec<f32>),
}

impl Surroundings {
    /// Planes that the UNet sees behind the latents.
    pub(super) fn planes(&self) -> &[f32] {
        match self {
            Self::Told(planes) => planes,
            _ => &[],
        }
    }

    /// Puts back what stays, under the noise of the place that the picture has come to.
    pub(super) fn restore(&self, level: Level, latents: &mut [f32]) {
        if let Self::Kept { clean, noise, mask } = self {
            let kept = clean.iter().zip(noise).zip(mask);
            for (x, ((clean, noise), mask)) in latents.iter_mut().zip(kept) {
                let original = level.signal * clean + level.noise * noise;
                *x = (1. - mask) * original + mask * *x;
            }
        }
    }
}

impl Pipeline {
    /// Whether its UNet wants a mask and a picture, and makes nothing without.
    pub fn only_inpaints(&self) -> bool {
        self.denoiser.channels() != self.vae.config().latent_channels
    }

    /// The latents before the first step, drawn in diffusers' order.
    pub(super) fn beginning(
        &self,
        request: &Request,
        trajectory: &Trajectory,
        rng: &mut TorchRng,
    ) -> Result<Beginning, Error> {
        let count = self.latent_shape(request).iter().product();
        let from_noise = |noise: Vec<f32>| -> Vec<f32> {
            let scale = trajectory.initial_scale();
            noise.into_iter().map(|v| v * scale).collect()
        };
        let Some(original) = &request.original else {
            return Ok(Beginning {
                latents: from_noise(rng.randn(count)),
                surroundings: Surroundings::None,
            });
        };
        let picture = original.picture.decode("init_image")?;
        // Only repainting everything begins without the picture.
        let is_whole = original.mask.is_some() && original.strength >= 1.;
        let clean = match is_whole && self.only_inpaints() {
            true => Vec::new(),
            false => self.latents_of(&pixels(&picture, None), &picture, rng.randn(count))?,
        };
        let noise = rng.randn(count);
        let latents = match is_whole {
            true => from_noise(noise.clone()),
            false => mixed(trajectory.level(), &clean, &noise),
        };
        let surroundings = match &original.mask {
            None => Surroundings::None,
            Some(mask) => {
                let mask = Mask::decode(mask, self.scale_px())?;
                // Drawn whether or not the UNet wants them, as diffusers does.
                let drawn = rng.randn(count);
                match self.only_inpaints() {
                    true => self.told(&picture, &mask, drawn)?,
                    false => Surroundings::Kept {
                        mask: mask.places.repeat(self.vae.config().latent_channels),
                        clean,
                        noise,
                    },
                }
            }
        };
        Ok(Beginning {
            latents,
            surroundings,
        })
    }

    fn told(
        &self,
        picture: &RgbImage,
        mask: &Mask,
        noise: Vec<f32>,
    ) -> Result<Surroundings, Error> {
        let stays = self.latents_of(&pixels(picture, Some(mask)), picture, noise)?;
        let mut planes = mask.places.clone();
        planes.extend(stays);
        Ok(Surroundings::Told(planes))
    }

    /// Latents of a picture of the size of `like`, drawn with `noise`.
    fn latents_of(
        &self,
        pixels: &[f32],
        like: &RgbImage,
        noise: Vec<f32>,
    ) -> Result<Vec<f32>, Error> {
        let (width, height) = like.dimensions();
        let shape = (1, height as usize, width as usize, 3);
        let picture = Tensor::from_slice(pixels, shape, &Device::Cpu)?;
        Ok(values(&self.vae.encode_drawn(&picture, &noise)?)?.to_vec())
    }
}

/// Where a picture is repainted.
struct Mask {
    /// 1 where it is, for each pixel.
    pixels: Vec<f32>,
    /// The same for each latent: that of its first pixel, as `interpolate` takes the nearest.
    places: Vec<f32>,
}

impl Mask {
    fn decode(file: &PictureFile, scale: usize) -> Result<Self, Error> {
        let picture = file.decode("mask_image")?;
        let (width, height) = file.size_px();
        let pixels: Vec<f32> = picture
            .pixels()
            .map(|pixel| f32::from(luma(pixel.0) >= 128))
            .collect();
        let rows = (0..height).step_by(scale);
        let places = rows.flat_map(|y| (0..width).step_by(scale).map(move |x| y * width + x));
        Ok(Self {
            places: places.filter_map(|i| pixels.get(i).copied()).collect(),
            pixels,
        })
    }
}

/// Pillow's `convert("L")`: ITU-R 601 in 16-bit integers.
fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue);
    ((sum + 0x8000) >> 16) as u8
}

/// `(height, width, 3)` in [-1, 1]; 0, a middle grey, where `mask` repaints.
fn pixels(picture: &RgbImage, mask: Option<&Mask>) -> Vec<f32> {
    let all = picture
        .as_raw()
        .iter()
        .map(|v| 2. * (f32::from(*v) / 255.) - 1.);
    match mask {
        None => all.collect(),
        Some(mask) => {
            let stays = mask.pixels.iter().flat_map(|m| [1. - m; 3]);
            all.zip(stays).map(|(v, stays)| v * stays).collect()
        }
    }
}

fn mixed(level: Level, clean: &[f32], noise: &[f32]) -> Vec<f32> {
    let pairs = clean.iter().zip(noise);
    pairs
        .map(|(clean, noise)| level.signal * clean + level.noise * noise)
        .collect()
}
