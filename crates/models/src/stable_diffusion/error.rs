//! Why there is no picture.

use crate::clip_tokenizer;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of the request is wrong.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The model gave NaN or infinity.
    #[error("the model gave a value that is not finite: no picture")]
    NotFinite,
    /// The picture is one colour all over.
    #[error("the model gave a picture of one colour: no picture")]
    Blank,
    /// The prompt cannot be tokenized.
    #[error(transparent)]
    Tokenizer(#[from] clip_tokenizer::Error),
    /// Shapes that do not fit: a bug here.
    #[error("cannot compute")]
    Candle(#[from] candle_core::Error),
}

pub(super) fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
    Error::Invalid {
        field,
        reason: reason.into(),
    }
}
