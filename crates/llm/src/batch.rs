//! Batches of a provider: many questions in one file, answered within a day at a lower price.
//!
//! Source: OpenAI's `/v1/files` and `/v1/batches`, which other providers copy. Submit, keep the id,
//! wait, collect; a process that is killed in between goes on with the id.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use reqwest::multipart::{Form, Part};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    Client, Error,
    answer::Answer,
    completion::Completion,
    lines::Lines,
    message::Chat,
    price::Tariff,
    transport::Body,
    wire::{Request, refusal},
};

/// What the provider takes in one batch: questions, and bytes of their file.
const MAX_QUESTIONS: usize = 50_000;
const MAX_FILE_BYTES: usize = 200 << 20;

/// Largest file of answers that is read, in bytes.
const MAX_ANSWERS_BYTES: usize = 1 << 30;

/// How a batch stands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BatchState {
    /// Its id.
    pub id: String,
    /// In the provider's word: validating, in_progress, finalizing, completed, failed, expired,
    /// cancelling, cancelled.
    pub status: String,
    /// How many questions there are, and how many are done.
    #[serde(default, rename = "request_counts")]
    pub counts: BatchCounts,
    #[serde(default)]
    output_file_id: Option<String>,
    #[serde(default)]
    error_file_id: Option<String>,
    #[serde(default)]
    errors: Option<Value>,
}

/// Questions of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct BatchCounts {
    /// All.
    #[serde(default)]
    pub total: u64,
    /// Answered.
    #[serde(default)]
    pub completed: u64,
    /// Refused or failed.
    #[serde(default)]
    pub failed: u64,
}

impl BatchState {
    /// Whether it will not change any more.
    pub fn is_over(&self) -> bool {
        matches!(
            self.status.as_str(),
            "completed" | "failed" | "expired" | "cancelled"
        )
    }
}

/// The questions of a batch, each under an id of its own: the sample, the attempt, the step.
pub type Questions = BTreeMap<String, Chat>;

/// What became of them, under the same ids.
pub type Answers = BTreeMap<String, Result<Completion, Error>>;

impl Client {
    /// Hands in a batch; its id. Keep the id before anything else: handing in twice pays twice.
    ///
    /// # Errors
    /// No questions or too many for one batch, and what the server refuses. An error that leaves
    /// open whether the batch was made says so.
    pub async fn submit_batch(&self, questions: &Questions) -> Result<String, Error> {
        let file = self.batch_file(questions)?;
        let uploaded: Made = self
            .persist(|| async {
                let length = file.len() as u64;
                let part =
                    Part::stream_with_length(file.clone(), length).file_name("questions.jsonl");
                let form = Form::new().text("purpose", "batch").part("file", part);
                let sent = self.transport().post_form("files", form);
                read_json(self.in_time(sent).await?).await
            })
            .await?;
        let order = json!({
            "input_file_id": uploaded.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        });
        let made: Made = self
            .persist(|| async { self.order(&order).await.map_err(maybe_made) })
            .await?;
        Ok(made.id)
    }

    /// How a batch stands.
    ///
    /// # Errors
    /// A server that is away or does not know it.
    pub async fn batch(&self, id: &str) -> Result<BatchState, Error> {
        let path = format!("batches/{}", checked(id)?);
        self.persist(|| async {
            let sent = self.transport().get(&path);
            read_json(self.in_time(sent).await?).await
        })
        .await
    }

    /// Looks every so often until the batch is over.
    ///
    /// # Errors
    /// As for [`batch`](Self::batch), and one that is not over in time.
    pub async fn wait_for_batch(
        &self,
        id: &str,
        every: Duration,
        at_most: Duration,
    ) -> Result<BatchState, Error> {
        let until = Instant::now() + at_most;
        loop {
            let state = self.batch(id).await?;
            if state.is_over() {
                return Ok(state);
            }
            if Instant::now() + every > until {
                let reason = format!("it is `{}` after {} s", state.status, at_most.as_secs());
                return Err(failed(id, &reason));
            }
            sleep(every).await;
        }
    }

    /// The answers of a batch that is over. Every question gets one, or an error of its own: a
    /// question that the provider lost, or that was not reached before the batch ended, is named.
    ///
    /// # Errors
    /// A batch that is not over or was refused as a whole, files that cannot be read.
    pub async fn collect_batch(
        &self,
        state: &BatchState,
        questions: &Questions,
    ) -> Result<Answers, Error> {
        if !state.is_over() {
            return Err(failed(&state.id, &format!("it is `{}`", state.status)));
        }
        let files = [&state.output_file_id, &state.error_file_id];
        if state.status == "failed" && files.iter().all(|file| file.is_none()) {
            let errors = state.errors.as_ref().map(Value::to_string);
            let reason = errors.unwrap_or_else(|| "it failed without a reason".to_owned());
            return Err(failed(&state.id, &reason));
        }
        let mut lines: HashMap<String, Line> = HashMap::new();
        for file in files.into_iter().flatten() {
            for line in self.persist(|| self.file_lines(file)).await? {
                lines.entry(line.custom_id.clone()).or_insert(line);
            }
        }
        let answers = questions.iter().map(|(name, chat)| {
            let answer = match lines.remove(name) {
                Some(line) => self.batch_answer(&state.id, chat, line),
                None => Err(failed(&state.id, &format!("`{name}` was not answered"))),
            };
            (name.clone(), answer)
        });
        Ok(answers.collect())
    }

