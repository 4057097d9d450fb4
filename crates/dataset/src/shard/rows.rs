//! Many partitions as one Parquet file, a row group each: for files that others read, where a
//! shard per partition would be many small ones.

use super::{
    EncodeError,
    write::{batch, writer},
};
use parquet::arrow::ArrowWriter;
use proto::dataset::v1::Sample;
use std::io::Write;

/// Writes samples as they come; one group of rows is in memory at a time.
pub(crate) struct RowGroups<W: Write + Send> {
    writer: ArrowWriter<W>,
}

impl<W: Write + Send> RowGroups<W> {
    /// Begins a file.
    pub(crate) fn create(output: W) -> Result<Self, EncodeError> {
        let writer = writer(output)?;
        Ok(Self { writer })
    }

    /// Writes samples as one row group.
    pub(crate) fn add(&mut self, samples: &[Sample]) -> Result<(), EncodeError> {
        self.writer.write(&batch(samples)?)?;
        Ok(self.writer.flush()?)
    }

    /// Bytes written so far.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.writer.bytes_written() as u64
    }

    /// Ends the file and gives back where it was written to.
    pub(crate) fn finish(self) -> Result<W, EncodeError> {
        Ok(self.writer.into_inner()?)
    }
}
