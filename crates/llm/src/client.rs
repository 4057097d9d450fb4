//! The client: a question goes in, an answer comes out, and in between lie the turn, the attempts
//! and the accounts.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{
    Error, Options,
    accounting::{Ledger, Totals},
    answer::{Answer, Events},
    ask::Ask,
    completion::{Completion, Usage},
    dialect::{Dialect, Learned},
    message::{Chat, Format},
    options::milliseconds,
    price::{Price, Tariff},
    rate::{Limiter, Limits, Outcome, Permit},
    retry::{Attempts, Retry},
    stream::AnswerStream,
    transport::{Body, Transport},
    wire::{Request, Settings},
};

/// A client of one model. Clones share connections, rate and accounts; keep one per model.
///
/// Dropping the future of a call ends its request.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    transport: Transport,
    settings: Settings,
    limiter: Limiter,
    retry: Retry,
    learned: Learned,
    price: Option<Price>,
    ledger: Ledger,
    is_streamed: bool,
    timeout: Duration,
    deadline: Duration,
    max_answer_bytes: usize,
    max_repairs: u32,
}

/// Path of the one call.
const CHAT: &str = "chat/completions";

impl Client {
    /// A client as the options say. Nothing is sent yet.
    ///
    /// # Errors
    /// No URL or model, a key that is promised and absent, a price file without the model.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let model = options.model.clone().filter(|model| !model.is_empty());
        let model = model.ok_or_else(|| {
            Error::Options(
                "the language model has no name: give --llm-model, or set DIPTYCH_LLM_MODEL"
                    .to_owned(),
            )
        })?;
        let limits = Limits {
            max_concurrency: options.max_concurrency.max(1),
            max_waiting: options.max_waiting,
            requests_per_minute: options.requests_per_minute,
            tokens_per_minute: options.tokens_per_minute,
            longest_quiet: options.deadline(),
            usual_quiet: milliseconds(options.max_delay_ms),
        };
        let price = options.price_file.as_deref();
        let price = price.map(|path| Price::load(path, &model)).transpose()?;
        Ok(Self(Arc::new(Inner {
            transport: Transport::new(options, &model)?,
            limiter: Limiter::new(&model, limits),
            retry: Retry::new(options),
            learned: Learned::default(),
            ledger: Ledger::new(&model, price.as_ref()),
            price,
            is_streamed: options.stream,
            timeout: options.timeout(),
            deadline: options.deadline(),
            max_answer_bytes: options.max_answer_bytes,
            max_repairs: options.max_repairs,
            settings: Settings {
                model,
                max_tokens: options.max_tokens.max(1),
                temperature: options.temperature,
            },
        })))
    }

    /// Name of the model.
    pub fn model(&self) -> &str {
        &self.0.settings.model
    }

    /// What all calls so far took and cost.
    pub fn totals(&self) -> Totals {
        self.0.ledger.totals()
    }

    /// Requests that the server seems to bear at a time; below one, a rate.
    pub fn window(&self) -> f64 {
        self.0.limiter.window()
    }

    /// Hash of everything in a question that decides its answer, hexadecimal: the model, the
    /// messages, every setting. Not the server's address.
    pub fn request_sha256(&self, chat: &Chat) -> String {
        Request::sha256(chat, &self.0.settings)
    }

    /// Names of the models that the server offers. One attempt, without waiting for a turn: for
    /// whoever wants to know whether the server is there.
    ///
    /// # Errors
    /// A server that is away, refuses the key, or has no such call.
    pub async fn models(&self) -> Result<Vec<String>, Error> {
        #[derive(serde::Deserialize)]
        struct List {
            data: Vec<Model>,
        }
        #[derive(serde::Deserialize)]
        struct Model {
            id: String,
        }
        let ask = async { self.0.transport.get("models").await?.whole().await };
        let bytes = self.0.in_time(ask).await?;
        let list: List = serde_json::from_slice(&bytes).map_err(|error| Error::Malformed {
            reason: format!("no list of models: {error}"),
        })?;
        Ok(list.data.into_iter().map(|model| model.id).collect())
    }

    /// Asks, and gives the answer as it comes. Attempts are made until it begins; from then on, what
    /// goes wrong ends it.
    ///
    /// # Errors
    /// As for [`Ask::ask`].
    pub async fn stream(&self, chat: &Chat) -> Result<AnswerStream, Error> {
        let inner = &self.0;
        let (events, permit) = inner.persist(|| inner.open(chat)).await?;
        Ok(AnswerStream::new(self.clone(), chat, events, permit))
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.0.transport
    }

    pub(crate) fn limiter(&self) -> &Limiter {
        &self.0.limiter
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.0.learned.now()
    }

    pub(crate) fn max_answer_bytes(&self) -> usize {
        self.0.max_answer_bytes
    }

    /// Bounds a request by the time that one attempt may take.
    pub(crate) async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.0.in_time(request).await
    }

    /// Makes attempts until one succeeds or the policy ends them.
    pub(crate) async fn persist<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.0.persist(attempt).await
    }

    /// Blots the key out of what a server said.
    pub(crate) fn hide(&self, text: &str) -> String {
        self.0.transport.hide(text)
    }

    /// Enters an answer into the accounts.
    pub(crate) fn settle(&self, chat: &Chat, answer: Answer, tariff: Tariff) -> Completion {
        self.0.settle(chat, answer, tariff)
    }

    /// Enters a failure into the accounts, and tells the limiter.
    pub(crate) fn failed(&self, permit: Permit, error: &Error) {
        self.0.failed(permit, error);
    }
}

