//! One value of an axis: a keyword, a scene, a colour, with the words for it.

use serde::{Deserialize, Deserializer, de};
use std::{collections::BTreeMap, fmt};

/// A value that a prompt can take on one of its axes.
///
/// In a file it is a text (`"dog"`) or a table (`{ text = "rabbit", answers = ["bunny"] }`).
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// The words as they stand in a prompt.
    pub text: String,
    /// `a`, `an`, `the` or empty (plural and uncountable nouns).
    pub article: String,
    /// Other words that answer a question about it correctly.
    pub answers: Vec<String>,
    /// Relative share of samples, above 0.
    pub weight: f64,
    /// Word forms by name, such as `where` = `on a beach`.
    pub words: BTreeMap<String, String>,
    /// Values of the same axis that may also be true, or look true, of a picture of
    /// this one: never offered as wrong answers there.
    pub like: Vec<String>,
    /// Facts with which this thing may be seen anyway (a pine tree in a forest):
    /// there it is never said to be absent.
    pub seen_with: BTreeMap<String, Vec<String>>,
}

impl Value {
    /// A value of which only the words are known.
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            article: article_of(text).to_owned(),
            answers: Vec::new(),
            weight: 1.0,
            words: BTreeMap::new(),
            like: Vec::new(),
            seen_with: BTreeMap::new(),
        }
    }

    /// Whether a text names this value, by its own words or an accepted answer.
    pub fn is_named(&self, text: &str) -> bool {
        self.text == text || self.answers.iter().any(|answer| answer == text)
    }

    /// Every short answer that names this value: its words, its accepted
    /// answers, and the simple singular or plural of each.
    pub fn accepted(&self) -> Vec<String> {
        let mut accepted = Vec::new();
        for text in std::iter::once(&self.text).chain(&self.answers) {
            for form in [text.clone(), other_number(text)] {
                if !accepted.contains(&form) {
                    accepted.push(form);
                }
            }
        }
        accepted
    }
}

/// `an` before a vowel, else `a`; nothing is known of the sound.
fn article_of(text: &str) -> &'static str {
    if text.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

/// "an owl", "gloves".
pub(crate) fn with_article(article: &str, words: &str) -> String {
    match article {
        "" => words.to_owned(),
        "a" | "an" => format!("{} {words}", article_of(words)),
        other => format!("{other} {words}"),
    }
}

/// The regular plural of a singular, and the reverse.
fn other_number(text: &str) -> String {
    let ends = |ending: &str| text.ends_with(ending);
    if ends("ss") || ends("sh") || ends("ch") || ends("x") || ends("us") {
        format!("{text}es")
    } else if let Some(stem) = text.strip_suffix('s') {
        stem.to_owned()
    } else if let Some(stem) = text
        .strip_suffix('y')
        .filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u']))
    {
        format!("{stem}ies")
    } else if let Some(stem) = text.strip_suffix('f').filter(|_| ends("rf") || ends("af")) {
        format!("{stem}ves")
    } else {
        format!("{text}s")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    text: String,
    article: Option<String>,
    #[serde(default)]
    answers: Vec<String>,
    #[serde(default = "one")]
    weight: f64,
    #[serde(default)]
    words: BTreeMap<String, String>,
    #[serde(default)]
    like: Vec<String>,
    #[serde(default)]
    seen_with: BTreeMap<String, Vec<String>>,
}

fn one() -> f64 {
    1.0
}

impl From<Table> for Value {
    fn from(table: Table) -> Self {
        let Table {
            text,
            article,
            answers,
            weight,
            words,
            like,
            seen_with,
        } = table;
        let article = article.unwrap_or_else(|| article_of(&text).to_owned());
        Self {
            text,
            article,
            answers,
            weight,
            words,
            like,
            seen_with,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Written out because an untagged enum would hide which key is wrong.
struct ValueVisitor;

impl<'de> de::Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text or a table with `text`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::new(text))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        Table::deserialize(de::value::MapAccessDeserializer::new(map)).map(Value::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_and_singulars_are_accepted() {
        for (text, other) in [
            ("dog", "dogs"),
            ("gloves", "glove"),
            ("bus", "buses"),
            ("couch", "couches"),
            ("city", "cities"),
            ("scarf", "scarves"),
            ("dress", "dresses"),
        ] {
            assert_eq!(Value::new(text).accepted(), [text, other]);
        }
    }
}
