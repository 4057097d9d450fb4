//! Questions and answers, as benchmarks publish them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use proto::{dataset::v1::QuestionKind, eval::v1::BenchmarkQuestion};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{BenchmarkArg, ScoreArgs};
use crate::assets::Assets;

/// Largest file that is read, in bytes; GQA's largest split is a tenth of it.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A question with what is right.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Asked {
    pub(super) id: String,
    /// Empty where the benchmark names none.
    pub(super) ability: String,
    pub(super) kind: QuestionKind,
    pub(super) text: String,
    /// Any of them is right.
    pub(super) answers: Vec<String>,
}

/// What a file of questions holds.
struct Reference {
    asked: Vec<Asked>,
    /// Ids of questions that are published with the others and count for nothing. They may be answered.
    unscored: Vec<String>,
}

impl From<Vec<Asked>> for Reference {
    fn from(asked: Vec<Asked>) -> Self {
        Self {
            asked,
            unscored: Vec::new(),
        }
    }
}

/// Questions and the answers that were given to them.
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) asked: Vec<Asked>,
    given: HashMap<String, String>,
}

impl Sheet {
    pub(super) fn new(asked: Vec<Asked>, given: HashMap<String, String>) -> Self {
        Self { asked, given }
    }

    /// The answer to a question; empty where there is none.
    pub(super) fn answer(&self, asked: &Asked) -> &str {
        self.given.get(&asked.id).map_or("", String::as_str)
    }

    /// Whether the question was answered at all.
    pub(super) fn has_answer(&self, asked: &Asked) -> bool {
        self.given.contains_key(&asked.id)
    }
}

impl From<&Asked> for BenchmarkQuestion {
    fn from(asked: &Asked) -> Self {
        Self {
            question_id: asked.id.clone(),
            ability: asked.ability.clone(),
            kind: asked.kind.into(),
            text: asked.text.clone(),
            answers: asked.answers.clone(),
            ..Self::default()
        }
    }
}

/// Reads both files and joins them by the questions' ids.
///
/// # Errors
/// A file that cannot be read, an id that stands there twice, an answer to no question.
pub(super) fn read(args: &ScoreArgs, assets: &Assets) -> Result<Sheet> {
    let Reference { asked, unscored } = match args.benchmark {
        BenchmarkArg::Diptych => diptych(&args.reference, assets)?.into(),
        BenchmarkArg::Pope => pope(Path::new(&args.reference))?.into(),
        BenchmarkArg::Gqa => gqa(Path::new(&args.reference))?,
    };
    ensure!(
        !asked.is_empty(),
        "{} holds no question that is scored",
        args.reference
    );
    let mut known: HashSet<&str> = HashSet::new();
    for id in asked.iter().map(|asked| &asked.id).chain(&unscored) {
        ensure!(
            known.insert(id),
            "{}: question `{id}` stands there twice",
            args.reference
        );
    }
    let mut given = HashMap::new();
    for (id, text) in answers(args)? {
        let file = args.answers.display();
        ensure!(
            known.contains(id.as_str()),
            "{file}: {} has no question `{id}`",
            args.reference
        );
        let earlier = given.insert(id.clone(), text);
        ensure!(
            earlier.is_none(),
            "{file}: question `{id}` is answered twice"
        );
    }
    Ok(Sheet::new(asked, given))
}

/// A line of `questions.jsonl`.
#[derive(Deserialize)]
struct OwnQuestion {
    question_id: String,
    ability: String,
    kind: String,
    text: String,
    answers: Vec<String>,
}

fn diptych(reference: &str, assets: &Assets) -> Result<Vec<Asked>> {
    let place = assets.benchmark(reference)?;
    let file = match place.is_dir() {
        true => place.join("questions.jsonl"),
        false => place,
    };
    let question = |found: OwnQuestion| {
        let kind = format!("QUESTION_KIND_{}", found.kind.to_uppercase());
        Asked {
            id: found.question_id,
            ability: found.ability,
            kind: QuestionKind::from_str_name(&kind).unwrap_or_default(),
            text: found.text,
            answers: found.answers,
        }
    };
    Ok(lines(&file)?.into_iter().map(question).collect())
}

/// A line of `coco_pope_*.json`.
#[derive(Deserialize)]
struct PopeQuestion {
    question_id: Value,
    text: String,
    label: String,
}

fn pope(file: &Path) -> Result<Vec<Asked>> {
    let question = |found: PopeQuestion| Asked {
        id: id_of(&found.question_id),
        kind: QuestionKind::YesNo,
        text: found.text,
        answers: vec![found.label],
        ..Asked::default()
    };
    Ok(lines(file)?.into_iter().map(question).collect())
}

/// A value of GQA's map of questions.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GqaQuestion {
    question: String,
    answer: String,
    #[serde(default = "balanced")]
    is_balanced: bool,
}

fn balanced() -> bool {
    true
}

/// GQA's accuracy is over its balanced questions; its files hold all, and predictions answer all.
fn gqa(file: &Path) -> Result<Reference> {
    let found: BTreeMap<String, GqaQuestion> = whole(file)?;
    let (balanced, others): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|(_, question)| question.is_balanced);
    let question = |(id, found): (String, GqaQuestion)| Asked {
        id,
        kind: match found.answer.as_str() {
            "yes" | "no" => QuestionKind::YesNo,
            _ => QuestionKind::Wh,
        },
        text: found.question,
        answers: vec![found.answer],
        ..Asked::default()
    };
    Ok(Reference {
        asked: balanced.into_iter().map(question).collect(),
        unscored: others.into_iter().map(|(id, _)| id).collect(),
    })
}

/// An answer, as LLaVA's scripts write them and as GQA's scorer reads them.
#[derive(Deserialize)]
struct Given {
    #[serde(alias = "questionId")]
    question_id: Value,
    #[serde(alias = "prediction", alias = "answer")]
    text: String,
    /// An evaluation of this suite asks again with other pictures; those answers are not scored.
    #[serde(default)]
    shuffled: bool,
}

fn answers(args: &ScoreArgs) -> Result<Vec<(String, String)>> {
    let found: Vec<Given> = match args.benchmark {
        BenchmarkArg::Gqa => whole(&args.answers)?,
        BenchmarkArg::Diptych | BenchmarkArg::Pope => lines(&args.answers)?,
    };
    let given = found.into_iter().filter(|given| !given.shuffled);
    Ok(given
        .map(|given| (id_of(&given.question_id), given.text))
        .collect())
}

/// An id, which some files write as a number.
fn id_of(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

fn text(file: &Path) -> Result<String> {
    let cannot = || format!("cannot read {}", file.display());
    let size_bytes = std::fs::metadata(file).with_context(cannot)?.len();
    ensure!(
        size_bytes <= MAX_FILE_BYTES,
        "{} has {size_bytes} bytes; at most {MAX_FILE_BYTES} are read",
        file.display()
    );
    std::fs::read_to_string(file).with_context(cannot)
}

fn whole<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let found = serde_json::from_str(&text(file)?);
    found.with_context(|| format!("{} is not what the benchmark publishes", file.display()))
}

fn lines<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>> {
    let text = text(file)?;
    let lines = (1..).zip(text.lines());
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(number, line): (u64, _)| {
        let found = serde_json::from_str(line);
        found.with_context(|| format!("{}: line {number}", file.display()))
    });
    parsed.collect()
}