impl Ask for Client {
    async fn ask(&self, chat: &Chat) -> Result<Completion, Error> {
        let inner = &self.0;
        inner.persist(|| inner.attempt(chat)).await
    }

    fn max_repairs(&self) -> u32 {
        self.0.max_repairs
    }
}

impl Inner {
    async fn persist<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let until = Instant::now() + self.deadline;
        let mut attempts = Attempts::default();
        let mut last = "waiting for its turn".to_owned();
        loop {
            let Ok(result) = timeout_at(until, attempt()).await else {
                return Err(self.too_late(last));
            };
            let error = match result {
                Ok(value) => {
                    self.retry.succeeded();
                    return Ok(value);
                }
                Err(error) => error,
            };
            let Some(delay) = self.retry.delay(&error, &mut attempts) else {
                return Err(error);
            };
            tracing::debug!(%error, ?delay, "asking the language model again");
            last = match error.retry_after() {
                Some(asked) => format!("{error}; it wants {:.0} s of quiet", asked.as_secs_f64()),
                None => error.to_string(),
            };
            if Instant::now() + delay >= until {
                return Err(self.too_late(last));
            }
            sleep(delay).await;
        }
    }

    fn too_late(&self, last: String) -> Error {
        Error::Deadline {
            after: self.deadline,
            last,
        }
    }

    async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let after = self.timeout;
        let what = "answer";
        let result = timeout(after, request).await;
        let result = result.unwrap_or(Err(Error::TimedOut { what, after }));
        result.map_err(|error| error.hiding(|text| self.transport.hide(text)))
    }

    /// One attempt at a whole answer.
    async fn attempt(&self, chat: &Chat) -> Result<Completion, Error> {
        let permit = self.turn(chat).await?;
        let started = Instant::now();
        match self.in_time(self.exchange(chat)).await {
            Ok(answer) => {
                metrics::histogram!("diptych_llm_request_seconds", "model" => self.settings.model.clone())
                    .record(started.elapsed().as_secs_f64());
                let completion = self.settle(chat, answer, Tariff::Single);
                let tokens = completion.usage.total_tokens();
                permit.finish(Outcome::Answered { tokens });
                Ok(completion)
            }
            Err(error) => {
                self.failed(permit, &error);
                Err(error)
            }
        }
    }

    /// One attempt at the beginning of a stream.
    async fn open(&self, chat: &Chat) -> Result<(Events, Permit), Error> {
        let permit = self.turn(chat).await?;
        match self.in_time(self.post(chat, true)).await {
            Ok(body) => Ok((Events::new(body, self.max_answer_bytes), permit)),
            Err(error) => {
                self.failed(permit, &error);
                Err(error)
            }
        }
    }

    /// Waits until the server may be asked: for the tokens of the question and the most that the
    /// answer may have.
    async fn turn(&self, chat: &Chat) -> Result<Permit, Error> {
        let most = chat.max_tokens.unwrap_or(self.settings.max_tokens);
        let tokens = chat.estimated_tokens().saturating_add(u64::from(most));
        self.limiter.acquire(tokens).await
    }

    async fn exchange(&self, chat: &Chat) -> Result<Answer, Error> {
        let body = self.post(chat, self.is_streamed).await?;
        // A server may answer whole although a stream was asked for.
        match body.is_event_stream() {
            true => Events::new(body, self.max_answer_bytes).read().await,
            false => Answer::read(body).await,
        }
    }

    /// Sends the question, in other words if the server does not know the first ones. Every refusal
    /// that is learned from excludes a variant, so this ends.
    async fn post(&self, chat: &Chat, is_streamed: bool) -> Result<Body, Error> {
        let asks_for_json = matches!(chat.format, Format::Json(_));
        loop {
            let dialect = self.learned.now();
            let mut request = Request::new(chat, &self.settings, dialect);
            if is_streamed {
                request = request.streamed();
            }
            match self.transport.post(CHAT, &request).await {
                Err(error) if self.learned.learn(dialect, asks_for_json, &error) => {}
                result => return result,
            }
        }
    }

    fn failed(&self, permit: Permit, error: &Error) {
        self.ledger.failed(error);
        permit.finish(match error {
            Error::Unreachable { .. } => Outcome::Away,
            error if error.is_overload() => Outcome::Overloaded {
                retry_after: error.retry_after(),
            },
            _ => Outcome::Failed,
        });
    }

    /// What a server quotes of its key ends here, before an answer is kept, logged or handed on.
    fn settle(&self, chat: &Chat, answer: Answer, tariff: Tariff) -> Completion {
        /// A token has about so many bytes.
        const BYTES_PER_TOKEN: usize = 4;
        let answer = answer.hiding(|text| self.transport.hide(text));
        let finish_reason = answer.finish_reason();
        let usage = answer.usage.unwrap_or_else(|| Usage {
            prompt_tokens: chat.estimated_tokens(),
            cached_tokens: 0,
            completion_tokens: answer.text.len().div_ceil(BYTES_PER_TOKEN) as u64,
            is_estimated: true,
        });
        let completion = Completion {
            cost: self.price.as_ref().map(|price| price.cost(&usage, tariff)),
            text: answer.text,
            model: answer.model.unwrap_or_else(|| self.settings.model.clone()),
            finish_reason,
            usage,
            request_sha256: Request::sha256(chat, &self.settings),
            is_replayed: false,
        };
        self.ledger.answered(&completion);
        completion
    }
}
