//! The prompts that an ability can give: every combination of its axes that its
//! forms allow.

use super::{
    template::{Slot, Template},
    value::Value,
};
use proto::dataset::v1::{Attribute, Facts, Subject};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Most combinations that one ability may have. Its order is computed in memory.
pub const MAX_COMBINATIONS: usize = 100_000;

/// Share of an ability's prompts that is held out for the benchmark.
const BENCHMARK_SHARE: f64 = 0.2;

/// One distinct prompt with the facts it should show.
#[derive(Clone, Debug, PartialEq)]
pub struct Combination {
    /// Keyword of the ability that the picture is about.
    pub keyword: String,
    /// What stands in the picture, such as `red car`.
    pub phrase: String,
    /// Parts of the prompt; the first is the emphasised one.
    pub parts: Vec<String>,
    /// The truth that the picture should show.
    pub facts: Facts,
    /// Value taken on every axis in use, by axis.
    pub choices: BTreeMap<String, String>,
}

/// Which part of an ability's prompts: the two share no picture content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// For training data.
    Training,
    /// Held out, for the benchmark.
    Benchmark,
}

impl Combination {
    /// The prompt without emphasis: `fox, snow, sketch`.
    pub fn plain_text(&self) -> String {
        self.parts.join(", ")
    }

    /// The prompt with its first part emphasised: `((fox)), snow, sketch`.
    pub fn webui_text(&self) -> String {
        match self.parts.split_first() {
            Some((first, rest)) => {
                let emphasised = format!("(({first}))");
                std::iter::once(emphasised.as_str())
                    .chain(rest.iter().map(String::as_str))
                    .collect::<Vec<_>>()
                    .join(", ")
            }
            None => String::new(),
        }
    }

    /// The part it belongs to.
    pub fn split(&self) -> Split {
        split_of(&self.phrase, &self.facts.scene, &self.facts.style)
    }
}

/// The part that a picture's content belongs to.
///
/// The ability takes no part in the hash: `((beach)), dog, cartoon` of the ability
/// `scene` and `((dog)), beach, cartoon` of `animal` show the same, and what one
/// ability holds out, no other may train on.
pub fn split_of(phrase: &str, scene: &str, style: &str) -> Split {
    let digest = Sha256::digest(format!("split|{phrase}|{scene}|{style}"));
    if f64::from(digest[0]) < BENCHMARK_SHARE * 256.0 {
        Split::Benchmark
    } else {
        Split::Training
    }
}

/// One way to put a prompt together.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    /// What stands in the picture.
    pub(super) phrase: Template,
    /// Parts of the prompt, the key part first; `{phrase}` is the phrase.
    #[serde(default)]
    pub(super) parts: Vec<Template>,
    /// `Subject.name`.
    pub(super) subject: Template,
    /// `Subject.count`, a number; 1 when left out.
    pub(super) count: Option<Template>,
    /// `Subject.category`; the ability when left out.
    pub(super) category: Option<Template>,
    /// Attributes of the subject.
    #[serde(default)]
    pub(super) attributes: BTreeMap<String, Template>,
    /// `Facts.scene`; `{scene}` when left out.
    pub(super) scene: Option<Template>,
    /// `Facts.style`; `{style}` when left out.
    pub(super) style: Option<Template>,
    /// `Facts.abnormality`.
    pub(super) abnormality: Option<Template>,
    /// Where given, a combination must match one of these rows.
    #[serde(default)]
    pub(super) allow: Vec<Row>,
    /// A combination must match none of these rows.
    #[serde(default)]
    pub(super) deny: Vec<Row>,
}

/// Values by axis; a combination matches when each named axis has one of them.
pub(super) type Row = BTreeMap<String, Vec<String>>;

/// A form with its defaults put in.
pub(super) struct Plan<'a> {
    form: &'a Form,
    parts: Vec<Template>,
    category: Template,
    scene: Template,
    style: Template,
}

impl<'a> Plan<'a> {
    pub(super) fn new(ability: &'a str, form: &'a Form) -> Self {
        let slot = |name: &str| {
            Template::parse(&format!("{{{name}}}")).expect("a bare name in braces is a template")
        };
        let default_parts = || ["phrase", "scene", "style"].map(slot).to_vec();
        let category = Template::parse(ability).expect("an ability's name holds no braces");
        Self {
            form,
            parts: if form.parts.is_empty() {
                default_parts()
            } else {
                form.parts.clone()
            },
            category: form.category.clone().unwrap_or(category),
            scene: form.scene.clone().unwrap_or_else(|| slot("scene")),
            style: form.style.clone().unwrap_or_else(|| slot("style")),
        }
    }

