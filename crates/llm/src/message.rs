//! What is asked: messages of text and pictures, and how the answer should look.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{Error, schema::Schema};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Rules for the whole conversation.
    System,
    /// The asker.
    User,
    /// The model, in an earlier turn or in an example.
    Assistant,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Words.
    Text(String),
    /// A picture, for models that see.
    Picture(Picture),
}

/// An encoded picture: PNG, JPEG, GIF or WebP. Clones share the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    media_type: &'static str,
    bytes: bytes::Bytes,
}

impl Picture {
    /// A picture from the bytes of its file.
    ///
    /// # Errors
    /// Bytes of none of the four formats.
    pub fn new(bytes: impl Into<bytes::Bytes>) -> Result<Self, Error> {
        let bytes = bytes.into();
        let media_type = match &bytes[..] {
            [0x89, b'P', b'N', b'G', ..] => "image/png",
            [0xff, 0xd8, 0xff, ..] => "image/jpeg",
            [b'G', b'I', b'F', b'8', ..] => "image/gif",
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => "image/webp",
            _ => {
                let sentence = "a picture for the language model is no PNG, JPEG, GIF or WebP";
                return Err(Error::Options(sentence.to_owned()));
            }
        };
        Ok(Self { media_type, bytes })
    }

    /// The picture as a `data:` URL.
    pub(crate) fn data_url(&self) -> String {
        format!(
            "data:{};base64,{}",
            self.media_type,
            STANDARD.encode(&self.bytes)
        )
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Its parts, in order.
    pub content: Vec<Content>,
}

impl Message {
    /// A message of one text.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: vec![Content::Text(text.into())],
        }
    }

    /// Rules for the whole conversation.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, text)
    }

    /// A question.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, text)
    }

    /// An earlier answer.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, text)
    }

    /// The message with a picture after what it has.
    #[must_use]
    pub fn with_picture(mut self, picture: Picture) -> Self {
        self.content.push(Content::Picture(picture));
        self
    }
}

/// How the answer should look.
#[derive(Debug, Clone, Default)]
pub enum Format {
    /// Words.
    #[default]
    Text,
    /// JSON that fits a schema. The answer is validated by [`structured`](crate::structured()) only.
    Json(Arc<Schema>),
}

/// One question to a model. What is `None` is as the [`Options`](crate::Options) say.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// How the answer should look.
    pub format: Format,
    /// Most tokens of the answer.
    pub max_tokens: Option<u32>,
    /// Temperature.
    pub temperature: Option<f64>,
    /// Seed of the sampling, where the server heeds one. Its low 31 bits are sent, since servers
    /// differ in what they hold.
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
}

impl Chat {
    /// A question with its rules.
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            ..Self::default()
        }
    }

    /// The question with a seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The question with a bound on the answer, in tokens.
    #[must_use]
    pub fn with_max_tokens(mut self, count: u32) -> Self {
        self.max_tokens = Some(count);
        self
    }

    /// Tokens of the question, roughly: four bytes each, and what a picture costs with most
    /// providers at medium size. Only for reserving; what counts is what the server reports.
    pub(crate) fn estimated_tokens(&self) -> u64 {
        const BYTES_PER_TOKEN: usize = 4;
        const TOKENS_PER_PICTURE: u64 = 800;
        const TOKENS_PER_MESSAGE: u64 = 4;
        let of_part = |part: &Content| match part {
            Content::Text(text) => text.len().div_ceil(BYTES_PER_TOKEN) as u64,
            Content::Picture(_) => TOKENS_PER_PICTURE,
        };
        let of_message = |message: &Message| {
            TOKENS_PER_MESSAGE + message.content.iter().map(of_part).sum::<u64>()
        };
        self.messages.iter().map(of_message).sum()
    }
}
