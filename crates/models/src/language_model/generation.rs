//! One text being written, token by token.

use super::LanguageModel;
use super::chat::{Date, Message};
use super::decoder::Cache;
use super::error::Error;
use super::grammar::{Constraint, Matcher};
use super::sampling::{Sampler, Sampling};
use super::stop::{Finish, TextStream};

/// What the model is to continue.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// A conversation, put into the model's chat template; the assistant speaks next.
    Chat(Vec<Message>),
    /// A text as it is, with the tokenizer's beginning-of-sequence token where it has one.
    Text(String),
}

/// How a text is written.
#[derive(Debug, Clone)]
pub struct GenerationOptions {
    /// The most tokens of the answer, end token included; 512 by default.
    pub max_new_tokens: usize,
    /// How tokens are chosen; greedily by default.
    pub sampling: Sampling,
    /// Where random numbers come from. The same seed, model, prompt and options give the same text.
    pub seed: u64,
    /// Texts that end the answer and are no part of it.
    pub stop_texts: Vec<String>,
    /// A schema that the answer is to fulfil.
    pub constraint: Option<Constraint>,
    /// The day for templates that ask for it.
    pub today: Option<Date>,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 512,
            sampling: Sampling::default(),
            seed: 0,
            stop_texts: Vec::new(),
            constraint: None,
            today: None,
        }
    }
}

/// What one step gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Text that is new and certain; often empty.
    pub text: String,
    /// The token that was chosen; none while the prompt is read.
    pub token: Option<u32>,
}

/// A finished text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text, without control tokens and without the stop text.
    pub text: String,
    /// The tokens, the end token not included.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_token_count: usize,
    /// How it ended.
    pub finish: Finish,
}

/// Prompt tokens that one step reads, so that a caller can stop a long prompt too.
const PROMPT_STEP_TOKENS: usize = 256;

/// A text being written: an iterator over [`Piece`]s, which ends after the last piece or an error.
///
/// It holds its own cache and random numbers, so several can be written in turns from one thread, or
/// at once from several, and none changes another.
pub struct Generation<'a> {
    model: &'a LanguageModel,
    cache: Cache,
    /// Tokens that the model has not seen yet.
    unread: Vec<u32>,
    prompt_token_count: usize,
    tokens_left: usize,
    sampler: Sampler,
    matcher: Option<Matcher>,
    stream: TextStream,
    text: String,
    tokens: Vec<u32>,
    finish: Option<Finish>,
    failed: bool,
}

impl<'a> Generation<'a> {
    /// Begins a text. Nothing is computed before the first step.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] for a prompt without room for an answer (or for the shortest answer that
    /// the schema allows), [`Error::Input`] for settings out of range, [`Error::Template`].
    pub fn start(
        model: &'a LanguageModel,
        prompt: &Prompt,
        options: &GenerationOptions,
    ) -> Result<Self, Error> {
        options.sampling.check()?;
        if options.constraint.is_some() && !options.stop_texts.is_empty() {
            let reason = "a stop text could cut what a schema asks for; give one of the two";
            return Err(Error::Input(reason.into()));
        }
        let unread = model.prompt_tokens(prompt, options.today)?;
        let positions = model.config().max_positions;
        let room = positions.saturating_sub(unread.len());
        let tokens_left = options.max_new_tokens.min(room);
        if tokens_left == 0 || unread.is_empty() {
            return Err(Error::DoesNotFit(format!(
                "a prompt of {} tokens and an answer of {} do not fit into {positions} positions",
                unread.len(),
                options.max_new_tokens,
            )));
        }
        let matcher = match &options.constraint {
            Some(constraint) => Some(constrained(constraint, model, tokens_left)?),
            None => None,
        };
        let strip = model.tokenizer().strips_first_space();
        let rows = model.config().vocab_size;
        Ok(Self {
            model,
            cache: model.decoder().cache(),
            prompt_token_count: unread.len(),
            tokens_left,
            sampler: Sampler::new(options.sampling, options.seed, rows, &unread),
            unread,
            matcher,
            stream: TextStream::new(&options.stop_texts, strip)?,
            text: String::new(),
            tokens: Vec::new(),
            finish: None,
            failed: false,
        })
    }

