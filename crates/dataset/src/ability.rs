//! Abilities: what a vision-language model should be able to do, and all that the
//! suite knows about it. One TOML file each under `abilities/`; the schema is told
//! in `abilities/README.md`.

mod combination;
mod draws;
mod error;
mod file;
mod order;
mod pictures;
mod template;
mod validate;
mod value;

pub use combination::{Combination, MAX_COMBINATIONS, Split, split_of};
pub use draws::Draws;
pub use error::{Error, StyleWeightsError};
pub use file::{Aspect, DialogueExample, FactPath, QuestionTemplate, Shown};
pub use pictures::{MAX_PICTURES, MAX_SETS, PictureRule, PictureSets, SetOrder};
pub use template::{Slot, Template, TemplateError};
pub use value::Value;

use file::SharedFile;
use proto::dataset::v1::{self as pb, Facts, QuestionKind};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, fs, path::Path};

/// Name of the file that holds what all abilities share.
const SHARED_FILE: &str = "shared.toml";

/// The abilities of one folder.
#[derive(Clone, Debug)]
pub struct Abilities {
    by_name: BTreeMap<String, Ability>,
}

/// One ability, checked.
#[derive(Clone, Debug)]
pub struct Ability {
    name: String,
    description: String,
    images_per_sample: u32,
    picture_rules: Vec<PictureRule>,
    shown: Shown,
    needs: String,
    negative_prompt: String,
    cautions: Vec<String>,
    prompt_examples: Vec<String>,
    dialogue_examples: Vec<DialogueExample>,
    question_kinds: Vec<QuestionKind>,
    main_aspect: String,
    axes: BTreeMap<String, Vec<Value>>,
    aspects: BTreeMap<String, Aspect>,
    captions: Vec<Template>,
    questions: Vec<QuestionTemplate>,
    evaluation: Vec<QuestionTemplate>,
    combinations: Vec<Combination>,
    sha256: String,
}

/// Which prompts of an ability to draw, and in which order.
#[derive(Clone, Debug)]
pub struct Draw<'a> {
    /// Seed of the recipe.
    pub seed: u64,
    /// Part to draw from.
    pub split: Split,
    /// Share of each style by name; empty means equal shares. A style without an
    /// entry is not drawn.
    pub style_weights: &'a BTreeMap<String, f64>,
}

impl Abilities {
    /// Reads every `*.toml` of a folder. `shared.toml`, where present, gives all of
    /// them its axes, aspects, captions and questions.
    ///
    /// Errors name the file and, where one is at fault, the key.
    pub fn load_folder(folder: &Path) -> Result<Self, Error> {
        let shared = Shared::read(folder)?;
        let mut by_name = BTreeMap::new();
        for path in ability_files(folder)? {
            let ability = shared.ability(&path, &read(&path)?)?;
            by_name.insert(ability.name.clone(), ability);
        }
        if by_name.is_empty() {
            return Err(Error::Empty {
                folder: folder.to_owned(),
            });
        }
        Ok(Self { by_name })
    }

    /// The ability of a name.
    pub fn get(&self, name: &str) -> Option<&Ability> {
        self.by_name.get(name)
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The abilities, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Ability> {
        self.by_name.values()
    }
}

impl Ability {
    /// The ability that the file `path` would hold with `text` in it, beside the `shared.toml` of its
    /// folder: what an editor of ability files asks before it writes one.
    ///
    /// Errors name the file and, where one is at fault, the key.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, Error> {
        let folder = path.parent().unwrap_or(Path::new("."));
        Shared::read(folder)?.ability(path, text)
    }

    /// Name, such as `animal`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of its file and the shared one, lower-case hexadecimal: changes when
    /// anything does that decides its prompts or questions.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What no picture of it should show; empty for nothing.
    pub fn negative_prompt(&self) -> &str {
        &self.negative_prompt
    }

    /// Pictures of one sample, 1 to [`MAX_PICTURES`].
    pub fn images_per_sample(&self) -> usize {
        self.images_per_sample as usize
    }

    /// How a dialogue shows several pictures.
    pub fn shown(&self) -> Shown {
        self.shown
    }

