//! Writes a dataset in the formats that others read.
//!
//! | format | files |
//! |---|---|
//! | LLaVA | `data.json`, `images/` |
//! | ShareGPT, messages | `data.jsonl`, `images/` |
//! | WebDataset | `train-000000.tar` and so on |
//! | Hugging Face | `README.md`, `data/train-00000-of-00003.parquet` and so on |
//!
//! One shard of the dataset is in memory at a time. A target is whole or absent; it is not synced
//! to the disk, because it can be made again.

mod card;
mod hugging_face;
mod images;
mod llava;
mod messages;
mod share_gpt;
mod staging;
mod webdataset;

pub(crate) use staging::Staging;
pub use staging::TargetError;

use crate::{
    shard::EncodeError,
    store::{Error as StoreError, Reader},
};
use proto::dataset::v1::Sample;
use std::path::Path;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// LLaVA's training JSON and a folder of images.
    Llava,
    /// `conversations` of `human` and `gpt`, a record per line (FastChat, LLaMA-Factory).
    ShareGpt,
    /// `messages` with content parts, a record per line, as OpenAI's chat completions take them.
    Messages,
    /// Tar files (webdataset).
    WebDataset,
    /// A folder that `datasets.load_dataset` reads, with its card.
    HuggingFace,
}

/// How to export.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Format.
    pub format: Format,
    /// Bytes after which a new file is begun, in formats of several files. One more shard of the
    /// dataset may go in.
    pub max_file_bytes: u64,
}

/// What an export wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Samples.
    pub sample_count: u64,
    /// Images.
    pub image_count: u64,
    /// Files, images in a folder aside.
    pub file_count: u64,
}

/// Why an export failed. The target is then as it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target cannot be written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The dataset cannot be read.
    #[error("cannot read the dataset")]
    Read(#[from] StoreError),
    /// Samples cannot be written as Parquet.
    #[error("cannot encode {file}")]
    Encode {
        /// File.
        file: String,
        /// Cause.
        source: EncodeError,
    },
}

/// Takes samples, a partition at a time.
trait Sink: Send {
    /// Writes samples.
    fn add(&mut self, samples: &[Sample]) -> Result<(), Error>;
    /// Ends the last file and gives the number of files.
    fn finish(self: Box<Self>) -> Result<u64, Error>;
}

/// Exports a dataset into the folder `target`, and tells `watch` the samples written so far.
///
/// # Errors
/// The target is not empty or cannot be written, or the dataset cannot be read.
pub async fn export(
    dataset: &Reader,
    target: &Path,
    settings: &Settings,
    watch: &mut (dyn FnMut(u64) + Send),
) -> Result<Exported, Error> {
    let staging = Staging::start(target)?;
    let mut sink = open(dataset, &staging.folder(), settings)?;
    let mut exported = Exported::default();
    for manifest in dataset.partitions().values() {
        let samples = dataset.samples_of(manifest).await?;
        sink.add(&samples)?;
        exported.sample_count += samples.len() as u64;
        exported.image_count += samples
            .iter()
            .map(|sample| sample.images.len() as u64)
            .sum::<u64>();
        watch(exported.sample_count);
    }
    exported.file_count = sink.finish()?;
    staging.finish()?;
    Ok(exported)
}

fn open(dataset: &Reader, folder: &Path, settings: &Settings) -> Result<Box<dyn Sink>, Error> {
    let max_file_bytes = settings.max_file_bytes;
    Ok(match settings.format {
        Format::Llava => Box::new(llava::Writer::create(folder)?),
        Format::ShareGpt => Box::new(share_gpt::Writer::create(folder)?),
        Format::Messages => Box::new(messages::Writer::create(folder)?),
        Format::WebDataset => Box::new(webdataset::Writer::create(folder, max_file_bytes)),
        Format::HuggingFace => Box::new(hugging_face::Writer::create(
            dataset,
            folder,
            max_file_bytes,
        )?),
    })
}

#[cfg(test)]
mod tests;
