//! What can go wrong, and what a caller can do about it.

use runtime::{Kind, ServiceError};

/// An error of dialogue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The abilities cannot be loaded.
    #[error("the abilities cannot be loaded")]
    Abilities(#[source] dataset::ability::Error),
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
    /// An item shows several pictures.
    #[error("the grammar back-end writes about one picture, and this item has {image_count}")]
    SeveralImages {
        /// Pictures of the item.
        image_count: usize,
    },
    /// A prompt came without the truth that its picture should show.
    #[error("the prompt has no facts with a subject; ask promptgen for prompts with facts")]
    NoFacts,
    /// The ability offers none of the kinds asked for.
    #[error("ability `{ability}` has no question of the kinds asked for that these facts carry")]
    NoQuestion {
        /// The ability.
        ability: String,
    },
    /// The ability has too few questions.
    #[error(
        "ability `{ability}` gives only {found} different rounds for these facts, not {wanted}"
    )]
    TooFewQuestions {
        /// The ability.
        ability: String,
        /// Rounds found.
        found: usize,
        /// Rounds wanted.
        wanted: usize,
    },
    /// What was written contradicts the facts.
    #[error("what was written does not agree with the facts: {0}")]
    Disagrees(String),
}

impl Error {
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Field { field, reason } => Kind::invalid(field, reason),
            Self::UnknownAbility { .. } => Kind::NotFound,
            Self::SeveralImages { .. } => Kind::Unimplemented,
            Self::NoFacts
            | Self::NoQuestion { .. }
            | Self::TooFewQuestions { .. }
            | Self::Disagrees(_) => Kind::FailedPrecondition,
            Self::Abilities(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::UnknownAbility { .. } => "UNKNOWN_ABILITY",
            Self::SeveralImages { .. } => "SEVERAL_IMAGES",
            Self::NoFacts => "NO_FACTS",
            Self::NoQuestion { .. } | Self::TooFewQuestions { .. } => "TOO_FEW_QUESTIONS",
            Self::Disagrees(_) => "DISAGREES_WITH_FACTS",
            Self::Abilities(_) | Self::Field { .. } => self.kind().reason(),
        }
    }
}
