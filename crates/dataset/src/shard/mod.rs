//! One partition as one Parquet file.
//!
//! A row is a sample. `images` is a list of the Hugging Face `Image` feature
//! (bytes and path), all else plain columns and structures, so that `datasets`,
//! pyarrow and DuckDB read a shard without our code. Equal samples give equal
//! bytes: rows stand in slot order, maps are written sorted by key, the writer's
//! settings are fixed, and neither clock nor host name is recorded.

mod columns;
mod features;
mod read;
mod row;
mod rows;
mod write;

pub(crate) use read::{decode, ids};
pub(crate) use rows::RowGroups;
pub(crate) use write::{encode, encoded_file, image_extension, image_file_name, written};

/// Why samples cannot be written as a shard.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Images of one column chunk must stay under 2 GiB, as 32-bit offsets ask.
    #[error("the images of one partition hold {size_bytes} bytes, over the limit of 2 GiB")]
    TooLarge {
        /// Bytes of all images.
        size_bytes: usize,
    },
    /// The Parquet writer refused.
    #[error("cannot write Parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The columns do not fit together; a fault of this module.
    #[error("cannot build the columns")]
    Arrow(#[from] arrow::error::ArrowError),
}

/// Why a shard cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not Parquet, or broken Parquet.
    #[error("it is not readable Parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Rows cannot be decoded.
    #[error("its rows cannot be decoded")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A column that we write is not there.
    #[error("it has no column `{0}`")]
    MissingColumn(String),
    /// A column is of another type than we write.
    #[error("its column `{column}` is {found}, which is not what a shard holds there")]
    ColumnType {
        /// Column.
        column: String,
        /// Arrow type found.
        found: String,
    },
    /// A value that may not be absent is.
    #[error("its column `{column}` has no value in row {row}")]
    MissingValue {
        /// Column.
        column: String,
        /// Row of the column, from 0.
        row: usize,
    },
    /// A word that is none of those we write.
    #[error("its column `{column}` holds the unknown word `{word}`")]
    UnknownWord {
        /// Column.
        column: String,
        /// Word found.
        word: String,
    },
    /// Two lists that go together differ in length.
    #[error("it describes another number of images than it holds")]
    ImageCount,
}

#[cfg(test)]
mod tests;
