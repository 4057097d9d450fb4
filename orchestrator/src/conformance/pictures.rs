//! Small pictures to send, and what is true of one that came.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use proto::dataset::v1::{Image, image::Content};
use sha2::{Digest as _, Sha256};

use super::ledger::{Miss, holds};

/// Side of a picture to send, in pixels.
const SIDE_PX: u32 = 64;

/// A picture to send: a disc of one colour on a shaded ground.
pub(super) fn drawn(color: [u8; 3]) -> Result<Image, Miss> {
    drawn_sized(color, SIDE_PX, SIDE_PX)
}

/// The same of another size, in pixels.
pub(super) fn drawn_sized(color: [u8; 3], width_px: u32, height_px: u32) -> Result<Image, Miss> {
    let picture = RgbImage::from_fn(width_px, height_px, |x, y| {
        let (dx, dy) = (x.abs_diff(32), y.abs_diff(32));
        match dx * dx + dy * dy < 400 {
            true => Rgb(color),
            false => Rgb([240, 240, 200 - (y % 200) as u8]),
        }
    });
    png(&picture)
}

/// A mask that repaints everything.
pub(super) fn white(width_px: u32, height_px: u32) -> Result<Image, Miss> {
    png(&RgbImage::from_pixel(width_px, height_px, Rgb([255; 3])))
}

fn png(picture: &RgbImage) -> Result<Image, Miss> {
    let mut file = Cursor::new(Vec::new());
    let written = picture.write_to(&mut file, ImageFormat::Png);
    written.map_err(|error| Miss::not_judged(format!("no picture to send: {error}")))?;
    Ok(Image {
        width_px: picture.width(),
        height_px: picture.height(),
        ..encoded(file.into_inner())
    })
}

/// A picture that no decoder takes.
pub(super) fn damaged() -> Image {
    encoded(b"this is no picture".to_vec())
}

fn encoded(file: Vec<u8>) -> Image {
    Image {
        media_type: "image/png".to_owned(),
        width_px: SIDE_PX,
        height_px: SIDE_PX,
        sha256: sha256(&file),
        content: Some(Content::Data(file.into())),
        ..Image::default()
    }
}

/// The encoded file of an inline picture; one that lies elsewhere is not judged.
pub(super) fn inline(image: &Image) -> Result<&[u8], Miss> {
    match &image.content {
        Some(Content::Data(data)) => Ok(data),
        Some(Content::Artefact(artefact)) => Err(Miss::not_judged(format!(
            "the picture lies at {}",
            artefact.uri
        ))),
        None => Err(Miss::broken("the picture has no content")),
    }
}

/// Decodes by the media type that the message states, and gives width and height in pixels.
pub(super) fn decoded(image: &Image) -> Result<(u32, u32), Miss> {
    let format = match image.media_type.as_str() {
        "image/png" => ImageFormat::Png,
        "image/jpeg" => ImageFormat::Jpeg,
        other => return Err(Miss::broken(format!("media type {other:?}"))),
    };
    let picture = image::load_from_memory_with_format(inline(image)?, format);
    let picture = picture.map_err(|error| {
        Miss::broken(format!(
            "it does not decode as {}: {error}",
            image.media_type
        ))
    })?;
    Ok((picture.width(), picture.height()))
}

/// That the stated hash is the content's.
pub(super) fn hash_is_true(image: &Image) -> Result<(), Miss> {
    let found = sha256(inline(image)?);
    holds(
        image.sha256 == found,
        format!("it states {:?}, the bytes have {found}", image.sha256),
    )
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