    /// Fewest rounds of a dialogue that shows `image_count` of its pictures.
    pub fn min_rounds(&self, image_count: usize) -> usize {
        match self.shown {
            Shown::OnePerTurn => image_count.max(1),
            Shown::Together => 1,
        }
    }

    /// What a picture model must be able to draw beyond the usual, as a phrase; empty
    /// for nothing.
    pub fn needs(&self) -> &str {
        &self.needs
    }

    /// Kinds of question that make sense.
    pub fn question_kinds(&self) -> &[QuestionKind] {
        &self.question_kinds
    }

    /// Questions for training dialogues.
    pub fn questions(&self) -> &[QuestionTemplate] {
        &self.questions
    }

    /// Questions for benchmarks, in wordings of their own.
    pub fn evaluation(&self) -> &[QuestionTemplate] {
        &self.evaluation
    }

    /// Wordings of a brief description.
    pub fn captions(&self) -> &[Template] {
        &self.captions
    }

    /// Name of the aspect that the ability is about.
    pub fn main_aspect(&self) -> &str {
        &self.main_aspect
    }

    /// What one can ask about, by name.
    pub fn aspects(&self) -> &BTreeMap<String, Aspect> {
        &self.aspects
    }

    /// Values of the axis behind an aspect; empty for an unknown one.
    pub fn values(&self, aspect: &str) -> &[Value] {
        let axis = self
            .aspects
            .get(aspect)
            .and_then(|aspect| self.axes.get(&aspect.axis));
        axis.map_or(&[], Vec::as_slice)
    }

    /// The truth about an aspect, with its words; `None` when the facts do not state
    /// it. A truth that no axis knows gets the words it has.
    pub fn truth(&self, aspect: &str, facts: &Facts) -> Option<Value> {
        let fact = self.aspects.get(aspect)?.fact.read(facts)?;
        let values = self.values(aspect);
        let known = values
            .iter()
            .find(|value| value.text == fact)
            .or_else(|| values.iter().find(|value| value.is_named(fact)));
        Some(known.cloned().unwrap_or_else(|| Value::new(fact)))
    }

    /// Every distinct prompt, in the order of the file.
    pub fn combinations(&self) -> &[Combination] {
        &self.combinations
    }

    /// The prompts of one part in their seeded order. In every prefix each keyword
    /// and each style has its share, as nearly as the prompts that are left allow.
    ///
    /// Slot `i` at attempt `k` of a run with `n` slots takes place `i + k * n`.
    /// Errors: a style that no prompt has, or a weight that is no share.
    pub fn ordered(&self, draw: &Draw<'_>) -> Result<Vec<&Combination>, StyleWeightsError> {
        let styles = self.style_shares(draw.style_weights)?;
        let keywords = self
            .keywords()
            .iter()
            .map(|value| (value.text.as_str(), value.weight))
            .collect();
        let part: Vec<_> = self
            .combinations
            .iter()
            .filter(|found| found.split() == draw.split)
            .collect();
        let mut draws = Draws::new(&["order", &self.name, &draw.seed.to_string()]);
        Ok(order::balanced(
            &part,
            &order::Shares { keywords, styles },
            &mut draws,
        ))
    }

    /// Keywords with their weights.
    pub fn keywords(&self) -> &[Value] {
        self.axes.get("keyword").map_or(&[], Vec::as_slice)
    }

    /// Styles of its prompts, sorted.
    pub fn styles(&self) -> Vec<&str> {
        let mut styles: Vec<_> = self
            .combinations
            .iter()
            .map(|found| found.facts.style.as_str())
            .collect();
        styles.sort_unstable();
        styles.dedup();
        styles
    }

    fn style_shares(
        &self,
        weights: &BTreeMap<String, f64>,
    ) -> Result<BTreeMap<&str, f64>, StyleWeightsError> {
        let styles = self.styles();
        for (style, &weight) in weights {
            if !styles.contains(&style.as_str()) {
                let known = styles.join(", ");
                return Err(StyleWeightsError::Unknown {
                    style: style.clone(),
                    ability: self.name.clone(),
                    known,
                });
            }
            if !weight.is_finite() || weight < 0.0 {
                return Err(StyleWeightsError::Weight {
                    style: style.clone(),
                    weight,
                });
            }
        }
        if !weights.is_empty() && weights.values().all(|&weight| weight == 0.0) {
            return Err(StyleWeightsError::None);
        }
        // With 1 for every style, style quotas are equal shares.
        let weight = |style: &str| {
            if weights.is_empty() {
                1.0
            } else {
                weights.get(style).copied().unwrap_or(0.0)
            }
        };
        Ok(styles
            .into_iter()
            .map(|style| (style, weight(style)))
            .collect())
    }
}

