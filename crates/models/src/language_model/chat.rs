//! Chat templates: the Jinja programs of published checkpoints, rendered as transformers renders them.
//!
//! Found in `chat_template.jinja`, `tokenizer_config.json` or GGUF metadata. A template is a program
//! from a file, so its steps are bounded (minijinja's fuel), it reads no files, and it knows no clock:
//! `strftime_now` exists only when the caller gives a date. Two departures from transformers: the
//! `{% generation %}` marks of training masks are dropped, and tools and documents are always none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, Value, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind};

use super::error::Error;

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what the template knows besides.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// As Python's dict with `role` before `content`.
impl Object for Message {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "role" => Some(Value::from(&self.role)),
            "content" => Some(Value::from(&self.content)),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["role", "content"])
    }
}

/// The day that a template may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Year of the common era.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

/// Steps that rendering may take; a long conversation takes some ten thousand.
const MAX_STEPS: u64 = 2_000_000;
/// The longest template in bytes. The longest published ones have about 20 KiB.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// A compiled template.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    /// Texts of special tokens by the name that templates use, `bos_token` and so on.
    specials: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Compiles `source`, which was found in `path`.
    ///
    /// # Errors
    /// [`Error::Template`] when it is not Jinja.
    pub(crate) fn new(
        source: &str,
        path: &Path,
        specials: BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        let bad = |reason: String| Error::Template {
            path: path.into(),
            reason,
        };
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(bad(format!("is longer than {MAX_TEMPLATE_BYTES} bytes")));
        }
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
        let mut environment = Environment::new();
        environment.set_syntax(syntax.map_err(|e| bad(e.to_string()))?);
        environment.set_fuel(Some(MAX_STEPS));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| {
            Err::<Value, _>(JinjaError::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned("chat", without_generation_marks(source))
            .map_err(|e| bad(explain(&e)))?;
        Ok(Self {
            environment,
            path: path.into(),
            specials,
        })
    }

    /// The prompt for `messages`, up to where the assistant begins to speak.
    ///
    /// # Errors
    /// [`Error::Template`], with the template's own words where it refuses the messages.
    pub(crate) fn render(
        &self,
        messages: &[Message],
        today: Option<Date>,
    ) -> Result<String, Error> {
        let messages: Vec<Value> = messages.iter().cloned().map(Value::from_object).collect();
        let mut context: BTreeMap<String, Value> = BTreeMap::from([
            ("messages".into(), Value::from(messages)),
            ("add_generation_prompt".into(), Value::from(true)),
            ("tools".into(), Value::from(())),
            ("documents".into(), Value::from(())),
        ]);
        for (name, text) in &self.specials {
            context.insert(name.clone(), Value::from(text));
        }
        if let Some(date) = today {
            let format = move |format: String| date.format(&format);
            context.insert("strftime_now".into(), Value::from_function(format));
        }
        let template = self.environment.get_template("chat");
        template
            .and_then(|template| template.render(Value::from(context)))
            .map_err(|e| Error::Template {
                path: self.path.clone(),
                reason: explain(&e),
            })
    }
}

impl Date {
    /// Python's `strftime` for the parts of a date.
    fn format(self, format: &str) -> Result<String, JinjaError> {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        let month = MONTHS.get(usize::from(self.month).wrapping_sub(1));
        let month = month.copied().unwrap_or_default();
        let (mut text, mut characters) = (String::new(), format.chars());
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            text += &match characters.next() {
                Some('Y') => self.year.to_string(),
                Some('m') => format!("{:02}", self.month),
                Some('d') => format!("{:02}", self.day),
                Some('B') => month.to_owned(),
                Some('b') => month.chars().take(3).collect(),
                Some('%') => "%".to_owned(),
                _ => {
                    let reason = format!("strftime_now(\"{format}\") asks for more than a date");
                    return Err(JinjaError::new(ErrorKind::InvalidOperation, reason));
                }
            };
        }
        Ok(text)
    }
}

/// `{% generation %}` … `{% endgeneration %}` mark what the model says, for training; minijinja does
/// not know them.
fn without_generation_marks(source: &str) -> String {
    let mut text = source.to_owned();
    for word in ["generation", "endgeneration"] {
        for (open, close) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            let mark = format!("{open} {word} {close}");
            // A comment trims the space around itself as the mark did.
            let comment = mark.replace('%', "#");
            text = text.replace(&mark, &comment);
        }
    }
    text
}

fn explain(error: &JinjaError) -> String {
    let detail = error
        .detail()
        .map_or_else(|| error.to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{detail} (line {line})"),
        None => detail,
    }
}

/// The widest `indent`, the deepest value and the longest text of `tojson`. A filter's work costs no
/// fuel, so it has bounds of its own: a template is a program from a file.
const MAX_INDENT: usize = 16;
const MAX_JSON_DEPTH: usize = 64;
const MAX_JSON_BYTES: usize = 16 << 20;

/// `json.dumps(value, ensure_ascii=False)`, as transformers' filter writes it; `indent` is known.
fn to_json(value: Value, options: Kwargs) -> Result<String, JinjaError> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if indent > Some(MAX_INDENT) {
        return Err(unbounded(format!("an indent above {MAX_INDENT}")));
    }
    let mut text = String::new();
    write_json(&value, indent, 0, &mut text)?;
    Ok(text)
}

fn write_json(
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    text: &mut String,
) -> Result<(), JinjaError> {
    if depth > MAX_JSON_DEPTH {
        return Err(unbounded(format!("more than {MAX_JSON_DEPTH} levels")));
    }
    if text.len() > MAX_JSON_BYTES {
        return Err(unbounded(format!("more than {MAX_JSON_BYTES} bytes")));
    }
    let line = |depth: usize| indent.map(|width| format!("\n{}", " ".repeat(width * depth)));
    let (between, open_line) = match indent {
        Some(_) => (
            ",".to_owned() + &line(depth + 1).unwrap_or_default(),
            line(depth + 1),
        ),
        None => (", ".to_owned(), None),
    };
    let map = value.kind() == ValueKind::Map;
    match value.kind() {
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => {
            text.push(if map { '{' } else { '[' });
            let mut empty = true;
            for item in value.try_iter()? {
                text.push_str(match empty {
                    true => open_line.as_deref().unwrap_or_default(),
                    false => &between,
                });
                empty = false;
                if map {
                    text.push_str(&quoted(&item.to_string()));
                    text.push_str(": ");
                    write_json(&value.get_item(&item)?, indent, depth + 1, text)?;
                } else {
                    write_json(&item, indent, depth + 1, text)?;
                }
            }
            if !empty {
                text.push_str(&line(depth).unwrap_or_default());
            }
            text.push(if map { '}' } else { ']' });
        }
        ValueKind::None => text.push_str("null"),
        // Jinja prints `True`, JSON wants `true`.
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => text.push_str(&value.to_string()),
        ValueKind::String => text.push_str(&quoted(&value.to_string())),
        kind => {
            let reason = format!("{kind} has no form in JSON");
            return Err(JinjaError::new(ErrorKind::InvalidOperation, reason));
        }
    }
    Ok(())
}

fn unbounded(what: String) -> JinjaError {
    let reason = format!("tojson is asked for {what}");
    JinjaError::new(ErrorKind::InvalidOperation, reason)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
