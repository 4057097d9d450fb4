//! JSON schemas of answers, and answers read against them.

use serde_json::Value;

use crate::Error;

/// Most problems of one answer that are told to the model or the caller.
const MAX_PROBLEMS: usize = 5;

/// Longest description of one problem, in bytes: it quotes the answer.
const MAX_PROBLEM_BYTES: usize = 300;

/// A JSON schema with a name. Compiled once; share it.
pub struct Schema {
    name: String,
    document: Value,
    validator: jsonschema::Validator,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Schema({}: {})", self.name, self.document)
    }
}

impl Schema {
    /// A schema under a name of letters, digits, `_` and `-`, 64 at most, as servers demand.
    /// Hosted servers want `additionalProperties: false` and every property required.
    ///
    /// # Errors
    /// Another name, or a document that is no schema or refers to one elsewhere.
    pub fn new(name: &str, document: Value) -> Result<Self, Error> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
            return Err(Error::Options(format!(
                "{name:?} is no name for a schema: use up to 64 letters, digits, _ and -"
            )));
        }
        let validator = jsonschema::validator_for(&document)
            .map_err(|error| Error::Options(format!("`{name}` is no JSON schema: {error}")))?;
        Ok(Self {
            name: name.to_owned(),
            document,
            validator,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The schema itself.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// The JSON in an answer, if it fits; else what is wrong, in words for the model.
    pub(crate) fn read(&self, answer: &str) -> Result<Value, String> {
        let value = json_in(answer)?;
        let problems: Vec<String> = self
            .validator
            .iter_errors(&value)
            .take(MAX_PROBLEMS)
            .map(|error| {
                let path = error.instance_path().to_string();
                let place = if path.is_empty() { "the whole" } else { &path };
                shortened(&format!("{place}: {error}"), MAX_PROBLEM_BYTES)
            })
            .collect();
        match problems.is_empty() {
            true => Ok(value),
            false => Err(problems.join("; ")),
        }
    }
}

/// The first JSON object or array of an answer. Models put it behind their reasoning, into a fence
/// of Markdown or after a sentence, whatever they were told.
fn json_in(answer: &str) -> Result<Value, String> {
    const END_OF_REASONING: &str = "</think>";
    let answer = match answer.rfind(END_OF_REASONING) {
        Some(at) => &answer[at + END_OF_REASONING.len()..],
        None => answer,
    };
    let start = answer
        .find(['{', '['])
        .ok_or("there is no JSON object in it")?;
    let mut values = serde_json::Deserializer::from_str(&answer[start..]).into_iter();
    match values.next() {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(format!("it is not valid JSON: {error}")),
        None => Err("there is no JSON object in it".to_owned()),
    }
}

/// The beginning of a text, with a mark where something is missing.
pub(crate) fn shortened(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(max_bytes)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        let document = json!({
            "type": "object",
            "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer"}},
            "required": ["colour", "count"],
            "additionalProperties": false,
        });
        Schema::new("toys", document).unwrap()
    }

    #[test]
    fn json_is_found_behind_reasoning_and_in_fences_and_problems_are_named() {
        let wrapped =
            "<think>{ hm }</think>Here:\n```json\n{\"colour\": \"red\", \"count\": 2}\n```";
        let value = schema().read(wrapped).unwrap();
        assert_eq!(value, json!({"colour": "red", "count": 2}));

        let problems = schema()
            .read(r#"{"colour": "green", "count": "2"}"#)
            .unwrap_err();
        assert!(
            problems.contains("/colour") && problems.contains("/count"),
            "{problems}"
        );
        let problems = schema().read(r#"{"colour": "red", "cou"#).unwrap_err();
        assert!(problems.contains("not valid JSON"), "{problems}");
        let long = format!("{{\"colour\": \"{}\", \"count\": 1}}", "é".repeat(9_000));
        assert!(schema().read(&long).unwrap_err().len() < 400);
        assert!(schema().read("no").unwrap_err().contains("no JSON"));
        assert!(Schema::new("two words", json!({})).is_err());
    }
}
