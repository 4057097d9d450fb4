//! Language models on this machine: Llama, Qwen2 and Qwen3 from safetensors or GGUF.
//!
//! ```no_run
//! use models::language_model::{Generation, GenerationOptions, LanguageModel, Message, Prompt};
//!
//! # fn main() -> Result<(), models::language_model::Error> {
//! let model = LanguageModel::load("qwen2.5-7b-instruct-q4_k_m.gguf".as_ref())?;
//! let prompt = Prompt::Chat(vec![Message::new("user", "Describe a red bus.")]);
//! let schema = r#"{"type": "object", "properties": {"caption": {"type": "string", "maxLength": 200}},
//!                  "required": ["caption"], "additionalProperties": false}"#;
//! let options = GenerationOptions {
//!     constraint: Some(model.constraint(schema)?),
//!     seed: 7,
//!     ..GenerationOptions::default()
//! };
//! // On a device thread: one step is one token; look at a cancellation token between steps.
//! let mut generation = Generation::start(&model, &prompt, &options)?;
//! while let Some(piece) = generation.step() {
//!     let _text = piece?.text;
//! }
//! let answer = generation.into_answer();
//! # Ok(())
//! # }
//! ```
//!
//! A model is read-only and shared; a [`Generation`] owns its cache. Products hold one sequence, so a
//! text has the same bits alone and among others.

mod chat;
mod config;
mod decoder;
mod error;
mod generation;
mod gguf;
mod gguf_tokenizer;
mod grammar;
mod load;
mod rotary;
mod sampling;
mod source;
mod stop;
mod tokenizer;

use std::sync::{Arc, OnceLock};

pub use self::chat::{Date, Message};
pub use self::config::{DecoderConfig, Family};
pub use self::error::Error;
pub use self::generation::{Answer, Generation, GenerationOptions, Piece, Prompt};
pub use self::grammar::Constraint;
pub use self::load::{LoadOptions, model_sha256};
pub use self::sampling::Sampling;
pub use self::stop::Finish;

use self::chat::ChatTemplate;
use self::decoder::Decoder;
use self::grammar::Vocabulary;
use self::tokenizer::TextTokenizer;

/// A decoder with its tokenizer and its chat template.
pub struct LanguageModel {
    decoder: Decoder,
    tokenizer: TextTokenizer,
    template: Option<ChatTemplate>,
    end_tokens: Vec<u32>,
    /// Built when the first schema comes.
    vocabulary: OnceLock<Arc<Vocabulary>>,
}

impl LanguageModel {
    /// The decoder's shape.
    pub fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    /// Whether the model can continue a [`Prompt::Chat`].
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// Tokens that end an answer.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Compiles the text of a JSON schema for this model.
    ///
    /// # Errors
    /// [`Error::Schema`], naming the keyword that is malformed or not supported.
    pub fn constraint(&self, schema: &str) -> Result<Constraint, Error> {
        Constraint::new(schema, self.vocabulary())
    }

    /// The text that a conversation becomes, up to where the assistant begins to speak.
    ///
    /// # Errors
    /// [`Error::Input`] when the model has no chat template, [`Error::Template`] when the template
    /// refuses the messages.
    pub fn render_chat(&self, messages: &[Message], today: Option<Date>) -> Result<String, Error> {
        let Some(template) = &self.template else {
            let reason = "the model has no chat template; give it a plain text";
            return Err(Error::Input(reason.into()));
        };
        template.render(messages, today)
    }

    /// Tokens of a prompt. A message that spells a control token is refused: it could end its own
    /// turn and speak for another role.
    ///
    /// # Errors
    /// As [`LanguageModel::render_chat`].
    pub fn prompt_tokens(&self, prompt: &Prompt, today: Option<Date>) -> Result<Vec<u32>, Error> {
        let messages = match prompt {
            Prompt::Text(text) => return self.tokenizer.encode(text, true),
            Prompt::Chat(messages) => messages,
        };
        for (index, message) in messages.iter().enumerate() {
            if let Some(control) = self.tokenizer.control_in(&message.content) {
                let reason = format!("message {index} contains the control token `{control}`");
                return Err(Error::Input(reason));
            }
        }
        let text = self.render_chat(messages, today)?;
        self.tokenizer.encode(&text, false)
    }

    pub(crate) fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    pub(crate) fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    pub(crate) fn vocabulary(&self) -> Arc<Vocabulary> {
        let build = || Arc::new(Vocabulary::new(self.tokenizer.bytes()));
        self.vocabulary.get_or_init(build).clone()
    }
}
