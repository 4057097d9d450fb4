//! `diptych score`: answers that are there already, held against what is right; no model is asked.
//!
//! * `files`: answers and references in the layouts that benchmarks publish.
//! * `official`: the rules of published scorers.

mod files;
mod official;

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use proto::eval::v1::{BenchmarkQuestion, ScoreAnswersRequest, ScoredAnswer};
use serde::Serialize;

use self::files::{Asked, Sheet};
use super::{BadInput, Session};
use crate::{
    bad_input::complaint,
    progress::warn,
    suite::{Needs, ServiceName, Suite},
};

/// Arguments of `score`.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// Whose files they are.
    #[arg(long, value_enum, value_name = "B")]
    pub benchmark: BenchmarkArg,
    /// Answers: for `diptych` and `pope` lines of {"question_id", "text"}, for `gqa` a list of
    /// {"questionId", "prediction"}.
    #[arg(long, value_name = "FILE")]
    pub answers: PathBuf,
    /// What is right: for `diptych` a questions.jsonl, a folder with one, or a built-in name; for `pope`
    /// a coco_pope_*.json; for `gqa` a *_questions.json.
    #[arg(long, value_name = "FILE")]
    pub reference: String,
    /// By which rules.
    #[arg(long, value_enum, default_value_t = ScoreMode::Robust)]
    pub mode: ScoreMode,
}

/// Benchmarks whose files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchmarkArg {
    /// A benchmark of this suite.
    Diptych,
    /// POPE (arXiv 2305.10355).
    Pope,
    /// GQA (arXiv 1902.09506).
    Gqa,
}

/// Rules of scoring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScoreMode {
    /// The published scorer's, with all its habits: for POPE whatever does not say no says yes, for GQA
    /// every letter counts.
    Official,
    /// The eval service's: whole words, simple plurals, and what answers neither way is wrong.
    Robust,
}

/// What the answers came to.
#[derive(Debug, Serialize)]
struct Outcome {
    /// By ability, where the benchmark names some; `all` is all of them.
    accuracy: BTreeMap<String, Share>,
    /// Questions without an answer: wrong, and by POPE's own rules a yes.
    unanswered: u64,
    /// POPE's own measures, by its own rules only.
    #[serde(skip_serializing_if = "Option::is_none")]
    yes_no: Option<official::YesNo>,
}

/// How many were right.
#[derive(Debug, Default, Serialize)]
struct Share {
    questions: u64,
    right: u64,
    /// Right of all, 0 to 1.
    accuracy: f64,
}

pub(super) async fn execute(args: ScoreArgs, session: &Session) -> Result<()> {
    let sheet = files::read(&args, &session.assets).map_err(|error| error.context(BadInput))?;
    let (right, yes_no) = match (args.mode, args.benchmark) {
        (ScoreMode::Official, BenchmarkArg::Pope) => {
            let (right, measures) = official::pope(&sheet);
            (right, Some(measures))
        }
        (ScoreMode::Official, BenchmarkArg::Gqa) => (official::gqa(&sheet), None),
        (ScoreMode::Official, BenchmarkArg::Diptych) => {
            let none = anyhow::anyhow!(
                "`diptych` has no published scorer beside the suite's own: leave --mode official out"
            );
            return Err(none.context(BadInput));
        }
        (ScoreMode::Robust, _) => (robust(&sheet, session).await?, None),
    };
    let outcome = outcome(&sheet, &right, yes_no);
    if outcome.unanswered > 0 {
        let count_as = match outcome.yes_no {
            Some(_) => "are read as yes, as the published script reads an empty answer",
            None => "count as wrong",
        };
        warn(&format!(
            "{} of {} questions have no answer and {count_as}",
            outcome.unanswered,
            sheet.asked.len()
        ));
    }
    session.say(&outcome, &table(&outcome))
}

/// Answers in one call to the service.
const ANSWERS_PER_CALL: usize = 1_000;

/// Which answers are right by the eval service's rules, in the order of the questions.
async fn robust(sheet: &Sheet, session: &Session) -> Result<Vec<bool>> {
    let needs = Needs::services(&[ServiceName::Eval]);
    let suite = session.open(&needs).await?;
    let scored = async {
        let mut right = Vec::with_capacity(sheet.asked.len());
        for asked in sheet.asked.chunks(ANSWERS_PER_CALL) {
            right.extend(ask(&suite, sheet, asked).await?);
        }
        Ok(right)
    };
    let scored = scored.await;
    suite.close().await?;
    scored
}

async fn ask(suite: &Suite, sheet: &Sheet, asked: &[Asked]) -> Result<Vec<bool>> {
    let answer = |asked: &Asked| ScoredAnswer {
        question_id: asked.id.clone(),
        text: sheet.answer(asked).to_owned(),
        ..ScoredAnswer::default()
    };
    let request = ScoreAnswersRequest {
        answers: asked.iter().map(answer).collect(),
        questions: asked.iter().map(BenchmarkQuestion::from).collect(),
    };
    let reply = suite.eval.clone().score_answers(request).await;
    let answers = reply
        .map_err(|status| complaint(&status))?
        .into_inner()
        .answers;
    ensure!(
        answers.len() == asked.len(),
        "the eval service scored {} of {} answers",
        answers.len(),
        asked.len()
    );
    Ok(answers.iter().map(|answer| answer.score >= 0.5).collect())
}

fn outcome(sheet: &Sheet, right: &[bool], yes_no: Option<official::YesNo>) -> Outcome {
    let mut accuracy: BTreeMap<String, Share> = BTreeMap::new();
    for (asked, &is_right) in sheet.asked.iter().zip(right) {
        let own = Some(&asked.ability).filter(|ability| !ability.is_empty());
        for name in own.map(String::as_str).into_iter().chain(["all"]) {
            let share = accuracy.entry(name.to_owned()).or_default();
            share.questions += 1;
            share.right += u64::from(is_right);
        }
    }
    for share in accuracy.values_mut() {
        share.accuracy = share.right as f64 / share.questions.max(1) as f64;
    }
    let unanswered = sheet.asked.iter().filter(|asked| !sheet.has_answer(asked));
    Outcome {
        accuracy,
        unanswered: unanswered.count() as u64,
        yes_no,
    }
}

fn table(outcome: &Outcome) -> String {
    let mut lines = vec![format!(
        "{:<24} {:>9} {:>9}",
        "ability", "questions", "right"
    )];
    // What stands for all comes last.
    let (all, own): (Vec<_>, Vec<_>) = outcome
        .accuracy
        .iter()
        .partition(|(name, _)| *name == "all");
    for (name, share) in own.into_iter().chain(all) {
        lines.push(format!(
            "{name:<24} {:>9} {:>8.1}%",
            share.questions,
            100.0 * share.accuracy
        ));
    }
    if let Some(measures) = &outcome.yes_no {
        lines.push(format!(
            "precision {:.4}, recall {:.4}, F1 {:.4}, yes {:.1} %",
            measures.precision,
            measures.recall,
            measures.f1,
            100.0 * measures.yes_share
        ));
    }
    lines.join("\n")
}
