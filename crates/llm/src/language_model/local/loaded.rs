//! A model with the settings of who asks it, and one answer of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use models::language_model::{
    Answer as Written, Constraint, Finish, GenerationOptions, Message, Prompt, Sampling,
};
use models::ops::simd::Isa;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{
    super::{Answer, Spent, Weights},
    shared::{Shared, shared},
};
use crate::{
    Completion, Error, FinishReason, LocalOptions, Schema, Usage, accounting::Ledger, sha256::hex,
};

/// A model and how it answers.
pub(super) struct Loaded {
    shared: Arc<Shared>,
    name: String,
    sampling: Sampling,
    max_tokens: u32,
    ledger: Ledger,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Loaded({}, {:?})", self.name, self.shared.weights)
    }
}

/// One question, in the model's words.
pub(super) struct Job {
    pub(super) messages: Vec<Message>,
    pub(super) schema: Arc<Schema>,
    pub(super) seed: u64,
}

impl Loaded {
    pub(super) fn open(options: &LocalOptions, temperature: f64) -> Result<Self, Error> {
        let path = found(options.path.as_deref())?;
        let sampling = sampling(options, temperature)?;
        let shared = shared(&path)?;
        let name = name(&path);
        Ok(Self {
            ledger: Ledger::new(&name, None),
            shared,
            name,
            sampling,
            max_tokens: options.max_tokens,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.shared.weights
    }

    pub(super) fn fingerprint(&self) -> String {
        let Sampling {
            temperature, top_p, ..
        } = self.sampling;
        format!(
            "{} {} {temperature} {top_p} {} {}",
            self.name,
            self.shared.weights.sha256,
            self.max_tokens,
            Isa::current().name(),
        )
    }

    pub(super) fn warm_up(&self, left: &CancellationToken) -> Result<(), Error> {
        let messages = vec![
            Message::new("system", "You answer with one word."),
            Message::new("user", "Answer with the word: yes"),
        ];
        let options = GenerationOptions {
            max_new_tokens: 1,
            ..GenerationOptions::default()
        };
        let written =
            self.shared
                .model
                .generate(&Prompt::Chat(messages), &options, &mut |_| {}, &|| {
                    !left.is_cancelled()
                });
        written.map_err(|error| self.failed(error)).map(|_| ())
    }

    /// The answer to a question, unless `left` is cancelled before it is whole.
    pub(super) fn answer(&self, job: &Job, left: &CancellationToken) -> Result<Answer, Error> {
        let options = GenerationOptions {
            max_new_tokens: self.max_tokens as usize,
            sampling: self.sampling,
            seed: job.seed,
            constraint: Some(self.constraint(&job.schema)?),
            ..GenerationOptions::default()
        };
        let prompt = Prompt::Chat(job.messages.clone());
        let keep_going = || !left.is_cancelled();
        let written = self
            .shared
            .model
            .generate(&prompt, &options, &mut |_| {}, &keep_going);
        let written = written.map_err(|error| self.failed(error))?;
        let completion = self.completion(job, written);
        self.ledger.answered(&completion);
        read(&job.schema, completion)
    }

    fn completion(&self, job: &Job, written: Written) -> Completion {
        Completion {
            model: self.name.clone(),
            finish_reason: match written.finish {
                Finish::Length => FinishReason::Length,
                Finish::EndOfAnswer | Finish::StopText | Finish::Complete => FinishReason::Stop,
            },
            usage: Usage {
                prompt_tokens: written.prompt_token_count as u64,
                completion_tokens: written.tokens.len() as u64,
                ..Usage::default()
            },
            text: written.text,
            cost: None,
            request_sha256: self.request_sha256(job),
            is_replayed: false,
        }
    }

    fn constraint(&self, schema: &Schema) -> Result<Constraint, Error> {
        let constraint = self.shared.constraint(schema.document().to_string());
        constraint.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: models::language_model::Error) -> Error {
        use models::language_model::Error as E;
        let model = self.name.clone();
        match error {
            E::Cancelled => Error::Left,
            E::DoesNotFit(reason) => Error::DoesNotFit { model, reason },
            error => Error::Generation {
                model,
                source: Box::new(error),
            },
        }
    }

    /// Hash of everything in a question that decides its answer. Lengths separate the parts.
    fn request_sha256(&self, job: &Job) -> String {
        let mut hasher = Sha256::new();
        let mut part = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        part(&self.fingerprint());
        part(&job.schema.document().to_string());
        part(&job.seed.to_string());
        for message in &job.messages {
            part(&message.role);
            part(&message.content);
        }
        hex(&hasher.finalize())
    }
}

fn sampling(options: &LocalOptions, temperature: f64) -> Result<Sampling, Error> {
    let sampling = Sampling {
        temperature: options.temperature.unwrap_or(temperature as f32),
        top_p: options.top_p,
        ..Sampling::default()
    };
    match sampling.check() {
        Ok(()) => Ok(sampling),
        Err(error) => Err(Error::Options(format!("--language-model-…: {error}"))),
    }
}

/// The value in an answer. Decoding under a schema ends whole; what is not whole all the same is
/// refused as a remote answer would be.
fn read(schema: &Schema, completion: Completion) -> Result<Answer, Error> {
    let problems = match schema.read(&completion.text) {
        Ok(value) => {
            return Ok(Answer {
                value,
                spent: Spent {
                    answers: 1,
                    usage: completion.usage,
                    model: completion.model,
                    request_sha256: completion.request_sha256,
                    ..Spent::default()
                },
                text: completion.text,
            });
        }
        Err(problems) => problems,
    };
    Err(match completion.finish_reason {
        FinishReason::Length => Error::Truncated {
            completion: Box::new(completion),
            option: "--language-model-max-tokens",
        },
        _ => Error::Schema {
            schema: schema.name().to_owned(),
            repairs: 0,
            problems,
        },
    })
}

/// The path that was given, if something is there.
fn found(path: Option<&Path>) -> Result<PathBuf, Error> {
    const ADVICE: &str = "give --language-model, or set DIPTYCH_LANGUAGE_MODEL, to a folder in the layout of transformers or a .gguf file";
    let path = path.filter(|path| !path.as_os_str().is_empty());
    let path = path.ok_or_else(|| {
        Error::Options(format!(
            "no language model of this machine is named: {ADVICE}"
        ))
    })?;
    let is_gguf = path.extension().is_some_and(|ending| ending == "gguf");
    let (is_there, what) = match is_gguf {
        true => (path.is_file(), "file"),
        false => (path.is_dir(), "folder"),
    };
    match is_there {
        true => Ok(path.to_owned()),
        false => Err(Error::Options(format!(
            "there is no model {what} {}: {ADVICE}",
            path.display()
        ))),
    }
}

/// Name of a folder, or of a file without its ending. Where it lies is nobody's business.
fn name(path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = match whole.is_dir() {
        true => whole.file_name(),
        false => whole.file_stem(),
    };
    let name = name.unwrap_or_default().to_string_lossy();
    name.into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_that_its_bound_cut_is_refused_by_the_name_of_that_bound() {
        let schema = Schema::new("n", json!({"type": "object"})).expect("a schema");
        let completion = |text: &str| Completion {
            text: text.to_owned(),
            model: "m".to_owned(),
            finish_reason: FinishReason::Length,
            usage: Usage::default(),
            cost: None,
            request_sha256: String::new(),
            is_replayed: false,
        };
        let error = read(&schema, completion(r#"{"a": "b"#)).expect_err("half");
        assert!(matches!(error, Error::Truncated { .. }), "{error}");
        let words = error.to_string();
        assert!(words.contains("--language-model-max-tokens"), "{words}");
        assert!(
            read(&schema, completion("{}")).is_ok(),
            "whole at the bound"
        );
    }
}
