//! Pictures to normalised pixels, as `CLIPImageProcessor` on Pillow does it, to the same level.
//!
//! Pillow resizes in two passes with 22-bit fixed-point weights and rounds to 8 bits between them;
//! so does this, rows first. Pillow 13 takes columns first where that is less work, so its result for a
//! picture taller than wide may differ by a level. `pad` is LLaVA's `expand2square` before it, `square` the plain centre crop. SigLIP and
//! ViT squeeze a picture into their square instead, and cut nothing: [`ImagePreprocessor::load_exact`].

use std::path::Path;

use image::Rgb;
pub use image::RgbImage;
use serde::Deserialize;

use crate::llava_error::Error;

/// Bits behind the binary point of Pillow's weights: 32 − 8 − 2.
const PRECISION_BITS: u32 = 22;

/// `preprocessor_config.json`.
#[derive(Debug, Clone)]
pub struct ImagePreprocessor {
    resize_px: u32,
    crop_px: u32,
    /// Squeezed into the square, and not cropped.
    is_exact: bool,
    filter: Filter,
    mean: [f32; 3],
    std: [f32; 3],
}

impl ImagePreprocessor {
    /// Reads `preprocessor_config.json` in `folder`.
    ///
    /// # Errors
    /// Names the file and what in it cannot be used.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("preprocessor_config.json");
        Self::read(&path)
    }

    /// Reads `file`, of the form of CLIP's `preprocessor_config.json`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file: File = crate::checkpoint::read_json(path)?;
        let bad = |reason: &str| bad(path, reason);
        let resize_px = file
            .size
            .side()
            .ok_or_else(|| bad("`size` must be a side of at least 1 pixel"))?;
        let crop_px = file.crop_size.unwrap_or(file.size).side();
        let crop_px =
            crop_px.ok_or_else(|| bad("`crop_size` must be a side of at least 1 pixel"))?;
        if crop_px > resize_px || resize_px > 4096 {
            return Err(bad("`crop_size` exceeds `size`, or `size` exceeds 4096"));
        }
        if file.resample != 3 {
            return Err(bad("`resample` must be 3 (bicubic)"));
        }
        if file.image_std.iter().any(|&s| s <= 0.0) {
            return Err(bad("`image_std` must be positive"));
        }
        Ok(Self {
            resize_px,
            crop_px,
            is_exact: false,
            filter: Filter::Bicubic,
            mean: file.image_mean,
            std: file.image_std,
        })
    }

    /// Reads `preprocessor_config.json` in `folder` as the processors of SigLIP and ViT do, whose
    /// class has `filter` where the file names none.
    ///
    /// # Errors
    /// Names the file and what in it cannot be used.
    pub fn load_exact(folder: &Path, filter: Filter) -> Result<Self, Error> {
        let path = folder.join("preprocessor_config.json");
        let file: ExactFile = crate::checkpoint::read_json(&path)?;
        let bad = |reason: &str| bad(&path, reason);
        let side = file.size.side().filter(|&side| side <= 4096);
        let side = side.ok_or_else(|| bad("`size` must be a square of 1 to 4096 pixels"))?;
        if file.do_center_crop || !(file.do_resize && file.do_rescale) {
            return Err(bad(
                "only resizing without a crop, then rescaling, is known",
            ));
        }
        if (file.rescale_factor * 255.0 - 1.0).abs() > 1e-6 {
            return Err(bad("`rescale_factor` must be 1/255"));
        }
        if file.image_std.iter().any(|&s| s <= 0.0) {
            return Err(bad("`image_std` must be positive"));
        }
        let filter = match file.resample {
            None => filter,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            Some(_) => return Err(bad("`resample` must be 2 (bilinear) or 3 (bicubic)")),
        };
        let (mean, std) = match file.do_normalize {
            true => (file.image_mean, file.image_std),
            false => ([0.0; 3], [1.0; 3]),
        };
        Ok(Self {
            resize_px: side,
            crop_px: side,
            is_exact: true,
            filter,
            mean,
            std,
        })
    }

    /// Refuses a preprocessor whose pictures are not of the side that the model reads.
    ///
    /// # Errors
    /// Names the file in `folder` and both sides.
    pub fn check_side(&self, folder: &Path, side_px: usize) -> Result<(), Error> {
        if self.side_px() == side_px {
            return Ok(());
        }
        let path = folder.join("preprocessor_config.json");
        let reason = format!(
            "gives pictures of {} pixels, the model reads {side_px}",
            self.side_px()
        );
        Err(bad(&path, &reason))
    }

    /// Side of the result, in pixels.
    pub fn side_px(&self) -> usize {
        self.crop_px as usize
    }

    /// Shortest edge to size, centre crop: normalised (3, side, side).
    pub fn square(&self, picture: &RgbImage) -> Vec<f32> {
        self.normalise(&self.resize_and_crop(picture))
    }

    /// Padded with the mean colour to a square first: normalised (3, side, side).
    pub fn pad(&self, picture: &RgbImage) -> Vec<f32> {
        self.normalise(&self.resize_and_crop(&self.expand_to_square(picture)))
    }

    fn expand_to_square(&self, picture: &RgbImage) -> RgbImage {
        let (width, height) = picture.dimensions();
        if width == height {
            return picture.clone();
        }
        let side = width.max(height);
        let background = Rgb(self.mean.map(|m| (f64::from(m) * 255.0) as u8));
        let mut out = RgbImage::from_pixel(side, side, background);
        let (left, top) = ((side - width) / 2, (side - height) / 2);
        image::imageops::replace(&mut out, picture, i64::from(left), i64::from(top));
        out
    }

    fn resize_and_crop(&self, picture: &RgbImage) -> RgbImage {
        if self.is_exact {
            return resize(picture, self.crop_px, self.crop_px, self.filter);
        }
        let picture = &within_aspect(picture);
        let (width, height) = picture.dimensions();
        let long = |edge: u32| {
            (u64::from(self.resize_px) * u64::from(edge) / u64::from(width.min(height))) as u32
        };
        let (new_width, new_height) = match width <= height {
            true => (self.resize_px, long(height)),
            false => (long(width), self.resize_px),
        };
        let resized = resize(picture, new_width, new_height, self.filter);
        let (left, top) = (
            (new_width - self.crop_px) / 2,
            (new_height - self.crop_px) / 2,
        );
        image::imageops::crop_imm(&resized, left, top, self.crop_px, self.crop_px).to_image()
    }

    fn normalise(&self, picture: &RgbImage) -> Vec<f32> {
        let area = (self.crop_px * self.crop_px) as usize;
        let mut out = vec![0f32; 3 * area];
        for (index, pixel) in picture.pixels().enumerate() {
            for channel in 0..3 {
                let value = f32::from(pixel.0[channel]) / 255.0;
                out[channel * area + index] = (value - self.mean[channel]) / self.std[channel];
            }
        }
        out
    }
}

