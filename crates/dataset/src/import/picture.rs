//! Pictures of other people's files: read, decoded once to see that they are whole, and kept as
//! they are.

use crate::identity::sha256_hex;
use image::{ImageFormat, ImageReader, Limits};
use proto::dataset::v1::{Image, image::Content};
use std::{fs, io::Cursor, path::Path};

/// Largest file, in bytes: what a message of the suite may carry.
const MAX_BYTES: u64 = 4 << 20;
/// Memory that decoding may take, in bytes.
const MAX_DECODER_BYTES: u64 = 512 << 20;

/// Reads one picture of a sample.
///
/// # Errors
/// One phrase that names the file.
pub(super) fn read(path: &Path, sample_id: &str) -> Result<Image, String> {
    let said = |reason: String| format!("its picture {}: {reason}", path.display());
    let size_bytes = fs::metadata(path)
        .map_err(|error| said(error.to_string()))?
        .len();
    if size_bytes > MAX_BYTES {
        return Err(said(format!(
            "{size_bytes} bytes; at most {MAX_BYTES} are read"
        )));
    }
    let data = fs::read(path).map_err(|error| said(error.to_string()))?;
    let media_type = match image::guess_format(&data) {
        Ok(ImageFormat::Png) => "image/png",
        Ok(ImageFormat::Jpeg) => "image/jpeg",
        _ => return Err(said("it is neither PNG nor JPEG".into())),
    };
    let (width_px, height_px) = decoded_size(&data).map_err(said)?;
    Ok(Image {
        sample_id: sample_id.to_owned(),
        media_type: media_type.into(),
        width_px,
        height_px,
        sha256: sha256_hex(&data),
        ai_generated: false,
        provenance: None,
        content: Some(Content::Data(data.into())),
    })
}

fn decoded_size(data: &[u8]) -> Result<(u32, u32), String> {
    let reader = ImageReader::new(Cursor::new(data)).with_guessed_format();
    let mut reader = reader.map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let picture = reader.decode().map_err(|error| error.to_string())?;
    Ok((picture.width(), picture.height()))
}
