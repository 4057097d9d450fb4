//! What formats with a folder of pictures share: that folder, and a text file beside it.

use super::TargetError;
use crate::shard::{encoded_file, image_file_name};
use proto::dataset::v1::Sample;
use serde::Serialize;
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// `images/`.
pub(super) struct ImageFolder(PathBuf);

impl ImageFolder {
    /// Name of the folder.
    pub(super) const NAME: &str = "images";

    pub(super) fn create(folder: &Path) -> Result<Self, TargetError> {
        let images = folder.join(Self::NAME);
        fs::create_dir_all(&images).map_err(TargetError::write(&images))?;
        Ok(Self(images))
    }

    /// Writes a sample's pictures and gives the names of their files.
    pub(super) fn add(&self, sample: &Sample) -> Result<Vec<String>, TargetError> {
        let mut names = Vec::with_capacity(sample.images.len());
        for (index, image) in sample.images.iter().enumerate() {
            let name = image_file_name(sample, index);
            let path = self.0.join(&name);
            fs::write(&path, encoded_file(image)).map_err(TargetError::write(&path))?;
            names.push(name);
        }
        Ok(names)
    }
}

/// Names of the files in the order in which a conversation's image tokens or parts stand, so that
/// their number is that of the tokens even where a picture is shown twice.
pub(super) fn in_order_shown(sample: &Sample, names: &[String]) -> Vec<String> {
    let shown = crate::llava::shown_images(sample).into_iter().flatten();
    shown
        .filter_map(|index| names.get(index).cloned())
        .collect()
}

/// A text file that is written piece by piece.
pub(super) struct TextFile {
    path: PathBuf,
    output: BufWriter<File>,
}

impl TextFile {
    pub(super) fn create(path: PathBuf) -> Result<Self, TargetError> {
        let file = File::create(&path).map_err(TargetError::write(&path))?;
        Ok(Self {
            path,
            output: BufWriter::new(file),
        })
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), TargetError> {
        let written = self.output.write_all(text.as_bytes());
        written.map_err(TargetError::write(&self.path))
    }

    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), TargetError> {
        let written = serde_json::to_writer(&mut self.output, value).map_err(io::Error::from);
        written.map_err(TargetError::write(&self.path))
    }

    pub(super) fn finish(mut self) -> Result<(), TargetError> {
        self.output.flush().map_err(TargetError::write(&self.path))
    }
}
