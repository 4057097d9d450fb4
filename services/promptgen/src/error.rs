//! What can go wrong, and what a caller can do about it.

use dataset::ability::StyleWeightsError;
use runtime::{Kind, ServiceError};
use std::sync::Arc;

/// An error of promptgen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The abilities cannot be loaded.
    #[error("the abilities cannot be loaded")]
    Abilities(#[source] dataset::ability::Error),
    /// The embedding model cannot be loaded.
    #[error("the embedding model `{model}` cannot be loaded: {reason}")]
    Model {
        /// Its name.
        model: String,
        /// What is wrong, with the file.
        reason: String,
    },
    /// A field of a request breaks a rule.
    #[error("{field}: {reason}")]
    Field {
        /// Path of the field.
        field: String,
        /// The rule.
        reason: String,
    },
    /// No ability has this name.
    #[error("there is no ability `{name}`; the abilities are {known}")]
    UnknownAbility {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The style weights make no sense.
    #[error(transparent)]
    StyleWeights(#[from] StyleWeightsError),
    /// No prompt is left for this item.
    #[error(
        "ability `{ability}` has {prompt_count} prompts in this part, and none for slot {slot}; add keywords to its file or ask for fewer samples"
    )]
    Exhausted {
        /// The ability.
        ability: String,
        /// Prompts in this part.
        prompt_count: usize,
        /// Slot asked for.
        slot: u64,
    },
    /// Keywords of a language model must stay the same.
    #[error("--keyword-count needs --journal FILE, so that a restart keeps the same keywords")]
    KeywordsWithoutJournal,
    /// The language model cannot be asked, or does not answer.
    #[error(transparent)]
    LanguageModel(#[from] llm::Error),
    /// The language model's answers cannot be used.
    #[error(
        "the language model wrote nothing that can be used, after {corrections} corrections: {complaints}"
    )]
    Unusable {
        /// Corrections that were asked for.
        corrections: u32,
        /// What is wrong with the last answer.
        complaints: String,
    },
    /// An answer that fits its schema and not our reading of it: a bug.
    #[error("an answer of the language model cannot be read")]
    Answer(#[source] serde_json::Error),
    /// No embedding model stands behind this endpoint.
    #[error(
        "this endpoint has no embedding model; start it with --embedding-model builtin:nano-clip"
    )]
    NoEmbeddingModel,
    /// Another embedding model was asked for.
    #[error("this endpoint serves no embedding model `{asked}`; it serves `{served}`")]
    UnknownModel {
        /// The name asked for.
        asked: String,
        /// The name served.
        served: String,
    },
    /// A text could not be embedded.
    #[error("the text cannot be embedded")]
    Embed(#[source] Box<models::measuring::Error>),
    /// What several callers asked for at the same time failed for all of them.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// A message of ours that cannot be read back: a bug.
    #[error("a cached value cannot be read")]
    Encoding(#[source] prost::DecodeError),
    /// The caller left before the pictures of its samples were drawn.
    #[error("nobody waits for the prompts any more")]
    Left,
    /// A worker thread ended early.
    #[error("the embedding thread ended")]
    Thread(#[source] tokio::task::JoinError),
}

impl Error {
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// Whether every other item of the request would fail of it too, so that the request had better
    /// end with it.
    pub(crate) fn ends_request(&self) -> bool {
        match self {
            Self::LanguageModel(error) => error.ends_request(),
            Self::Shared(error) => error.ends_request(),
            _ => false,
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Field { field, reason } => Kind::invalid(field, reason),
            Self::StyleWeights(error) => Kind::invalid("style_weights", error.to_string()),
            Self::UnknownAbility { .. } | Self::UnknownModel { .. } => Kind::NotFound,
            Self::Exhausted { .. } | Self::Unusable { .. } | Self::KeywordsWithoutJournal => {
                Kind::FailedPrecondition
            }
            Self::LanguageModel(error) => error.kind(),
            Self::NoEmbeddingModel => Kind::Unimplemented,
            Self::Left => Kind::Cancelled,
            Self::Shared(error) => error.kind(),
            Self::Abilities(_)
            | Self::Model { .. }
            | Self::Embed(_)
            | Self::Encoding(_)
            | Self::Answer(_)
            | Self::Thread(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::UnknownAbility { .. } => "UNKNOWN_ABILITY",
            Self::UnknownModel { .. } => "UNKNOWN_MODEL",
            Self::Exhausted { .. } => "PROMPTS_EXHAUSTED",
            Self::NoEmbeddingModel => "NO_EMBEDDING_MODEL",
            Self::Unusable { .. } => "UNUSABLE_ANSWERS",
            Self::LanguageModel(error) => error.reason(),
            Self::Shared(error) => error.reason(),
            _ => self.kind().reason(),
        }
    }
}