    /// Asks the provider to end a batch. What is answered already is paid for and can be collected.
    ///
    /// # Errors
    /// A server that is away or does not know it.
    pub async fn cancel_batch(&self, id: &str) -> Result<BatchState, Error> {
        let path = format!("batches/{}/cancel", checked(id)?);
        let nothing = json!({});
        self.persist(|| async {
            let sent = self.transport().post(&path, &nothing);
            read_json(self.in_time(sent).await?).await
        })
        .await
    }

    fn batch_file(&self, questions: &Questions) -> Result<bytes::Bytes, Error> {
        if questions.is_empty() || questions.len() > MAX_QUESTIONS {
            return Err(Error::Options(format!(
                "a batch takes 1 to {MAX_QUESTIONS} questions, not {}; make several",
                questions.len()
            )));
        }
        let mut file = Vec::new();
        for (name, chat) in questions {
            let body = Request::new(chat, self.settings(), self.dialect());
            let line = json!({
                "custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body,
            });
            file.extend_from_slice(line.to_string().as_bytes());
            file.push(b'\n');
            if file.len() > MAX_FILE_BYTES {
                return Err(Error::Options(format!(
                    "the questions of a batch may have {MAX_FILE_BYTES} bytes together; make several"
                )));
            }
        }
        Ok(file.into())
    }

    async fn order(&self, order: &Value) -> Result<Made, Error> {
        let sent = self.transport().post("batches", order);
        read_json(self.in_time(sent).await?).await
    }

    async fn file_lines(&self, file: &str) -> Result<Vec<Line>, Error> {
        let path = format!("files/{}/content", checked(file)?);
        let body = self.in_time(self.transport().get(&path)).await?;
        let body = body.at_most(MAX_ANSWERS_BYTES);
        let mut lines = Lines::new(body, self.max_answer_bytes());
        let mut found = Vec::new();
        while let Some(text) = lines.next().await? {
            if !text.trim().is_empty() {
                found.push(parse(text.as_bytes())?);
            }
        }
        Ok(found)
    }

    fn batch_answer(&self, id: &str, chat: &Chat, line: Line) -> Result<Completion, Error> {
        if let Some(error) = line.error {
            let (message, code) = refusal(&error.to_string());
            return Err(failed(id, &format!("{message} ({code})")));
        }
        let response = line
            .response
            .ok_or_else(|| failed(id, &format!("`{}` has no answer", line.custom_id)))?;
        let body = response.body.to_string();
        if response.status_code != 200 {
            return Err(Error::Refused {
                status: response.status_code,
                message: refusal(&body).0,
            });
        }
        let answer = Answer::parse(body.as_bytes())?;
        Ok(self.settle(chat, answer, Tariff::Batch))
    }
}

/// Something that was made, and has an id.
#[derive(Deserialize)]
struct Made {
    id: String,
}

/// A line of a file of answers.
#[derive(Deserialize)]
struct Line {
    custom_id: String,
    #[serde(default)]
    response: Option<LineResponse>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct LineResponse {
    status_code: u16,
    body: Value,
}

async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, Error> {
    parse(&body.whole().await?)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Malformed {
        reason: format!("no answer about batches: {error}"),
    })
}

/// Asking again for a batch that may have been made could pay for it twice.
fn maybe_made(error: Error) -> Error {
    match error {
        Error::Cut { .. }
        | Error::TimedOut { .. }
        | Error::Server { .. }
        | Error::Malformed { .. } => {
            let reason = format!(
                "it may have been made or not ({error}); look at the provider's list before handing it in again"
            );
            failed("(new)", &reason)
        }
        certain => certain,
    }
}

/// An id as part of a path. It comes from a server or a file, and may not lead elsewhere.
fn checked(id: &str) -> Result<&str, Error> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    match !id.is_empty() && id != ".." && id != "." && id.bytes().all(is_plain) {
        true => Ok(id),
        false => Err(failed(id, "this is no id of a batch or a file")),
    }
}

fn failed(id: &str, reason: &str) -> Error {
    Error::Batch {
        id: id.to_owned(),
        reason: reason.to_owned(),
    }
}
