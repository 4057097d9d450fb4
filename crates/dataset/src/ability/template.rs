//! Text with placeholders: `a {subject}`, `{a subject}`, `{scene.where}`.

use super::value::{Value, with_article};
use serde::Deserialize;

/// A text whose `{placeholders}` are filled later.
///
/// A placeholder is a name; `{a name}` puts the value's article before it,
/// `{name.form}` takes one of the value's word forms, and `{2.name}` is about the
/// second of several pictures.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Slot(Slot),
}

/// One placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What it names, such as `subject`.
    pub name: String,
    /// Picture of the sample that it is about, from 0; none for the only one, or for
    /// what is true of all.
    pub picture: Option<usize>,
    /// Word form asked for, such as `where`.
    pub form: Option<String>,
    /// True for `{a name}`.
    pub article: bool,
}

/// Why a text is no template.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// A `{` without its `}`, or the other way round.
    #[error("braces do not match in `{0}`")]
    Braces(String),
    /// Something other than a name stands between the braces.
    #[error(
        "`{{{slot}}}` is no placeholder in `{source_text}`; write {{name}}, {{a name}}, {{name.form}} or {{2.name}}"
    )]
    Slot {
        /// What stands between the braces.
        slot: String,
        /// The whole text.
        source_text: String,
    },
}

impl Template {
    /// Reads a template.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = source;
        while let Some(open) = rest.find(['{', '}']) {
            let braces = || TemplateError::Braces(source.to_owned());
            let (text, tail) = rest.split_at(open);
            let inner = tail.strip_prefix('{').ok_or_else(braces)?;
            let (slot, after) = inner.split_once('}').ok_or_else(braces)?;
            if !text.is_empty() {
                pieces.push(Piece::Text(text.to_owned()));
            }
            pieces.push(Piece::Slot(parse_slot(slot, source)?));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self {
            source: source.to_owned(),
            pieces,
        })
    }

    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The placeholders, in order.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Slot(slot) => Some(slot),
            Piece::Text(_) => None,
        })
    }

    /// Fills every placeholder; `None` when `fill` knows one of them not.
    pub fn render(&self, fill: impl Fn(&Slot) -> Option<String>) -> Option<String> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(part) => text.push_str(part),
                Piece::Slot(slot) => text.push_str(&fill(slot)?),
            }
        }
        Some(text)
    }
}

impl Slot {
    /// The words of a value that this placeholder asks for; `None` when the
    /// value has no such word form.
    pub fn of(&self, value: &Value) -> Option<String> {
        let words = match &self.form {
            None => value.text.clone(),
            Some(form) => value.words.get(form)?.clone(),
        };
        Some(if self.article {
            with_article(&value.article, &words)
        } else {
            words
        })
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(source: String) -> Result<Self, TemplateError> {
        Self::parse(&source)
    }
}

fn parse_slot(slot: &str, source: &str) -> Result<Slot, TemplateError> {
    let (article, path) = match slot.strip_prefix("a ") {
        Some(path) => (true, path),
        None => (false, slot),
    };
    let (picture, path) = match path.split_once('.') {
        Some((number, path)) if is_number(number) => (number.parse().ok(), path),
        _ => (None, path),
    };
    let (name, form) = match path.split_once('.') {
        Some((name, form)) => (name, Some(form)),
        None => (path, None),
    };
    if !is_name(name) || !form.is_none_or(is_name) || picture == Some(0) {
        return Err(TemplateError::Slot {
            slot: slot.to_owned(),
            source_text: source.to_owned(),
        });
    }
    Ok(Slot {
        name: name.to_owned(),
        picture: picture.map(|number: usize| number - 1),
        form: form.map(str::to_owned),
        article,
    })
}

/// One digit: no sample has ten pictures.
fn is_number(text: &str) -> bool {
    matches!(text.as_bytes(), [b'0'..=b'9'])
}

/// Whether a text can name an ability, an axis, an aspect or a word form.
pub(crate) fn is_name(text: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit();
    text.as_bytes().first().is_some_and(u8::is_ascii_lowercase) && text.bytes().all(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_take_articles_and_word_forms() {
        let template = Template::parse("{a thing} {thing.place}!").unwrap();
        let mut owl = Value::new("owl");
        owl.words.insert("place".into(), "on a tree".into());
        assert_eq!(
            template.render(|slot| slot.of(&owl)).unwrap(),
            "an owl on a tree!"
        );
        assert_eq!(
            Template::parse("{thing.sound}")
                .unwrap()
                .render(|slot| slot.of(&owl)),
            None
        );
    }

    #[test]
    fn a_placeholder_may_name_one_of_several_pictures() {
        let template = Template::parse("{2.thing}, {a 1.thing.place}, {thing}").unwrap();
        let asked: Vec<_> = template.slots().map(|slot| slot.picture).collect();
        assert_eq!(asked, [Some(1), Some(0), None]);
        let second = template.slots().nth(1).unwrap();
        assert!(second.article && second.form.as_deref() == Some("place"));
    }

    #[test]
    fn broken_placeholders_are_refused() {
        for broken in [
            "{thing",
            "thing}",
            "{}",
            "{the thing}",
            "{a thing.}",
            "{Thing}",
            "{0.thing}",
            "{1.}",
        ] {
            assert!(Template::parse(broken).is_err(), "{broken}");
        }
    }
}
