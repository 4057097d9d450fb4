//! WebDataset: tar files in which a sample is the files that share a key, its id: `ID.png` and
//! `ID.json`, and `ID.0.png`, `ID.1.png` where it has several pictures. Equal samples give equal
//! files: no clock, owner or umask goes into a header.

use super::{Error, Sink, TargetError};
use crate::{
    shard::{encoded_file, image_extension},
    view::SampleView,
};
use proto::dataset::v1::Sample;
use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};
use tar::{Builder, Header};

/// A file's header, and the blocks of 512 bytes in which it lies.
const BLOCK_BYTES: u64 = 512;

pub(super) struct Writer {
    folder: PathBuf,
    max_file_bytes: u64,
    file_count: u64,
    current: Option<Shard>,
}

/// One tar file.
struct Shard {
    path: PathBuf,
    tar: Builder<BufWriter<File>>,
    size_bytes: u64,
}

impl Writer {
    pub(super) fn create(folder: &Path, max_file_bytes: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            max_file_bytes,
            file_count: 0,
            current: None,
        }
    }

    fn write(&mut self, sample: &Sample) -> Result<(), TargetError> {
        let members = members(sample);
        let shard = match &mut self.current {
            Some(shard) => shard,
            none => {
                let name = format!("train-{:06}.tar", self.file_count);
                self.file_count += 1;
                none.insert(Shard::create(self.folder.join(name))?)
            }
        };
        for (name, content) in &members {
            shard.add(name, content)?;
        }
        if shard.size_bytes >= self.max_file_bytes
            && let Some(full) = self.current.take()
        {
            full.finish()?;
        }
        Ok(())
    }
}

impl Sink for Writer {
    fn add(&mut self, samples: &[Sample]) -> Result<(), Error> {
        for sample in samples {
            self.write(sample)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<u64, Error> {
        if let Some(last) = self.current.take() {
            last.finish()?;
        }
        Ok(self.file_count)
    }
}

/// Names and contents of a sample's files.
fn members(sample: &Sample) -> Vec<(String, Vec<u8>)> {
    let id = &sample.id;
    let is_alone = sample.images.len() == 1;
    let mut members: Vec<(String, Vec<u8>)> = sample
        .images
        .iter()
        .enumerate()
        .map(|(index, image)| {
            let extension = image_extension(image);
            let name = if is_alone {
                format!("{id}.{extension}")
            } else {
                format!("{id}.{index}.{extension}")
            };
            (name, encoded_file(image).to_vec())
        })
        .collect();
    // A view holds texts and numbers, so it is JSON whatever they are.
    let json = serde_json::to_vec(&SampleView::of(sample)).unwrap_or_default();
    members.push((format!("{id}.json"), json));
    members
}

impl Shard {
    fn create(path: PathBuf) -> Result<Self, TargetError> {
        let file = File::create(&path).map_err(TargetError::write(&path))?;
        Ok(Self {
            path,
            tar: Builder::new(BufWriter::new(file)),
            size_bytes: 0,
        })
    }

    fn add(&mut self, name: &str, content: &[u8]) -> Result<(), TargetError> {
        let mut header = Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        let written = self.tar.append_data(&mut header, name, content);
        written.map_err(TargetError::write(&self.path))?;
        self.size_bytes += BLOCK_BYTES + (content.len() as u64).next_multiple_of(BLOCK_BYTES);
        Ok(())
    }

    fn finish(self) -> Result<(), TargetError> {
        let ended = self.tar.into_inner();
        let flushed: io::Result<()> = ended.and_then(|mut output| output.flush());
        flushed.map_err(TargetError::write(&self.path))
    }
}