    /// Every template with the key it stands under.
    pub(super) fn templates(&self) -> Vec<(&'static str, &Template)> {
        let Self {
            form,
            parts,
            category,
            scene,
            style,
        } = self;
        let mut all = vec![("phrase", &form.phrase), ("subject", &form.subject)];
        all.extend(parts.iter().map(|part| ("parts", part)));
        all.extend([("category", category), ("scene", scene), ("style", style)]);
        all.extend(form.count.iter().map(|count| ("count", count)));
        all.extend(form.attributes.values().map(|value| ("attributes", value)));
        all.extend(form.abnormality.iter().map(|text| ("abnormality", text)));
        all
    }

    /// Axes in use: the keyword's, and every one that a template names.
    pub(super) fn axes(&self) -> BTreeSet<String> {
        let named = self
            .templates()
            .into_iter()
            .flat_map(|(_, template)| template.slots());
        let named = named
            .map(|slot| slot.name.clone())
            .filter(|name| name != "phrase");
        named.chain(["keyword".to_owned()]).collect()
    }

    /// Every combination that the form allows, in the order of the file. Each
    /// axis in use must exist; values without an asked word form are left out.
    pub(super) fn combinations(&self, axes: &BTreeMap<String, Vec<Value>>) -> Vec<Combination> {
        let mut rows: Vec<BTreeMap<&str, &Value>> = vec![BTreeMap::new()];
        for axis in self.axes() {
            let Some((name, values)) = axes.get_key_value(&axis) else {
                return Vec::new();
            };
            rows = rows
                .iter()
                .flat_map(|row| values.iter().map(move |value| with(row, name, value)))
                .filter(|row| self.may_match(row))
                .collect();
        }
        rows.iter()
            .filter_map(|row| self.combination(row))
            .collect()
    }

    /// Whether a row that may yet lack axes can still be allowed; the early no
    /// keeps the product small.
    fn may_match(&self, row: &BTreeMap<&str, &Value>) -> bool {
        let fits = |(axis, texts): (&String, &Vec<String>), unknown| match row.get(axis.as_str()) {
            Some(value) => texts.contains(&value.text),
            None => unknown,
        };
        let Form { allow, deny, .. } = self.form;
        let allowed = allow.is_empty()
            || allow
                .iter()
                .any(|rule| rule.iter().all(|cell| fits(cell, true)));
        allowed
            && !deny
                .iter()
                .any(|rule| rule.iter().all(|cell| fits(cell, false)))
    }

    fn combination(&self, row: &BTreeMap<&str, &Value>) -> Option<Combination> {
        let fill = |slot: &Slot| row.get(slot.name.as_str()).and_then(|value| slot.of(value));
        let phrase = self.form.phrase.render(fill)?;
        let with_phrase = |slot: &Slot| {
            if slot.name == "phrase" {
                Some(phrase.clone())
            } else {
                fill(slot)
            }
        };
        let parts = self
            .parts
            .iter()
            .map(|part| part.render(with_phrase))
            .collect::<Option<_>>()?;
        Some(Combination {
            keyword: row.get("keyword")?.text.clone(),
            parts,
            facts: self.facts(fill)?,
            choices: row
                .iter()
                .map(|(&axis, value)| (axis.to_owned(), value.text.clone()))
                .collect(),
            phrase,
        })
    }

    fn facts(&self, fill: impl Fn(&Slot) -> Option<String> + Copy) -> Option<Facts> {
        let attribute = |(name, value): (&String, &Template)| {
            Some(Attribute {
                name: name.clone(),
                value: value.render(fill)?,
            })
        };
        let count = match &self.form.count {
            Some(count) => count.render(fill)?.parse().ok()?,
            None => 1,
        };
        let subject = Subject {
            name: self.form.subject.render(fill)?,
            category: self.category.render(fill)?,
            count,
            attributes: self
                .form
                .attributes
                .iter()
                .map(attribute)
                .collect::<Option<_>>()?,
        };
        let abnormality = self.form.abnormality.as_ref().map(|text| text.render(fill));
        Some(Facts {
            subjects: vec![subject],
            scene: self.scene.render(fill)?,
            style: self.style.render(fill)?,
            abnormality: match abnormality {
                Some(text) => text?,
                None => String::new(),
            },
            relations: Vec::new(),
        })
    }
}

fn with<'a>(
    row: &BTreeMap<&'a str, &'a Value>,
    axis: &'a str,
    value: &'a Value,
) -> BTreeMap<&'a str, &'a Value> {
    let mut longer = row.clone();
    longer.insert(axis, value);
    longer
}
