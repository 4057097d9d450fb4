//! What can go wrong with a LLaVA checkpoint, its inputs and its training.

use std::path::PathBuf;

/// Errors of the vision–language half of this crate. Each names the file, tensor or field.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the checkpoint cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A JSON file does not parse.
    #[error("{} is not a valid configuration", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A configuration asks for something that is not supported, or contradicts itself.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field and what is wrong with it.
        reason: String,
    },
    /// The weights are damaged, or tensors are missing, unexpected or of another shape.
    #[error(transparent)]
    Weights(#[from] crate::weights::Error),
    /// The tokenizer does not load or does not belong to the model.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Text that cannot be tokenised, a question without room for an answer, too many images, …
    #[error("{0}")]
    Input(String),
    /// A trained tensor that the loss does not reach, a frozen one that it does, or a gradient that
    /// is not finite.
    #[error("gradient self-test: {0}")]
    Gradient(String),
    /// A tensor operation failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}
