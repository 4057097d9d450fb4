//! The seam to language models: a question with its rules and a schema goes in, JSON that fits comes
//! out. [`Remote`] asks an OpenAI-compatible server, [`Local`] computes in this process; another model
//! needs this trait and nothing else here.

mod local;
mod remote;
mod spent;

pub use local::Local;
pub use remote::Remote;
pub use spent::Spent;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::{Error, Message, Schema};

/// A language model that answers in JSON.
#[async_trait]
pub trait LanguageModel: Send + Sync + 'static {
    /// Back-end that it makes, as in `Capabilities.backend`.
    fn backend(&self) -> &'static str;

    /// Its name.
    fn name(&self) -> &str;

    /// Its weights, where they are known.
    fn weights(&self) -> Option<&Weights> {
        None
    }

    /// Whether a question always gets the same answer.
    fn is_seeded(&self) -> bool {
        false
    }

    /// Everything of it that decides its answers, as a text.
    fn fingerprint(&self) -> String;

    /// Most questions worth asking at a time.
    fn max_concurrency(&self) -> usize;

    /// How often an answer that fits the schema and is wrong otherwise may be corrected.
    fn max_corrections(&self) -> u32;

    /// Returns once the model has shown that it is there.
    ///
    /// # Errors
    /// What stands in the way of an answer.
    async fn warm_up(&self) -> Result<(), Error>;

    /// The answer, validated against the question's schema. Dropping the future ends the work for it.
    ///
    /// # Errors
    /// What stands in the way of an answer; one that is cut, declined or does not fit.
    async fn answer(&self, question: &Question) -> Result<Answer, Error>;
}

/// What is known of a model whose weights are here; of one elsewhere nothing, which is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// SHA-256 over weights, configuration and tokenizer, lower-case hexadecimal.
    pub sha256: String,
    /// Class of the model in the words of its configuration, such as `LlamaForCausalLM`.
    pub architecture: &'static str,
    /// Number of parameters.
    pub parameter_count: u64,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// What the answer is for: sample, attempt, step. No two samples share one.
    pub key: String,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// What the answer must fit.
    pub schema: Arc<Schema>,
    /// Seed of the sampling, below 2³¹.
    pub seed: u64,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What fits the schema.
    pub value: Value,
    /// The words that the value was read from.
    pub text: String,
    /// What it took.
    pub spent: Spent,
}