impl FactPath {
    /// The fact at this place; `None` when it is not stated.
    pub fn read<'a>(&self, facts: &'a Facts) -> Option<&'a str> {
        let subject = || facts.subjects.first();
        let text = match self {
            Self::Subject => &subject()?.name,
            Self::Scene => &facts.scene,
            Self::Style => &facts.style,
            Self::Category => &subject()?.category,
            Self::Attribute(name) => {
                &subject()?
                    .attributes
                    .iter()
                    .find(|attribute| attribute.name == *name)?
                    .value
            }
        };
        (!text.is_empty()).then_some(text.as_str())
    }
}

impl From<&Ability> for pb::Ability {
    fn from(ability: &Ability) -> Self {
        let keyword = |value: &Value| pb::Keyword {
            text: value.text.clone(),
            weight: value.weight as f32,
        };
        Self {
            name: ability.name.clone(),
            description: ability.description.clone(),
            keywords: ability.keywords().iter().map(keyword).collect(),
            cautions: ability.cautions.clone(),
            prompt_examples: ability.prompt_examples.clone(),
            dialogue_examples: ability
                .dialogue_examples
                .iter()
                .cloned()
                .map(Into::into)
                .collect(),
            question_kinds: ability
                .question_kinds
                .iter()
                .map(|&kind| kind.into())
                .collect(),
            evaluation_questions: ability
                .evaluation
                .iter()
                .flat_map(evaluation_questions)
                .collect(),
            images_per_sample: ability.images_per_sample,
            needs: ability.needs.clone(),
            shows_one_image_per_turn: ability.shown == Shown::OnePerTurn,
        }
    }
}

impl From<DialogueExample> for pb::DialogueExample {
    fn from(
        DialogueExample {
            prompt,
            question,
            answer,
        }: DialogueExample,
    ) -> Self {
        Self {
            prompt,
            question,
            answer,
        }
    }
}

fn evaluation_questions(
    template: &QuestionTemplate,
) -> impl Iterator<Item = pb::EvaluationQuestion> {
    let question = |ask: &Template| pb::EvaluationQuestion {
        template: ask.source().to_owned(),
        kind: template.kind.into(),
    };
    template.ask.iter().map(question)
}

/// `shared.toml` of a folder, parsed, and its text, which is part of every ability's hash.
struct Shared {
    file: SharedFile,
    text: String,
}

impl Shared {
    fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(SHARED_FILE);
        let text = match path.exists() {
            true => read(&path)?,
            false => String::new(),
        };
        let file = parse(&path, &text)?;
        Ok(Self { file, text })
    }

    fn ability(&self, path: &Path, text: &str) -> Result<Ability, Error> {
        let sha256 = sha256_hex(&[&self.text, text]);
        let ability = validate::ability(parse(path, text)?, &self.file, sha256);
        let ability = ability.map_err(|at| at.in_file(path))?;
        validate::file_name(&ability.name, path).map_err(|at| at.in_file(path))?;
        Ok(ability)
    }
}

fn ability_files(folder: &Path) -> Result<Vec<std::path::PathBuf>, Error> {
    let read_error = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(read_error)? {
        let path = entry.map_err(read_error)?.path();
        let is_toml = path
            .extension()
            .is_some_and(|extension| extension == "toml");
        if is_toml && path.file_name().is_some_and(|name| name != SHARED_FILE) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, Error> {
    toml::from_str(text).map_err(|source| {
        let start = source.span().map_or(0, |span| span.start);
        let line = text.get(..start).unwrap_or("").lines().count().max(1);
        Error::Parse {
            path: path.to_owned(),
            line,
            reason: source.message().replace('\n', " "),
        }
    })
}

fn sha256_hex(texts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
