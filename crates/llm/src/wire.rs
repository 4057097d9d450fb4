//! The messages of the chat-completions protocol.
//!
//! Source: the OpenAPI description of OpenAI's `/v1/chat/completions`, read as loosely as vLLM,
//! Ollama, llama.cpp and `transformers serve` need: fields that some of them leave out are optional.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    completion::{FinishReason, Usage},
    dialect::{Dialect, Formats},
    message::{Chat, Content, Format, Message, Role},
    schema::Schema,
    sha256::hex,
};

/// What stands in the options and in every request.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) model: String,
    pub(crate) max_tokens: u32,
    pub(crate) temperature: Option<f64>,
}

/// The body of a request.
#[derive(Debug, Serialize)]
pub(crate) struct Request<'a> {
    model: &'a str,
    messages: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<Value>,
}

impl<'a> Request<'a> {
    /// A question in a dialect.
    pub(crate) fn new(chat: &'a Chat, settings: &'a Settings, dialect: Dialect) -> Self {
        let max_tokens = chat.max_tokens.unwrap_or(settings.max_tokens);
        let mut messages: Vec<Value> = chat.messages.iter().map(message).collect();
        if let Format::Json(schema) = &chat.format
            && dialect.formats != Formats::JsonSchema
        {
            messages.push(instruction(schema));
        }
        Self {
            model: &settings.model,
            messages,
            max_tokens: (!dialect.is_max_completion_tokens).then_some(max_tokens),
            max_completion_tokens: dialect.is_max_completion_tokens.then_some(max_tokens),
            temperature: chat.temperature.or(settings.temperature),
            seed: chat.seed.map(|seed| seed & 0x7fff_ffff),
            stop: chat.stop.iter().map(String::as_str).collect(),
            response_format: response_format(&chat.format, dialect.formats),
            stream: false,
            stream_options: None,
        }
    }

    /// The same request, answered as a stream that ends with its usage.
    pub(crate) fn streamed(mut self) -> Self {
        self.stream = true;
        self.stream_options = Some(json!({"include_usage": true}));
        self
    }

    /// Hash of everything that the asker decides. It does not depend on the dialect that a server
    /// turns out to speak, nor on its address.
    pub(crate) fn sha256(chat: &Chat, settings: &Settings) -> String {
        let request = Request::new(chat, settings, Dialect::default());
        let body = serde_json::to_vec(&request).unwrap_or_default();
        hex(&Sha256::digest(body))
    }
}

fn message(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    // A single text goes as a plain string: servers of text models know no list of parts.
    let content = match &message.content[..] {
        [Content::Text(text)] => json!(text),
        parts => parts.iter().map(part).collect(),
    };
    json!({"role": role, "content": content})
}

fn part(part: &Content) -> Value {
    match part {
        Content::Text(text) => json!({"type": "text", "text": text}),
        Content::Picture(picture) => {
            json!({"type": "image_url", "image_url": {"url": picture.data_url()}})
        }
    }
}

fn response_format(format: &Format, formats: Formats) -> Option<Value> {
    match (format, formats) {
        (Format::Text, _) | (Format::Json(_), Formats::Text) => None,
        (Format::Json(_), Formats::JsonObject) => Some(json!({"type": "json_object"})),
        (Format::Json(schema), Formats::JsonSchema) => Some(json!({
            "type": "json_schema",
            "json_schema": {"name": schema.name(), "schema": schema.document(), "strict": true},
        })),
    }
}

/// What stands in for a schema that the server does not take. As the last message, and the user's:
/// some chat templates refuse a system message anywhere but at the beginning.
fn instruction(schema: &Schema) -> Value {
    let text = format!(
        "Answer with one JSON object and nothing else. It must fit this JSON schema:\n{}",
        schema.document()
    );
    json!({"role": "user", "content": text})
}

/// The body of an answer, or one event of a stream.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Answer {
    #[serde(default)]
    pub(crate) model: Option<String>,
    #[serde(default)]
    pub(crate) choices: Vec<Choice>,
    #[serde(default)]
    pub(crate) usage: Option<WireUsage>,
    #[serde(default)]
    pub(crate) error: Option<Value>,
}

