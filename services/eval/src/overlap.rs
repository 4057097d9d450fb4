//! What training data holds: a benchmark shares no prompt and no picture with it, nor a picture
//! that is nearly the same.

use std::{collections::HashSet, path::Path};

use dataset::{
    image_hash::{ImageHash, NEAR_BITS},
    store::{Reader, Root},
};
use futures::TryStreamExt as _;
use proto::dataset::v1::{Sample, image::Content};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{answering::blocking, benchmark::Picture, error::Error};

/// Prompts and pictures of training data.
#[derive(Debug, Default)]
pub(crate) struct Overlap {
    prompts: HashSet<String>,
    pictures: HashSet<String>,
    hashes: Vec<ImageHash>,
}

/// What is kept of a picture; its pixels are not.
#[derive(Debug)]
struct Known {
    sha256: String,
    hash: ImageHash,
}

impl Known {
    fn of(picture: &Picture) -> Self {
        Self {
            sha256: picture.sha256.clone(),
            hash: ImageHash::of(&picture.pixels),
        }
    }
}

impl Overlap {
    /// Adds what a folder holds: a dataset of ours, or LLaVA's `data.json` with `images/`.
    ///
    /// # Errors
    /// Neither of both, something in it that cannot be read, or [`Error::Cancelled`].
    pub(crate) async fn add_folder(
        &mut self,
        folder: &Path,
        cancelled: &CancellationToken,
    ) -> Result<(), Error> {
        if folder.join("data.json").is_file() {
            let (folder, cancelled) = (folder.to_owned(), cancelled.clone());
            let found = blocking(move || llava_pictures(&folder, &cancelled)).await??;
            found.into_iter().for_each(|known| self.add(known));
            return Ok(());
        }
        let reader = open_dataset(folder).await?;
        let mut samples = std::pin::pin!(reader.samples());
        while let Some(sample) = samples.try_next().await.map_err(dataset_error(folder))? {
            if cancelled.is_cancelled() {
                return Err(Error::Cancelled);
            }
            self.add_sample(&sample).map_err(|reason| Error::Dataset {
                name: folder.display().to_string(),
                reason,
            })?;
        }
        Ok(())
    }

    fn add_sample(&mut self, sample: &Sample) -> Result<(), String> {
        self.prompts
            .extend(sample.prompts.iter().map(|prompt| plain(&prompt.text)));
        for image in &sample.images {
            if let Some(Content::Data(bytes)) = &image.content {
                let picture = Picture::decode(bytes)
                    .map_err(|reason| format!("sample {}: {reason}", sample.id))?;
                self.add(Known::of(&picture));
            }
        }
        Ok(())
    }

    fn add(&mut self, picture: Known) {
        if self.pictures.insert(picture.sha256) {
            self.hashes.push(picture.hash);
        }
    }

    /// Whether training data holds this prompt, this picture, or nearly this picture.
    pub(crate) fn holds(&self, prompt: &str, picture: &Picture) -> bool {
        let hash = ImageHash::of(&picture.pixels);
        self.prompts.contains(&plain(prompt))
            || self.pictures.contains(&picture.sha256)
            || self
                .hashes
                .iter()
                .any(|known| known.distance(&hash) <= NEAR_BITS)
    }
}

/// Opens a dataset folder.
pub(crate) async fn open_dataset(folder: &Path) -> Result<Reader, Error> {
    let root = Root::folder(folder).map_err(dataset_error(folder))?;
    Reader::open(root).await.map_err(dataset_error(folder))
}

pub(crate) fn dataset_error(folder: &Path) -> impl Fn(dataset::store::Error) -> Error + '_ {
    |error| Error::Dataset {
        name: folder.display().to_string(),
        reason: runtime::error::chain(&error),
    }
}

#[derive(Deserialize)]
struct LlavaRow {
    image: Option<String>,
}

