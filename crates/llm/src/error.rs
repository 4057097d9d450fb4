//! What can go wrong with a model, and what to do about it.

use std::{path::PathBuf, time::Duration};

use crate::completion::Completion;

/// An error of this crate. A sentence each; where somebody can do something, it says what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Options that make no sense, or miss something.
    #[error("{0}")]
    Options(String),
    /// A file of the configuration cannot be read.
    #[error("cannot read {what} {}", path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The HTTP client could not be made.
    #[error("cannot start the HTTP client")]
    Http(#[source] reqwest::Error),
    /// Nobody answers there.
    #[error(
        "cannot reach the language model at {url}: {reason}; start its server, or correct --llm-url"
    )]
    Unreachable {
        /// Address of the call.
        url: String,
        /// The root cause.
        reason: String,
    },
    /// The server's certificate is not to be trusted.
    #[error(
        "cannot trust {url}: {reason}; name the authority of its certificate with --llm-ca-file, or correct --llm-url"
    )]
    Untrusted {
        /// Address of the call.
        url: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// The key is missing, wrong, or may not do this.
    #[error("{url} refused the key ({status}): {message}; {advice}")]
    Unauthorized {
        /// Address of the call.
        url: String,
        /// HTTP status: 401 or 403.
        status: u16,
        /// What the server said.
        message: String,
        /// Where the right key belongs.
        advice: String,
    },
    /// The account is empty; asking again changes nothing.
    #[error("the account behind {url} has no credit left: {message}; top it up, or lift its limit")]
    OutOfCredit {
        /// Address of the call.
        url: String,
        /// What the server said.
        message: String,
    },
    /// The server has no such model, or no such call.
    #[error(
        "{url} answers 404: {message}; correct --llm-model (now `{model}`), or --llm-url, which usually ends in /v1"
    )]
    NotFound {
        /// Address of the call.
        url: String,
        /// Model asked for.
        model: String,
        /// What the server said.
        message: String,
    },
    /// The server does not take this request, and will not take it again.
    #[error("the language model refused the request ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// The server has too much to do, or this caller asked too often.
    #[error("the language model is overloaded ({status}): {message}")]
    Overloaded {
        /// HTTP status: 429, 503 or 529.
        status: u16,
        /// What the server said.
        message: String,
        /// When it wants to be asked again, where it says so.
        retry_after: Option<Duration>,
    },
    /// The server failed.
    #[error("the language model's server failed ({status}): {message}")]
    Server {
        /// HTTP status, or 200 for an error in the middle of a stream.
        status: u16,
        /// What the server said.
        message: String,
    },
    /// One attempt took too long.
    #[error("the language model gave no {what} within {} s", after.as_secs_f64())]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// The bound.
        after: Duration,
    },
    /// The call as a whole took too long, its retries and its turn included.
    #[error("no answer within --llm-deadline-seconds {}; last: {last}", after.as_secs_f64())]
    Deadline {
        /// The bound.
        after: Duration,
        /// Why the last attempt failed, or what was waited for.
        last: String,
    },
    /// Too many calls wait for their turn.
    #[error("{waiting} calls wait for the language model already ({option})")]
    Full {
        /// How many wait.
        waiting: usize,
        /// The option that bounds them.
        option: &'static str,
    },
    /// The connection broke in the middle of the answer.
    #[error("the answer broke off after {received_bytes} bytes: {reason}")]
    Cut {
        /// What had arrived, in bytes.
        received_bytes: usize,
        /// The root cause.
        reason: String,
    },
    /// The answer is no chat completion.
    #[error("the server's answer is no chat completion: {reason}")]
    Malformed {
        /// What is wrong, with the beginning of the answer.
        reason: String,
    },
    /// The answer is larger than anyone wants.
    #[error("the answer is larger than --llm-max-answer-bytes {limit_bytes}")]
    TooLarge {
        /// The bound, in bytes.
        limit_bytes: usize,
    },
    /// The answer reached the bound on tokens and is not whole. It was paid for and comes along.
    #[error(
        "the answer was cut at {} tokens; raise {option}, or ask for less",
        completion.usage.completion_tokens
    )]
    Truncated {
        /// What there is.
        completion: Box<Completion>,
        /// The option that bounds it.
        option: &'static str,
    },
    /// The model, or a filter behind it, declined to answer.
    #[error("the language model declined to answer: {reason}")]
    Declined {
        /// What it said.
        reason: String,
    },
    /// A whole answer without a word.
    #[error("the language model's answer is empty")]
    Empty,
    /// The answer does not fit the schema, after every repair that was allowed.
    #[error("the answer does not fit the schema `{schema}` after {repairs} repairs: {problems}")]
    Schema {
        /// Name of the schema.
        schema: String,
        /// Repairs that were asked for.
        repairs: u32,
        /// What is wrong with the last answer.
        problems: String,
    },
    /// The journal cannot be used.
    #[error("the journal {}: {reason}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The model of this machine cannot be loaded.
    #[error(
        "cannot load the language model that --language-model names, {}",
        path.display()
    )]
    Model {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong, with the file.
        source: Box<models::language_model::Error>,
    },
    /// The question leaves the model of this machine no room for an answer.
    #[error(
        "the question does not fit into the language model `{model}`: {reason}; ask for less, raise --language-model-max-tokens, or take a model with a longer context"
    )]
    DoesNotFit {
        /// Name of the model.
        model: String,
        /// How much there is, and how much would be needed.
        reason: String,
    },
    /// The model of this machine cannot answer.
    #[error("the language model `{model}` cannot answer")]
    Generation {
        /// Its name.
        model: String,
        /// Why.
        source: Box<models::language_model::Error>,
    },
    /// Nobody waits for the answer any more.
    #[error("the caller left before the answer was whole")]
    Left,
    /// The thread of the model of this machine ended early.
    #[error("the language model's thread ended")]
    Thread(#[source] tokio::task::JoinError),
    /// A batch of the provider went wrong.
    #[error("batch {id}: {reason}")]
    Batch {
        /// Its id, or what is sent where it has none.
        id: String,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// The error with what it quotes of an answer put through `hide`. Refusals are hidden where they
    /// are read; these are found in answers of a good status.
    pub(crate) fn hiding(self, hide: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Malformed { reason } => Self::Malformed {
                reason: hide(&reason),
            },
            Self::Server { status, message } => Self::Server {
                status,
                message: hide(&message),
            },
            error => error,
        }
    }

    /// Whether it says that less should be asked of the server.
    pub(crate) fn is_overload(&self) -> bool {
        matches!(self, Self::Overloaded { .. } | Self::TimedOut { .. })
    }

    /// When the server wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The innermost cause: what a connection failed of, without the layers above it.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
