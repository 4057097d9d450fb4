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
    /// An item has not as many pictures as its ability.
    #[error(
        "a sample of ability `{ability}` has {wanted} pictures, and this item has {image_count}; the grammar back-end writes about as many"
    )]
    SeveralImages {
        /// The ability.
        ability: String,
        /// Pictures that its samples have.
        wanted: usize,
        /// Pictures of the item.
        image_count: usize,
    },
    /// The dialogues wanted would end before they have shown every picture.
    #[error(
        "round_count: ability `{ability}` shows {image_count} pictures one by one; ask for {image_count} rounds or more, not {round_count}"
    )]
    TooFewRounds {
        /// The ability.
        ability: String,
        /// Pictures of the item.
        image_count: usize,
        /// Rounds wanted.
        round_count: usize,
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
    /// An item shows more pictures than a conversation has names for.
    #[error("a conversation is about at most {limit} pictures, and this item has {image_count}")]
    TooManyImages {
        /// Pictures of the item.
        image_count: usize,
        /// The bound.
        limit: usize,
    },
    /// A model that looks got nothing to look at.
    #[error(
        "the item has {wanted} prompts and {found} pictures; send one picture for each, or start the service without --vision"
    )]
    NoPicture {
        /// Prompts of the item.
        wanted: usize,
        /// Pictures of the item.
        found: usize,
    },
    /// A picture that cannot be shown.
    #[error("a picture for the language model must come inline, in {limit_bytes} bytes at most")]
    PictureNotInline {
        /// The bound, in bytes.
        limit_bytes: usize,
    },
    /// A local model was told to look.
    #[error("--vision needs a model that sees: the back-end `local` reads text alone")]
    Blind,
    /// The language model cannot be asked, or does not answer.
    #[error(transparent)]
    LanguageModel(#[from] llm::Error),
    /// An answer that fits its schema and not our reading of it: a bug.
    #[error("an answer of the language model cannot be read")]
    Answer(#[source] serde_json::Error),
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
        matches!(self, Self::LanguageModel(error) if error.ends_request())
    }
}

impl ServiceError for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Field { field, reason } => Kind::invalid(field, reason),
            Self::TooFewRounds {
                image_count,
                round_count,
                ..
            } => Kind::invalid(
                "round_count",
                format!("{round_count} is less than the {image_count} pictures to show"),
            ),
            Self::UnknownAbility { .. } => Kind::NotFound,
            Self::SeveralImages { .. } => Kind::Unimplemented,
            Self::NoFacts
            | Self::NoQuestion { .. }
            | Self::TooFewQuestions { .. }
            | Self::NoPicture { .. }
            | Self::PictureNotInline { .. }
            | Self::Blind
            | Self::Disagrees(_) => Kind::FailedPrecondition,
            Self::TooManyImages { .. } => Kind::Unimplemented,
            Self::LanguageModel(error) => error.kind(),
            Self::Abilities(_) | Self::Answer(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::UnknownAbility { .. } => "UNKNOWN_ABILITY",
            Self::SeveralImages { .. } | Self::TooManyImages { .. } => "SEVERAL_IMAGES",
            Self::NoPicture { .. } | Self::PictureNotInline { .. } => "NO_PICTURE",
            Self::LanguageModel(error) => error.reason(),
            Self::NoFacts => "NO_FACTS",
            Self::NoQuestion { .. } | Self::TooFewQuestions { .. } => "TOO_FEW_QUESTIONS",
            Self::TooFewRounds { .. } => "TOO_FEW_ROUNDS",
            Self::Disagrees(_) => "DISAGREES_WITH_FACTS",
            Self::Abilities(_) | Self::Answer(_) | Self::Field { .. } | Self::Blind => {
                self.kind().reason()
            }
        }
    }
}