/// The pictures that the rows name, each file once and one file at a time.
fn llava_pictures(folder: &Path, cancelled: &CancellationToken) -> Result<Vec<Known>, Error> {
    let path = folder.join("data.json");
    let wrong = |reason: String| Error::Dataset {
        name: folder.display().to_string(),
        reason,
    };
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let rows: Vec<LlavaRow> =
        serde_json::from_slice(&bytes).map_err(|error| wrong(format!("data.json: {error}")))?;
    let images = folder
        .join("images")
        .canonicalize()
        .map_err(Error::io("open", folder.join("images")))?;
    let (mut pictures, mut seen) = (Vec::new(), HashSet::new());
    for image in rows.into_iter().filter_map(|row| row.image) {
        if cancelled.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let path = images
            .join(&image)
            .canonicalize()
            .map_err(Error::io("open", images.join(&image)))?;
        if !path.starts_with(&images) {
            return Err(wrong(format!("image {image} lies outside of the folder")));
        }
        if seen.insert(path.clone()) {
            let picture = Picture::read(&path).map_err(|error| wrong(error.to_string()))?;
            pictures.push(Known::of(&picture));
        }
    }
    Ok(pictures)
}

/// Prompts are equal up to case, emphasis and space.
fn plain(prompt: &str) -> String {
    let kept = prompt
        .chars()
        .filter(|c| !matches!(c, '(' | ')' | '[' | ']'))
        .flat_map(char::to_lowercase);
    kept.collect::<String>()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bands of grey whose order the seed decides.
    fn png(seed: u32, shift: u8) -> Vec<u8> {
        let pixels = image::RgbImage::from_fn(64, 64, |x, y| {
            let band =
                (x / 7 + 3 * (y / 9)).wrapping_mul(seed.wrapping_mul(2_654_435_761) | 1) >> 24;
            image::Rgb([(band as u8 / 2) + shift; 3])
        });
        let mut file = std::io::Cursor::new(Vec::new());
        pixels
            .write_to(&mut file, image::ImageFormat::Png)
            .expect("encodes");
        file.into_inner()
    }

    fn picture(seed: u32, shift: u8) -> Picture {
        Picture::decode(&png(seed, shift)).expect("decodes")
    }

    #[test]
    fn equal_prompts_and_equal_or_nearly_equal_pictures_overlap() {
        let mut known = Overlap {
            prompts: HashSet::from([plain("((fox)), snow,  sketch")]),
            ..Overlap::default()
        };
        known.add(Known::of(&picture(1, 0)));
        assert!(known.holds("a whale", &picture(1, 0)), "the same file");
        assert!(
            known.holds("a whale", &picture(1, 20)),
            "the same picture, a little brighter"
        );
        assert!(!known.holds("a whale", &picture(2, 0)), "another picture");
        assert!(
            known.holds("Fox, snow, sketch", &picture(2, 0)),
            "the same prompt without its emphasis"
        );
    }
    #[test]
    fn a_file_that_many_rows_name_is_read_once_and_none_after_the_cancellation() {
        let folder = tempfile::tempdir().expect("a folder");
        let images = folder.path().join("images");
        std::fs::create_dir(&images).expect("made");
        for (name, seed) in [("a.png", 1), ("b.png", 2)] {
            std::fs::write(images.join(name), png(seed, 0)).expect("written");
        }
        let rows = r#"[{"image": "a.png"}, {"image": "b.png"}, {"id": "no image"},
            {"image": "a.png"}, {"image": "./a.png"}]"#;
        std::fs::write(folder.path().join("data.json"), rows).expect("written");
        let token = CancellationToken::new();
        let found = llava_pictures(folder.path(), &token).expect("read");
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].sha256, picture(2, 0).sha256);
        token.cancel();
        let stopped = llava_pictures(folder.path(), &token).expect_err("stopped");
        assert!(matches!(stopped, Error::Cancelled), "{stopped}");
    }
}