/// One answer of those asked for; there is one.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Choice {
    /// The message; of a stream's event, what is new of it.
    #[serde(alias = "delta", default)]
    pub(crate) message: Option<AnswerMessage>,
    #[serde(default)]
    pub(crate) finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct AnswerMessage {
    #[serde(default)]
    pub(crate) content: Option<String>,
    #[serde(default)]
    pub(crate) refusal: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct WireUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<PromptTokens>,
}

#[derive(Debug, Default, Deserialize)]
struct PromptTokens {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

impl From<WireUsage> for Usage {
    fn from(usage: WireUsage) -> Self {
        let details = usage.prompt_tokens_details.unwrap_or_default();
        Self {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: details.cached_tokens.unwrap_or_default(),
            completion_tokens: usage.completion_tokens,
            is_estimated: false,
        }
    }
}

/// Why an answer ended, from the server's word for it and the refusal beside it.
pub(crate) fn finish_reason(word: &str, refusal: Option<String>) -> FinishReason {
    match (word, refusal.filter(|text| !text.is_empty())) {
        (_, Some(text)) => FinishReason::Declined(text),
        ("stop", None) => FinishReason::Stop,
        ("length", None) => FinishReason::Length,
        ("content_filter", None) => {
            FinishReason::Declined("a content filter held it back".to_owned())
        }
        (other, None) => FinishReason::Other(other.to_owned()),
    }
}

/// The sentence in the body of a refusal, and its code. Servers nest it differently.
pub(crate) fn refusal(body: &str) -> (String, String) {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    let Ok(body_value) = serde_json::from_str::<Value>(body) else {
        return (body.trim().to_owned(), String::new());
    };
    let error = body_value.get("error").unwrap_or(&body_value);
    let message = error
        .get("message")
        .and_then(text)
        .or_else(|| text(error))
        .unwrap_or_else(|| error.to_string());
    let code = error.get("code").and_then(text);
    let code = code.or_else(|| error.get("type").and_then(text));
    (message, code.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Picture;

    fn settings() -> Settings {
        Settings {
            model: "m".to_owned(),
            max_tokens: 9,
            temperature: None,
        }
    }

    #[test]
    fn a_picture_travels_as_a_data_url_and_the_hash_knows_every_part() {
        let png = Picture::new(b"\x89PNG\r\n".to_vec()).unwrap();
        let chat = Chat::new(vec![Message::user("What is this?").with_picture(png)])
            .with_seed(1 << 40 | 7);
        let body =
            serde_json::to_value(Request::new(&chat, &settings(), Dialect::default())).unwrap();
        let url = &body["messages"][0]["content"][1]["image_url"]["url"];
        assert_eq!(url, "data:image/png;base64,iVBORw0K");
        assert_eq!((&body["seed"], &body["max_tokens"]), (&json!(7), &json!(9)));

        let hash = |chat: &Chat| Request::sha256(chat, &settings());
        let mut other = chat.clone();
        assert_eq!(hash(&chat), hash(&other));
        other.seed = Some(8);
        assert_ne!(hash(&chat), hash(&other));
        other.seed = chat.seed;
        other.temperature = Some(0.5);
        assert_ne!(hash(&chat), hash(&other));
        assert!(Picture::new(b"hello".to_vec()).is_err());
    }

    #[test]
    fn refusals_of_several_servers_are_understood() {
        let openai = r#"{"error": {"message": "no", "type": "t", "code": "c"}}"#;
        assert_eq!(refusal(openai), ("no".to_owned(), "c".to_owned()));
        assert_eq!(refusal(r#"{"error": "no"}"#).0, "no");
        assert_eq!(refusal(r#"{"object": "error", "message": "no"}"#).0, "no");
        assert!(refusal(r#"{"detail": [{"msg": "no"}]}"#).0.contains("no"));
        assert_eq!(refusal("<html>").0, "<html>");
    }
}