/// The middle of a picture more than 32 times as long as wide: its resized form would have no bound,
/// and the crop keeps none of the rest.
fn within_aspect(picture: &RgbImage) -> std::borrow::Cow<'_, RgbImage> {
    let (width, height) = picture.dimensions();
    let limit = 32 * width.min(height);
    if width.max(height) <= limit {
        return std::borrow::Cow::Borrowed(picture);
    }
    let (new_width, new_height) = (width.min(limit), height.min(limit));
    let (left, top) = ((width - new_width) / 2, (height - new_height) / 2);
    std::borrow::Cow::Owned(
        image::imageops::crop_imm(picture, left, top, new_width, new_height).to_image(),
    )
}

/// Decodes a PNG or JPEG file's bytes to RGB; an alpha channel is dropped, as Pillow's
/// `convert("RGB")` does.
///
/// # Errors
/// The decoder's.
pub fn decode_rgb(bytes: &[u8]) -> Result<RgbImage, image::ImageError> {
    Ok(reader(bytes)?.decode()?.to_rgb8())
}

/// Width and height in pixels that the head of a PNG or JPEG file states.
///
/// # Errors
/// The decoder's.
pub fn dimensions_px(bytes: &[u8]) -> Result<(u32, u32), image::ImageError> {
    reader(bytes)?.into_dimensions()
}

fn reader(bytes: &[u8]) -> Result<image::ImageReader<std::io::Cursor<&[u8]>>, image::ImageError> {
    let mut reader = image::ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format()?;
    // A picture of 64 million pixels is more than any vision tower looks at.
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(16_384);
    limits.max_image_height = Some(16_384);
    limits.max_alloc = Some(256 << 20);
    reader.limits(limits);
    Ok(reader)
}

