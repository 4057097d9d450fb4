//! The seam to language models: a question with its rules and a schema goes in, JSON that fits comes
//! out. [`Remote`] asks an OpenAI-compatible server; another model needs this trait and nothing else
//! here. One that implements `llm::Ask` gets validation and repair from `llm::structured`.

use crate::error::Error;
use llm::{Ask as _, Chat, Client, Cost, Journal, Message, Schema, Structured, Usage};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// A language model that answers in JSON.
#[tonic::async_trait]
pub(crate) trait LanguageModel: Send + Sync + 'static {
    /// Back-end that it makes, as in `Capabilities.backend`.
    fn backend(&self) -> &'static str;

    /// Its name.
    fn name(&self) -> &str;

    /// Everything of it that decides its answers, as a text.
    fn fingerprint(&self) -> String;

    /// Most questions worth asking at a time.
    fn max_concurrency(&self) -> usize;

    /// Returns once the model has shown that it is there.
    async fn warm_up(&self) -> Result<(), Error>;

    /// The answer, validated against the question's schema.
    async fn answer(&self, question: &Question) -> Result<Answer, Error>;
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// What the answer is for: sample, attempt, step. No two samples share one.
    pub(crate) key: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) schema: Arc<Schema>,
    /// Seed of the sampling, below 2³¹.
    pub(crate) seed: u64,
}

/// What was answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) value: Value,
    /// The words that the value was read from.
    pub(crate) text: String,
    pub(crate) spent: Spent,
}

/// What answers took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spent {
    answers: u32,
    repairs: u32,
    usage: Usage,
    cost: Option<Cost>,
    /// Model that gave the last one, as the server names it.
    pub(crate) model: String,
    request_sha256: String,
}

impl Spent {
    /// Adds what a later answer took.
    pub(crate) fn add(&mut self, later: Self) {
        self.answers += later.answers;
        self.repairs += later.repairs;
        self.usage = self.usage.plus(later.usage);
        self.cost = match (self.cost.take(), later.cost) {
            (Some(before), Some(more)) => Some(before.plus_picos(more.picos)),
            (before, more) => before.or(more),
        };
        self.model = later.model;
        self.request_sha256 = later.request_sha256;
    }

    /// The same as parameters of a provenance.
    pub(crate) fn parameters(&self) -> BTreeMap<String, String> {
        let mut parameters = BTreeMap::from([
            ("request_sha256", self.request_sha256.clone()),
            ("prompt_tokens", self.usage.prompt_tokens.to_string()),
            (
                "completion_tokens",
                self.usage.completion_tokens.to_string(),
            ),
            ("tokens_are_estimated", self.usage.is_estimated.to_string()),
            ("answers", self.answers.to_string()),
            ("schema_repairs", self.repairs.to_string()),
        ]);
        if let Some(cost) = &self.cost {
            parameters.insert("cost_picos", cost.picos.to_string());
            parameters.insert("cost_currency", cost.currency.clone());
            parameters.insert("price_file", cost.price_file.clone());
            parameters.insert("price_file_sha256", cost.price_file_sha256.clone());
        }
        let owned = |(name, value): (&str, String)| (name.to_owned(), value);
        parameters.into_iter().map(owned).collect()
    }
}

/// A model behind an OpenAI-compatible server.
#[derive(Debug)]
pub(crate) struct Remote {
    client: Client,
    journal: Option<Journal>,
    options: llm::Options,
    temperature: f64,
}

impl Remote {
    /// A model as the options say, with a journal before it where one is wanted. Nothing is asked
    /// yet. `temperature` is used where the options name none.
    pub(crate) async fn open(
        options: &llm::Options,
        journal: Option<&Path>,
        temperature: f64,
    ) -> Result<Self, llm::Error> {
        let client = Client::new(options)?;
        let journal = match journal {
            Some(path) => Some(Journal::open(path).await?),
            None => {
                tracing::warn!("without --journal, answers of the language model are paid again");
                None
            }
        };
        Ok(Self {
            client,
            journal,
            temperature: options.temperature.unwrap_or(temperature),
            options: options.clone(),
        })
    }

    /// One try at finding the server, with a tiny question where it cannot list its models.
    async fn is_there(&self) -> Result<(), llm::Error> {
        let models = self.client.models().await;
        let is_listed = |models: &Vec<String>| models.iter().any(|name| name == self.name());
        match models {
            Ok(models) if is_listed(&models) => Ok(()),
            Ok(_) | Err(llm::Error::NotFound { .. } | llm::Error::Malformed { .. }) => {
                let chat = Chat::new(vec![Message::user("Answer with the word: yes")]);
                let answer = self.client.ask(&chat.with_max_tokens(TINY_TOKENS)).await;
                answer.map(|_| ())
            }
            Err(error) => Err(error),
        }
    }
}

/// Bound on the answer to the first question.
const TINY_TOKENS: u32 = 16;

#[tonic::async_trait]
impl LanguageModel for Remote {
    fn backend(&self) -> &'static str {
        "openai"
    }

    fn name(&self) -> &str {
        self.client.model()
    }

    fn fingerprint(&self) -> String {
        format!(
            "{} {} {}",
            self.name(),
            self.temperature,
            self.options.max_tokens
        )
    }

    fn max_concurrency(&self) -> usize {
        self.options.max_concurrency as usize
    }

    async fn warm_up(&self) -> Result<(), Error> {
        let until = Instant::now() + self.options.deadline();
        let mut delay = Duration::from_millis(self.options.first_delay_ms);
        loop {
            let error = match self.is_there().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if !error.is_retryable() || Instant::now() + delay >= until {
                return Err(error.into());
            }
            tracing::warn!(%error, "waiting for the language model");
            sleep(delay).await;
            delay = (delay * 2).min(Duration::from_millis(self.options.max_delay_ms));
        }
    }

    async fn answer(&self, question: &Question) -> Result<Answer, Error> {
        let chat = Chat {
            temperature: Some(self.temperature),
            ..Chat::new(question.messages.clone()).with_seed(question.seed)
        };
        let schema = &question.schema;
        let found: Structured<Value> = match &self.journal {
            Some(journal) => {
                let client = self.client.journaled(journal, question.key.as_str());
                client.structured(&chat, schema).await?
            }
            None => self.client.structured(&chat, schema).await?,
        };
        Ok(Answer {
            spent: Spent {
                answers: 1,
                repairs: found.repairs,
                usage: found.usage,
                cost: found.cost,
                model: found.completion.model,
                request_sha256: found.completion.request_sha256,
            },
            value: found.value,
            text: found.completion.text,
        })
    }
}
