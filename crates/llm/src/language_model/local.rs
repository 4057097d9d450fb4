//! A model in this process. It writes one answer at a time, on a thread of its own, so that its caller
//! may leave between any two tokens; the others wait in a line that ends somewhere.

mod line;
mod loaded;
mod shared;

use std::sync::Arc;

use async_trait::async_trait;
use models::language_model as model;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use self::{
    line::Line,
    loaded::{Job, Loaded},
};
use super::{Answer, LanguageModel, Question, Weights};
use crate::{Content, Error, LocalOptions, Message, Role};

/// A model in this process.
#[derive(Debug)]
pub struct Local {
    loaded: Arc<Loaded>,
    line: Line,
    max_corrections: u32,
}

impl Local {
    /// Loads the model that the options name. `temperature` is used where they name none.
    ///
    /// # Errors
    /// No path, nothing there, a model that is damaged, of another kind, or without a chat template.
    pub async fn open(options: &LocalOptions, temperature: f64) -> Result<Self, Error> {
        let wanted = options.clone();
        let loaded = spawn_blocking(move || Loaded::open(&wanted, temperature));
        Ok(Self {
            loaded: Arc::new(loaded.await.map_err(Error::Thread)??),
            line: Line::new(options.max_waiting),
            max_corrections: options.max_corrections,
        })
    }

    /// Runs `work` in turn, on a thread of its own. Where the caller leaves, `work` learns of it by the
    /// token, and the next in line waits until it has ended.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Loaded, &CancellationToken) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.line.turn().await?;
        let left = CancellationToken::new();
        let _leaving = left.clone().drop_guard();
        let loaded = Arc::clone(&self.loaded);
        let done = spawn_blocking(move || {
            let _turn = turn;
            work(&loaded, &left)
        });
        done.await.map_err(Error::Thread)?
    }
}

#[async_trait]
impl LanguageModel for Local {
    fn backend(&self) -> &'static str {
        "local"
    }

    fn name(&self) -> &str {
        self.loaded.name()
    }

    fn weights(&self) -> Option<&Weights> {
        Some(self.loaded.weights())
    }

    fn is_seeded(&self) -> bool {
        true
    }

    fn fingerprint(&self) -> String {
        self.loaded.fingerprint()
    }

    fn max_concurrency(&self) -> usize {
        1
    }

    fn max_corrections(&self) -> u32 {
        self.max_corrections
    }

    /// Reads a conversation with rules and writes one token, so that a template that refuses the
    /// roles of every question is known before the first.
    async fn warm_up(&self) -> Result<(), Error> {
        self.in_turn(|loaded, left| loaded.warm_up(left)).await
    }

    async fn answer(&self, question: &Question) -> Result<Answer, Error> {
        let messages = question.messages.iter().map(message);
        let job = Job {
            messages: messages.collect::<Result<_, Error>>()?,
            schema: Arc::clone(&question.schema),
            seed: question.seed,
        };
        self.in_turn(move |loaded, left| loaded.answer(&job, left))
            .await
    }
}

/// A message in the words that chat templates know.
fn message(message: &Message) -> Result<model::Message, Error> {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let mut text = String::new();
    for part in &message.content {
        match part {
            Content::Text(part) => text.push_str(part),
            Content::Picture(_) => {
                let sentence = "a local language model sees no pictures; leave them out, or ask a remote one that does";
                return Err(Error::Options(sentence.to_owned()));
            }
        }
    }
    Ok(model::Message::new(role, text))
}
