//! The layout of a Hugging Face dataset: `data/train-00000-of-00003.parquet` and so on, and a card.
//! The columns are those of the store's shards, whose schema tells `datasets` which one holds
//! images.

use super::{Error, Sink, TargetError, card::Card};
use crate::{shard::RowGroups, store::Reader};
use proto::dataset::v1::Sample;
use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

pub(super) struct Writer {
    folder: PathBuf,
    max_file_bytes: u64,
    file_count: u64,
    current: Option<RowGroups<BufWriter<File>>>,
    card: Card,
}

impl Writer {
    pub(super) fn create(
        dataset: &Reader,
        folder: &Path,
        max_file_bytes: u64,
    ) -> Result<Self, TargetError> {
        let data = folder.join("data");
        fs::create_dir(&data).map_err(TargetError::write(&data))?;
        Ok(Self {
            folder: folder.to_owned(),
            max_file_bytes,
            file_count: 0,
            current: None,
            card: Card::of(dataset),
        })
    }

    /// Name of a file while it is not known how many there are.
    fn numbered(&self, index: u64) -> PathBuf {
        self.folder.join(format!("data/train-{index:05}.parquet"))
    }

    fn begin(&mut self) -> Result<RowGroups<BufWriter<File>>, Error> {
        let path = self.numbered(self.file_count);
        self.file_count += 1;
        let file = File::create(&path).map_err(TargetError::write(&path))?;
        RowGroups::create(BufWriter::new(file)).map_err(encode_error(&path))
    }

    fn end(&self, file: RowGroups<BufWriter<File>>) -> Result<(), Error> {
        let path = self.numbered(self.file_count - 1);
        let mut output = file.finish().map_err(encode_error(&path))?;
        Ok(output.flush().map_err(TargetError::write(&path))?)
    }
}

impl Sink for Writer {
    fn add(&mut self, samples: &[Sample]) -> Result<(), Error> {
        let mut file = match self.current.take() {
            Some(file) => file,
            None => self.begin()?,
        };
        let path = self.numbered(self.file_count - 1);
        file.add(samples).map_err(encode_error(&path))?;
        if file.size_bytes() < self.max_file_bytes {
            self.current = Some(file);
        } else {
            self.end(file)?;
        }
        samples.iter().for_each(|sample| self.card.add(sample));
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<u64, Error> {
        // A dataset without samples has a file without rows, so that it has columns.
        if self.file_count == 0 {
            self.current = Some(self.begin()?);
        }
        if let Some(last) = self.current.take() {
            self.end(last)?;
        }
        let count = self.file_count;
        for index in 0..count {
            let from = self.numbered(index);
            let name = format!("data/train-{index:05}-of-{count:05}.parquet");
            fs::rename(&from, self.folder.join(name)).map_err(TargetError::write(&from))?;
        }
        let card = self.folder.join("README.md");
        fs::write(&card, self.card.markdown()).map_err(TargetError::write(&card))?;
        Ok(count + 1)
    }
}

fn encode_error(path: &Path) -> impl FnOnce(crate::shard::EncodeError) -> Error {
    let file = path.display().to_string();
    move |source| Error::Encode { file, source }
}
