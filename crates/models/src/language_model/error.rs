//! What can go wrong with a local language model, its inputs and its schemas.

use std::path::PathBuf;

/// Errors of [`crate::language_model`]. Each names the file, the field or the place in the schema.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `config.json` asks for something that is not supported, or is damaged.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    /// Weights in safetensors are damaged, missing, unexpected or of another shape.
    #[error(transparent)]
    Weights(#[from] crate::weights::Error),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A GGUF file is damaged, or holds what is not supported.
    #[error("{}: {reason}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The entry and what is wrong with it.
        reason: String,
    },
    /// The tokenizer does not load, is of an unsupported kind or does not belong to the model.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The file that holds the tokenizer.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The chat template does not compile, or refuses the messages.
    #[error("the chat template of {}: {reason}", path.display())]
    Template {
        /// The file that holds the template.
        path: PathBuf,
        /// What the template engine, or the template itself, said.
        reason: String,
    },
    /// A JSON schema is malformed, or uses a keyword that is not supported.
    #[error("schema at `{pointer}`: {reason}")]
    Schema {
        /// JSON pointer to the place, `#` for the whole.
        pointer: String,
        /// The keyword and what is wrong with it.
        reason: String,
    },
    /// A prompt that leaves no room for an answer, or less than the shortest that its schema allows.
    #[error("{0}")]
    DoesNotFit(String),
    /// A control token in a message, a sampling setting out of range, …
    #[error("{0}")]
    Input(String),
    /// The model computed a logit that is not finite.
    #[error("the model gave a logit that is not finite after {token_count} tokens")]
    NotFinite {
        /// Tokens in the sequence, prompt included.
        token_count: usize,
    },
    /// A tensor operation failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}
