//! A model behind an OpenAI-compatible server, as the seam knows it.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Answer, LanguageModel, Question, Spent};
use crate::{Ask as _, Chat, Client, Error, Journal, Message, Options, Structured};

/// A model behind an OpenAI-compatible server.
#[derive(Debug)]
pub struct Remote {
    client: Client,
    journal: Option<Journal>,
    options: Options,
    temperature: f64,
}

/// Bound on the answer to the first question.
const TINY_TOKENS: u32 = 16;

impl Remote {
    /// A model as the options say, with a journal before it where one is wanted. Nothing is asked
    /// yet. `temperature` is used where the options name none.
    ///
    /// # Errors
    /// As [`Client::new`] and [`Journal::open`].
    pub async fn open(
        options: &Options,
        journal: Option<&Path>,
        temperature: f64,
    ) -> Result<Self, Error> {
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
    async fn is_there(&self) -> Result<(), Error> {
        let models = self.client.models().await;
        let is_listed = |models: &Vec<String>| models.iter().any(|name| name == self.name());
        match models {
            Ok(models) if is_listed(&models) => Ok(()),
            Ok(_) | Err(Error::NotFound { .. } | Error::Malformed { .. }) => {
                let chat = Chat::new(vec![Message::user("Answer with the word: yes")]);
                let answer = self.client.ask(&chat.with_max_tokens(TINY_TOKENS)).await;
                answer.map(|_| ())
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
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

    fn max_corrections(&self) -> u32 {
        self.options.max_repairs
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
                return Err(error);
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
