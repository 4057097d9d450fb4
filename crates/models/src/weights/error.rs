//! What can be wrong with a checkpoint.

use std::path::PathBuf;

/// What can be wrong with a checkpoint. Every variant names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or mapped.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No file with weights stands where one was expected.
    #[error("no weights in {}: expected one of {expected}", folder.display())]
    Absent {
        /// The folder looked into.
        folder: PathBuf,
        /// File names that would have done.
        expected: String,
    },
    /// The file is not whole, or not safetensors.
    #[error("{} is truncated or not a safetensors file: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The shard index cannot be used.
    #[error("{} is not a usable shard index: {reason}", file.display())]
    Index {
        /// The index file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the model needs is not there.
    #[error("{} has no tensor `{key}`", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// The full name of the tensor.
        key: String,
    },
    /// Tensors that the model has no place for: the configuration and the weights disagree.
    #[error("{} has tensors that its config.json has no place for: {keys}", file.display())]
    Unexpected {
        /// The file.
        file: PathBuf,
        /// The first few names.
        keys: String,
    },
    /// A tensor of another shape than the configuration says.
    #[error("{}: `{key}` has shape {found:?}, config.json asks for {expected:?}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// The full name of the tensor.
        key: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A number type other than f32, f16 and bf16.
    #[error("{}: `{key}` is stored as {found}; f32, f16 and bf16 are read", file.display())]
    NumberType {
        /// The file.
        file: PathBuf,
        /// The full name of the tensor.
        key: String,
        /// The stored type.
        found: String,
    },
    /// A tensor with NaN or infinity in it.
    #[error("{}: `{key}` holds a value that is not finite", file.display())]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// The full name of the tensor.
        key: String,
    },
    /// An adapter that does not fit the model.
    #[error("{}: `{key}` {reason}", file.display())]
    Adapter {
        /// The adapter's file.
        file: PathBuf,
        /// The full name of its tensor.
        key: String,
        /// Why.
        reason: String,
    },
    /// candle refused to build the tensor.
    #[error("cannot build tensor `{key}`")]
    Candle {
        /// The full name of the tensor.
        key: String,
        /// Why.
        #[source]
        source: candle_core::Error,
    },
}
