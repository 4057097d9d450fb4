//! Which of the protocol's variants a server speaks; learned from its refusals.

use std::sync::{Mutex, PoisonError};

use crate::Error;

/// What is known of a server. It begins with the most that any takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) formats: Formats,
    /// Newer hosted models take `max_completion_tokens` in place of `max_tokens`.
    pub(crate) is_max_completion_tokens: bool,
}

/// How far the server's help with JSON goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Formats {
    /// `response_format` with a schema.
    #[default]
    JsonSchema,
    /// `response_format` without one: the schema is put into words.
    JsonObject,
    /// None: words alone.
    Text,
}

/// The dialect of one server, shared by all calls to it.
#[derive(Debug, Default)]
pub(crate) struct Learned(Mutex<Dialect>);

impl Learned {
    /// What is known now.
    pub(crate) fn now(&self) -> Dialect {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from the refusal of a request that was put in the dialect `used`. Whether asking
    /// again in another one makes sense.
    pub(crate) fn learn(&self, used: Dialect, asks_for_json: bool, error: &Error) -> bool {
        let Error::Refused { status, message } = error else {
            return false;
        };
        if !matches!(status, 400 | 415 | 422 | 501) {
            return false;
        }
        let Some(next) = used.after(message, asks_for_json) else {
            return false;
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Another call may have learned it, or more, while this one was under way.
        if *known == used {
            tracing::info!(
                ?next,
                message,
                "the language model's server wants it put differently"
            );
            *known = next;
        }
        true
    }
}

impl Dialect {
    fn after(self, message: &str, asks_for_json: bool) -> Option<Self> {
        const WORDS_FOR_FORMAT: [&str; 6] = [
            "response_format",
            "json_schema",
            "json_object",
            "schema",
            "grammar",
            "guided",
        ];
        let message = message.to_lowercase();
        if message.contains("max_completion_tokens") && !self.is_max_completion_tokens {
            return Some(Self {
                is_max_completion_tokens: true,
                ..self
            });
        }
        let is_about_format = WORDS_FOR_FORMAT.iter().any(|word| message.contains(word));
        let formats = match self.formats {
            Formats::JsonSchema => Formats::JsonObject,
            Formats::JsonObject => Formats::Text,
            Formats::Text => return None,
        };
        (asks_for_json && is_about_format).then_some(Self { formats, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> Error {
        Error::Refused {
            status: 400,
            message: message.to_owned(),
        }
    }

    #[test]
    fn refusals_lead_from_schema_to_object_to_words_and_no_further() {
        let learned = Learned::default();
        let first = learned.now();
        let no = refused("'response_format' of type 'json_schema' is not supported");
        assert!(learned.learn(first, true, &no));
        // A second call that was refused the same thing must not go down another step.
        assert!(learned.learn(first, true, &no));
        assert_eq!(learned.now().formats, Formats::JsonObject);
        assert!(learned.learn(learned.now(), true, &no));
        assert_eq!(learned.now().formats, Formats::Text);
        assert!(!learned.learn(learned.now(), true, &no));
        assert!(!learned.learn(first, true, &refused("the prompt is too long")));

        let other = refused("Unsupported parameter: use 'max_completion_tokens' instead");
        assert!(learned.learn(learned.now(), false, &other));
        assert!(learned.now().is_max_completion_tokens);
    }
}
