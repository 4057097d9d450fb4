//! What a model answered, what it took, and what it cost.

use serde::{Deserialize, Serialize};

use crate::{Error, price::Cost};

/// An answer, as the server gave it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The words.
    pub text: String,
    /// Model that answered, as the server names it.
    pub model: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens it took.
    pub usage: Usage,
    /// What it cost; `None` without a price file.
    pub cost: Option<Cost>,
    /// SHA-256 of the request that it answers, hexadecimal: model, messages and every setting.
    pub request_sha256: String,
    /// Whether it comes from a journal and nothing was asked or paid this time.
    #[serde(skip)]
    pub is_replayed: bool,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model was done.
    Stop,
    /// The bound on tokens was reached: the answer is not whole.
    Length,
    /// The model or a filter declined; with what it said.
    Declined(String),
    /// A reason of the server's own; empty where it gives none.
    Other(String),
}

/// Tokens of one answer or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the question.
    pub prompt_tokens: u64,
    /// Of these, tokens that the server had in its cache.
    pub cached_tokens: u64,
    /// Tokens of the answer, hidden reasoning included where the server counts it.
    pub completion_tokens: u64,
    /// Whether any part is our estimate, because the server reported nothing.
    pub is_estimated: bool,
}

impl Usage {
    /// Both kinds of tokens.
    pub fn total_tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }

    /// The tokens of two answers.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            cached_tokens: self.cached_tokens.saturating_add(other.cached_tokens),
            completion_tokens: self
                .completion_tokens
                .saturating_add(other.completion_tokens),
            is_estimated: self.is_estimated || other.is_estimated,
        }
    }
}

impl Completion {
    /// The answer, if it is one to use.
    ///
    /// # Errors
    /// An answer that was cut at the bound on tokens, that the model declined, or that is empty.
    pub fn whole(self) -> Result<Self, Error> {
        match &self.finish_reason {
            FinishReason::Length => Err(Error::Truncated {
                completion: Box::new(self),
                option: "--llm-max-tokens",
            }),
            FinishReason::Declined(reason) => Err(Error::Declined {
                reason: reason.clone(),
            }),
            FinishReason::Stop | FinishReason::Other(_) if self.text.trim().is_empty() => {
                Err(Error::Empty)
            }
            FinishReason::Stop | FinishReason::Other(_) => Ok(self),
        }
    }
}