    /// One step: reads up to 256 tokens of the prompt, or chooses one token of the answer. `None`
    /// when the text is finished, or after an error.
    ///
    /// # Errors
    /// [`Error::NotFinite`], [`Error::Tensor`]. The text cannot be continued after one.
    pub fn step(&mut self) -> Option<Result<Piece, Error>> {
        if self.finish.is_some() || self.failed {
            return None;
        }
        let piece = self.advance();
        self.failed = piece.is_err();
        Some(piece)
    }

    /// How the text ended, once it did.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// The text; `None` while it is not finished.
    pub fn into_answer(self) -> Option<Answer> {
        Some(Answer {
            text: self.text,
            tokens: self.tokens,
            prompt_token_count: self.prompt_token_count,
            finish: self.finish?,
        })
    }

    fn advance(&mut self) -> Result<Piece, Error> {
        let count = self.unread.len().min(PROMPT_STEP_TOKENS);
        let read: Vec<u32> = self.unread.drain(..count).collect();
        let logits = self.model.decoder().extend(&mut self.cache, &read)?;
        if !self.unread.is_empty() {
            return Ok(Piece {
                text: String::new(),
                token: None,
            });
        }
        let token = self.choose(&logits)?;
        self.tokens_left -= 1;
        let mut text = self.take(token);
        if self.finish.is_none() && self.tokens_left == 0 {
            self.finish = Some(Finish::Length);
        }
        if self.finish.is_some_and(|finish| finish != Finish::StopText) {
            text += &self.stream.finish();
        }
        self.text.push_str(&text);
        Ok(Piece {
            text,
            token: Some(token),
        })
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32, Error> {
        let allowed = self.matcher.as_mut().map(|matcher| {
            let mut allowed = matcher.allowed(self.tokens_left);
            if matcher.may_end() {
                allowed.extend(self.model.end_tokens());
            }
            allowed
        });
        let token = self.sampler.pick(logits, allowed.as_deref());
        token.ok_or(Error::NotFinite {
            token_count: self.cache.token_count(),
        })
    }

    /// Appends a token; gives the text that is new.
    fn take(&mut self, token: u32) -> String {
        if self.model.end_tokens().contains(&token) {
            self.finish = Some(Finish::EndOfAnswer);
            return String::new();
        }
        self.tokens.push(token);
        self.unread.push(token);
        let bytes = self.model.tokenizer().bytes_of(token);
        if let Some(matcher) = &mut self.matcher {
            matcher.accept(bytes);
            if matcher.is_complete() {
                self.finish = Some(Finish::Complete);
            }
        }
        let (text, stopped) = self.stream.push(bytes);
        if stopped {
            self.finish = Some(Finish::StopText);
        }
        text
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Piece, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step()
    }
}

impl LanguageModel {
    /// Writes a text to its end. `on_text` gets it as it comes; `keep_going` is asked before every
    /// step.
    ///
    /// # Errors
    /// As [`Generation::start`] and [`Generation::step`], and [`Error::Cancelled`].
    pub fn generate(
        &self,
        prompt: &Prompt,
        options: &GenerationOptions,
        on_text: &mut dyn FnMut(&str),
        keep_going: &dyn Fn() -> bool,
    ) -> Result<Answer, Error> {
        let mut generation = Generation::start(self, prompt, options)?;
        while keep_going() {
            match generation.step() {
                Some(piece) => match piece?.text.as_str() {
                    "" => {}
                    text => on_text(text),
                },
                None => break,
            }
        }
        generation.into_answer().ok_or(Error::Cancelled)
    }
}

fn constrained(
    constraint: &Constraint,
    model: &LanguageModel,
    tokens_left: usize,
) -> Result<Matcher, Error> {
    if !constraint.is_of(&model.vocabulary()) {
        let reason = "the constraint was compiled for another model";
        return Err(Error::Input(reason.into()));
    }
    let least = constraint.least_tokens();
    match least <= tokens_left {
        true => Ok(Matcher::new(constraint)),
        false => Err(Error::DoesNotFit(format!(
            "the schema needs {least} tokens at least, and {tokens_left} are left"
        ))),
    }
}
