//! Writes a dataset as LLaVA JSON and a folder of images.

use super::{Turn, turns};
use crate::{
    shard::image_file_name,
    store::{Error as StoreError, Reader},
};
use futures::TryStreamExt;
use proto::dataset::v1::{Sample, image::Content};
use serde::Serialize;
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    pin::pin,
};

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Records in `data.json`.
    pub sample_count: u64,
    /// Files in `images/`.
    pub image_count: u64,
}

/// Why an export failed. The target is then as it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target holds something.
    #[error("{0} is not empty: an export goes into a new or an empty folder")]
    TargetNotEmpty(PathBuf),
    /// A file or folder cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The dataset cannot be read.
    #[error("cannot read the dataset")]
    Read(#[from] StoreError),
}

/// Writes `target/data.json` and `target/images/`. Image paths in the JSON are
/// relative to the image folder. All is written beside the target first and then
/// renamed, so that a target that exists is whole; it is not synced to the disk,
/// because it can be made again.
///
/// # Errors
/// The target is not empty or cannot be written, or the dataset cannot be read.
pub async fn export(dataset: &Reader, target: &Path) -> Result<Exported, Error> {
    refuse_full(target)?;
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|source| write_error(parent, source))?;
    let staging = tempfile::Builder::new()
        .prefix(".export-")
        .tempdir_in(parent);
    let staging = staging.map_err(|source| write_error(parent, source))?;
    // The name under which others find it: readable as any folder one makes.
    let folder = staging.path().join("llava");
    let mut writer = Writer::create(&folder)?;
    let mut samples = pin!(dataset.samples());
    while let Some(sample) = samples.try_next().await? {
        writer.add(&sample)?;
    }
    let exported = writer.finish()?;
    // Renaming onto an empty folder replaces it; onto a full one fails.
    fs::rename(&folder, target).map_err(|source| write_error(target, source))?;
    Ok(exported)
}

struct Writer {
    folder: PathBuf,
    json: BufWriter<File>,
    exported: Exported,
}

/// A record as written. Readers of this format ignore keys they do not know.
#[derive(Serialize)]
struct Record<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImagePaths>,
    conversations: Vec<Turn>,
    ability: &'a str,
}

/// LLaVA's own reader knows one path; its successors take a list for several.
#[derive(Serialize)]
#[serde(untagged)]
enum ImagePaths {
    One(String),
    Several(Vec<String>),
}

impl Writer {
    fn create(folder: &Path) -> Result<Self, Error> {
        let images = folder.join("images");
        fs::create_dir_all(&images).map_err(|source| write_error(&images, source))?;
        let path = folder.join("data.json");
        let file = File::create(&path).map_err(|source| write_error(&path, source))?;
        let exported = Exported {
            sample_count: 0,
            image_count: 0,
        };
        Ok(Self {
            folder: folder.to_owned(),
            json: BufWriter::new(file),
            exported,
        })
    }

    fn add(&mut self, sample: &Sample) -> Result<(), Error> {
        let mut paths = Vec::with_capacity(sample.images.len());
        for (index, image) in sample.images.iter().enumerate() {
            let name = image_file_name(sample, index);
            let path = self.folder.join("images").join(&name);
            // The store gives every image with its bytes.
            if let Some(Content::Data(data)) = &image.content {
                fs::write(&path, data).map_err(|source| write_error(&path, source))?;
            }
            paths.push(name);
        }
        self.exported.image_count += paths.len() as u64;
        let record = Record {
            id: &sample.id,
            image: match paths.len() {
                0 => None,
                1 => paths.pop().map(ImagePaths::One),
                _ => Some(ImagePaths::Several(paths)),
            },
            conversations: turns(sample),
            ability: &sample.ability,
        };
        let lead: &[u8] = if self.exported.sample_count == 0 {
            b"[\n"
        } else {
            b",\n"
        };
        self.exported.sample_count += 1;
        let written = self
            .json
            .write_all(lead)
            .and_then(|()| serde_json::to_writer(&mut self.json, &record).map_err(io::Error::from));
        written.map_err(|source| write_error(&self.folder.join("data.json"), source))
    }

    fn finish(mut self) -> Result<Exported, Error> {
        let end: &[u8] = if self.exported.sample_count == 0 {
            b"[]\n"
        } else {
            b"\n]\n"
        };
        let written = self.json.write_all(end).and_then(|()| self.json.flush());
        written.map_err(|source| write_error(&self.folder.join("data.json"), source))?;
        Ok(self.exported)
    }
}

fn refuse_full(target: &Path) -> Result<(), Error> {
    match fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::TargetNotEmpty(target.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(write_error(target, source)),
    }
}

fn write_error(path: &Path, source: io::Error) -> Error {
    Error::Write {
        path: path.to_owned(),
        source,
    }
}