/// How Pillow weighs the pixels about a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Triangle.
    Bilinear,
    /// Cubic with a = −0.5.
    Bicubic,
}

impl Filter {
    /// Pixels to either side that take part, before scaling.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => cubic(x),
        }
    }
}

/// Pillow's resize (support scaled by the downsize ratio), bit for bit.
pub fn resize(picture: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let (width, height) = (width.max(1), height.max(1));
    let (old_width, old_height) = picture.dimensions();
    let mut current = picture.clone();
    if width != old_width {
        let taps = Taps::new(old_width, width, filter);
        let row = |x: u32, y: u32| taps.apply(x, |source| current.get_pixel(source, y).0);
        current = RgbImage::from_fn(width, old_height, row);
    }
    if height != old_height {
        let taps = Taps::new(old_height, height, filter);
        let column = |x: u32, y: u32| taps.apply(y, |source| current.get_pixel(x, source).0);
        current = RgbImage::from_fn(width, height, column);
    }
    current
}

/// Which source pixels make a target pixel, and their fixed-point weights.
struct Taps(Vec<(u32, Vec<i32>)>);

impl Taps {
    fn new(from: u32, to: u32, filter: Filter) -> Self {
        let scale = f64::from(from) / f64::from(to);
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let taps = (0..to).map(|target| {
            let centre = (f64::from(target) + 0.5) * scale;
            let first = ((centre - support + 0.5) as i64).max(0);
            let end = ((centre + support + 0.5) as i64).min(i64::from(from));
            let weight = |x: i64| filter.weight((x as f64 - centre + 0.5) / filter_scale);
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let total: f64 = weights.iter().sum();
            let fixed = |w: &f64| {
                let scaled = w / total * f64::from(1u32 << PRECISION_BITS);
                (if scaled < 0.0 {
                    scaled - 0.5
                } else {
                    scaled + 0.5
                }) as i32
            };
            (first as u32, weights.iter().map(fixed).collect())
        });
        Self(taps.collect())
    }

    fn apply(&self, target: u32, source: impl Fn(u32) -> [u8; 3]) -> Rgb<u8> {
        let (first, weights) = &self.0[target as usize];
        let mut sums = [1i32 << (PRECISION_BITS - 1); 3];
        for (offset, weight) in weights.iter().enumerate() {
            let pixel = source(first + offset as u32);
            for channel in 0..3 {
                sums[channel] += i32::from(pixel[channel]) * weight;
            }
        }
        Rgb(sums.map(|sum| (sum >> PRECISION_BITS).clamp(0, 255) as u8))
    }
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    match x {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

fn bad(path: &Path, reason: &str) -> Error {
    Error::Config {
        path: path.into(),
        reason: reason.into(),
    }
}

/// The defaults are those of transformers' `SiglipImageProcessor` and `ViTImageProcessor`.
#[derive(Deserialize)]
#[serde(default)]
struct ExactFile {
    size: Size,
    resample: Option<u32>,
    do_resize: bool,
    do_rescale: bool,
    do_normalize: bool,
    #[serde(deserialize_with = "null_is_false")]
    do_center_crop: bool,
    rescale_factor: f64,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

impl Default for ExactFile {
    fn default() -> Self {
        Self {
            size: Size::Side(224),
            resample: None,
            do_resize: true,
            do_rescale: true,
            do_normalize: true,
            do_center_crop: false,
            rescale_factor: 1.0 / 255.0,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        }
    }
}

fn null_is_false<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or(false))
}

#[derive(Deserialize)]
struct File {
    size: Size,
    crop_size: Option<Size>,
    #[serde(default = "bicubic")]
    resample: u32,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

fn bicubic() -> u32 {
    3
}

#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
enum Size {
    Side(u32),
    ShortestEdge { shortest_edge: u32 },
    Box { height: u32, width: u32 },
}

impl Size {
    fn side(self) -> Option<u32> {
        let side = match self {
            Self::Side(side)
            | Self::ShortestEdge {
                shortest_edge: side,
            } => side,
            Self::Box { height, width } if height == width => height,
            Self::Box { .. } => return None,
        };
        (side > 0).then_some(side)
    }
}
