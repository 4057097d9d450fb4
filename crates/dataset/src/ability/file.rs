//! The files of `abilities/` as they are written. Unknown keys are refused;
//! what they mean is checked in `validate`.

use super::{combination::Form, pictures::PictureRule, template::Template, value::Value};
use proto::dataset::v1::QuestionKind;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;

/// `shared.toml`: what every ability has unless it says otherwise.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SharedFile {
    #[serde(default)]
    pub(super) axes: BTreeMap<String, Vec<Value>>,
    #[serde(default)]
    pub(super) aspects: BTreeMap<String, Aspect>,
    #[serde(default)]
    pub(super) captions: Vec<Template>,
    #[serde(default)]
    pub(super) questions: Vec<QuestionTemplate>,
}

/// One ability.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AbilityFile {
    pub(super) name: String,
    pub(super) description: String,
    #[serde(default = "one_image")]
    pub(super) images_per_sample: u32,
    /// How the pictures of one sample go together; a sample follows one of them.
    #[serde(default)]
    pub(super) pictures: Vec<PictureRule>,
    /// How a dialogue shows several pictures.
    #[serde(default)]
    pub(super) shown: Shown,
    /// What a picture model must be able to draw beyond the usual; empty for nothing.
    #[serde(default)]
    pub(super) needs: String,
    #[serde(default)]
    pub(super) negative_prompt: String,
    #[serde(default)]
    pub(super) cautions: Vec<String>,
    pub(super) prompt_examples: Vec<String>,
    pub(super) dialogue_examples: Vec<DialogueExample>,
    #[serde(deserialize_with = "kinds")]
    pub(super) question_kinds: Vec<QuestionKind>,
    pub(super) main_aspect: String,
    #[serde(default)]
    pub(super) keywords: Vec<Value>,
    /// Axis whose values are the keywords, instead of a list.
    pub(super) keyword_axis: Option<String>,
    #[serde(default)]
    pub(super) axes: BTreeMap<String, Vec<Value>>,
    #[serde(default)]
    pub(super) aspects: BTreeMap<String, Aspect>,
    #[serde(default)]
    pub(super) captions: Vec<Template>,
    pub(super) forms: Vec<Form>,
    #[serde(default)]
    pub(super) questions: Vec<QuestionTemplate>,
    pub(super) evaluation: Vec<QuestionTemplate>,
}

/// How a dialogue shows the pictures of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// All of them in the first turn.
    #[default]
    Together,
    /// The next one in each turn of the user, until all were seen.
    OnePerTurn,
}

/// A worked example: a prompt and what is said about its picture.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DialogueExample {
    /// Image prompt.
    pub prompt: String,
    /// Question.
    pub question: String,
    /// Answer.
    pub answer: String,
}

/// Something that one can ask about a picture: where its truth stands in the
/// facts, and the axis that holds its words and its wrong answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aspect {
    /// Where the truth stands.
    pub fact: FactPath,
    /// Axis of its values.
    pub axis: String,
    /// Whether its words mean this only in the ability's own dialogues: `top` and
    /// `two` are said of other things elsewhere.
    #[serde(default)]
    pub own_words: bool,
}

/// A place in the facts of a picture.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub enum FactPath {
    /// Name of the main subject.
    Subject,
    /// The scene.
    Scene,
    /// The style.
    Style,
    /// Ability whose keyword the main subject is.
    Category,
    /// A property of the main subject, written `attribute.color`.
    Attribute(String),
}

/// Questions of one kind about one aspect, in several wordings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionTemplate {
    /// Kind of question.
    #[serde(deserialize_with = "kind")]
    pub kind: QuestionKind,
    /// Aspect asked about; the ability's main aspect when left out.
    pub about: Option<String>,
    /// Asked only where each named aspect has one of these values.
    #[serde(default)]
    pub when: BTreeMap<String, Vec<String>>,
    /// Asked only where all pictures have the same value of these aspects.
    #[serde(default)]
    pub same: Vec<String>,
    /// Asked only where no two pictures have the same value of these aspects.
    #[serde(default)]
    pub different: Vec<String>,
    /// Wordings of the question.
    pub ask: Vec<Template>,
    /// Wordings of the answer; to a yes/no question, of the yes. Empty in evaluation.
    #[serde(default)]
    pub answer: Vec<Template>,
    /// Wordings of the no to a yes/no question.
    #[serde(default)]
    pub answer_no: Vec<Template>,
    /// Accepted short answers; those of the aspect's value when left out.
    #[serde(default)]
    pub accept: Vec<Template>,
}

impl TryFrom<String> for FactPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "subject" => Ok(Self::Subject),
            "scene" => Ok(Self::Scene),
            "style" => Ok(Self::Style),
            "category" => Ok(Self::Category),
            other => match other.strip_prefix("attribute.") {
                Some(name) if !name.is_empty() => Ok(Self::Attribute(name.to_owned())),
                _ => Err(format!(
                    "`{other}` is no fact; write subject, scene, style, category or attribute.NAME"
                )),
            },
        }
    }
}

fn one_image() -> u32 {
    1
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<QuestionKind, D::Error> {
    let name = String::deserialize(deserializer)?;
    kind_of(&name).ok_or_else(|| de::Error::unknown_variant(&name, KIND_NAMES))
}

fn kinds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<QuestionKind>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let find =
        |name: &String| kind_of(name).ok_or_else(|| de::Error::unknown_variant(name, KIND_NAMES));
    names.iter().map(find).collect()
}

const KIND_NAMES: &[&str] = &[
    "caption",
    "yes_no",
    "wh",
    "either_or",
    "multiple_choice",
    "negative",
    "follow_up",
    "multi_image",
];

fn kind_of(name: &str) -> Option<QuestionKind> {
    KIND_NAMES
        .contains(&name)
        .then(|| QuestionKind::from_str_name(&format!("QUESTION_KIND_{}", name.to_uppercase())))?
}
