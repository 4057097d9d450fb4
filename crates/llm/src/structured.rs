//! Answers as values: asked for with a schema, validated, and repaired within bounds.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::{
    Error,
    ask::Ask,
    completion::{Completion, Usage},
    message::{Chat, Format, Message},
    price::Cost,
    schema::{Schema, shortened},
};

/// Longest wrong answer that is shown to the model again, in bytes.
const MAX_SHOWN_BYTES: usize = 8 << 10;

/// A value that a model gave, and what it took.
#[derive(Debug, Clone)]
pub struct Structured<T> {
    /// The value.
    pub value: T,
    /// The answer it was read from.
    pub completion: Completion,
    /// Tokens of all answers, the wrong ones included.
    pub usage: Usage,
    /// What all of them cost.
    pub cost: Option<Cost>,
    /// Corrections that were asked for.
    pub repairs: u32,
}

/// Asks for JSON that fits `schema`. The server is asked to hold the model to it, where it can; the
/// answer is validated in any case, and the model is told what is wrong with one that does not fit.
/// The whole conversation about it is kept, so that no two of its requests are the same to a journal.
///
/// # Errors
/// What stands in the way of an answer; one that is cut or declined; one that does not fit after
/// [`Ask::max_repairs`] repairs.
pub async fn structured<T: DeserializeOwned>(
    ask: &impl Ask,
    chat: &Chat,
    schema: &Arc<Schema>,
) -> Result<Structured<T>, Error> {
    let mut chat = Chat {
        format: Format::Json(Arc::clone(schema)),
        ..chat.clone()
    };
    let mut usage = Usage::default();
    let mut cost: Option<Cost> = None;
    let mut repairs = 0;
    loop {
        let completion = ask.ask(&chat).await?.whole()?;
        usage = usage.plus(completion.usage);
        cost = sum(cost, completion.cost.as_ref());
        let problems = match read(schema, &completion.text) {
            Ok(value) => {
                return Ok(Structured {
                    value,
                    completion,
                    usage,
                    cost,
                    repairs,
                });
            }
            Err(problems) => problems,
        };
        if repairs == ask.max_repairs() {
            return Err(Error::Schema {
                schema: schema.name().to_owned(),
                repairs,
                problems,
            });
        }
        repairs += 1;
        tracing::debug!(
            schema = schema.name(),
            problems,
            "asking for a corrected answer"
        );
        chat.messages
            .extend(correction(schema, &completion.text, &problems));
    }
}

fn read<T: DeserializeOwned>(schema: &Schema, text: &str) -> Result<T, String> {
    let value = schema.read(text)?;
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn sum(before: Option<Cost>, more: Option<&Cost>) -> Option<Cost> {
    let more = more?;
    Some(match before {
        Some(cost) => cost.plus_picos(more.picos),
        None => more.clone(),
    })
}

/// The schema comes along in words: some servers drop `response_format` without one.
fn correction(schema: &Schema, answer: &str, problems: &str) -> [Message; 2] {
    let complaint = format!(
        "That does not fit: {problems}. Answer again with the corrected JSON object and nothing else. Its JSON schema:\n{}",
        schema.document()
    );
    [
        Message::assistant(shortened(answer, MAX_SHOWN_BYTES)),
        Message::user(complaint),
    ]
}
