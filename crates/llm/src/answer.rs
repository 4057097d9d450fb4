//! Reads answers: whole ones, and streams of server-sent events.

use crate::{
    Error,
    completion::{FinishReason, Usage},
    lines::Lines,
    schema::shortened,
    transport::Body,
    wire,
};

/// Longest quotation of an answer in an error, in bytes.
const MAX_QUOTED_BYTES: usize = 200;

/// An answer before it is accounted for.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) model: Option<String>,
    pub(crate) finish_word: String,
    pub(crate) refusal: Option<String>,
    pub(crate) usage: Option<Usage>,
}

impl Answer {
    pub(crate) fn finish_reason(&self) -> FinishReason {
        wire::finish_reason(&self.finish_word, self.refusal.clone())
    }

    /// The answer with all its words put through `hide`.
    pub(crate) fn hiding(self, hide: impl Fn(&str) -> String) -> Self {
        Self {
            text: hide(&self.text),
            model: self.model.as_deref().map(&hide),
            finish_word: hide(&self.finish_word),
            refusal: self.refusal.as_deref().map(&hide),
            usage: self.usage,
        }
    }

    /// Reads an answer that comes whole.
    pub(crate) async fn read(body: Body) -> Result<Self, Error> {
        Self::parse(&body.whole().await?)
    }

    /// The answer in the bytes of a body.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let event = parse(bytes)?;
        if event.choices.is_empty() {
            return Err(malformed("it has no choices", bytes));
        }
        let mut answer = Self::default();
        answer.add(event);
        Ok(answer)
    }

    /// Takes up an event; what it adds to the text.
    fn add(&mut self, event: wire::Answer) -> String {
        self.model = event.model.or(self.model.take());
        self.usage = event.usage.map(Usage::from).or(self.usage);
        let choice = event.choices.into_iter().next().unwrap_or_default();
        if let Some(word) = choice.finish_reason {
            self.finish_word = word;
        }
        let message = choice.message.unwrap_or_default();
        if let Some(refusal) = message.refusal {
            self.refusal.get_or_insert_default().push_str(&refusal);
        }
        let delta = message.content.unwrap_or_default();
        self.text.push_str(&delta);
        delta
    }
}

/// An answer that comes word by word.
#[derive(Debug)]
pub(crate) struct Events {
    lines: Lines,
    answer: Answer,
    is_done: bool,
}

impl Events {
    pub(crate) fn new(body: Body, max_line_bytes: usize) -> Self {
        Self {
            lines: Lines::new(body, max_line_bytes),
            answer: Answer::default(),
            is_done: false,
        }
    }

    /// What comes next of the text; `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Error> {
        while !self.is_done {
            let Some(line) = self.lines.next().await? else {
                return self.ended().map(|()| None);
            };
            // Comments (kept-alive signs), names of events and empty lines say nothing here.
            let Some(data) = line.strip_prefix("data:") else {
                continue;
            };
            let data = data.trim();
            if data == "[DONE]" {
                self.ended()?;
                break;
            }
            let delta = self.answer.add(parse(data.as_bytes())?);
            if !delta.is_empty() {
                return Ok(Some(delta));
            }
        }
        Ok(None)
    }

    /// All of it.
    pub(crate) async fn read(mut self) -> Result<Answer, Error> {
        while self.next().await?.is_some() {}
        Ok(self.answer)
    }

    /// Whether the answer is there.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// The answer, as far as it has come.
    pub(crate) fn into_answer(self) -> Answer {
        self.answer
    }

    /// A stream that ends before any reason for it was given has been cut, however politely.
    fn ended(&mut self) -> Result<(), Error> {
        if self.answer.finish_word.is_empty() {
            return Err(self
                .lines
                .body()
                .cut("the stream ended before the answer did"));
        }
        self.is_done = true;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<wire::Answer, Error> {
    let answer: wire::Answer =
        serde_json::from_slice(bytes).map_err(|error| malformed(&format!("{error}"), bytes))?;
    match answer.error {
        // vLLM and others fail in the middle of a stream whose status was good.
        Some(_) => Err(Error::Server {
            status: 200,
            message: shortened(
                &wire::refusal(&String::from_utf8_lossy(bytes)).0,
                MAX_QUOTED_BYTES,
            ),
        }),
        None => Ok(answer),
    }
}

fn malformed(reason: &str, bytes: &[u8]) -> Error {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_QUOTED_BYTES)]);
    Error::Malformed {
        reason: format!("{reason}; it begins {text:?}"),
    }
}
