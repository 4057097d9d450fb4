//! Scores the answers of an evaluation and writes its files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use runtime::artefact::write_atomic;
use serde::Serialize;

use crate::{
    benchmark::kind_name,
    error::Error,
    evaluation::{Seat, Texts},
    paper::Paper,
    places::Places,
    results::{Outcome, Sat, Sitting, Tables},
    scoring::{Verdict, judge},
    spec::EvaluationSpec,
};

/// One line of `answers.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    benchmark: &'a str,
    question_id: &'a str,
    ability: &'a str,
    kind: String,
    candidate: &'a str,
    replica: usize,
    shuffled: bool,
    /// The picture that was shown.
    image: &'a str,
    question: &'a str,
    accepted: &'a [String],
    text: &'a str,
    score: f64,
    unparsed: bool,
}

/// Scores the answers, and writes `answers.jsonl` and `results.json`.
pub(crate) fn publish(
    places: &Places,
    spec: &EvaluationSpec,
    papers: &[Arc<Paper>],
    answers: Vec<(Seat, Texts)>,
    output: &Path,
) -> Result<Outcome, Error> {
    let mut sittings = vec![vec![Sitting::default(); spec.candidates.len()]; papers.len()];
    let mut lines = String::new();
    for (seat, texts) in &answers {
        let paper = &papers[seat.paper];
        let verdicts: Vec<Verdict> = paper
            .questions()
            .iter()
            .zip(texts)
            .map(|(q, text)| judge(q, text))
            .collect();
        for (question, (text, verdict)) in texts.iter().zip(&verdicts).enumerate() {
            lines.push_str(&line(spec, paper, *seat, question, text, *verdict)?);
        }
        let sitting = &mut sittings[seat.paper][seat.candidate];
        if seat.is_shuffled {
            &mut sitting.shuffled
        } else {
            &mut sitting.own
        }
        .push(verdicts);
    }
    let mut tables = Tables::default();
    for (paper, sittings) in papers.iter().zip(sittings) {
        let (name, questions, pictures) = (paper.name(), paper.questions(), paper.pictures());
        tables.add(
            spec,
            &Sat {
                name,
                questions,
                pictures,
                sittings,
            },
        );
    }
    let file = write(output.join("answers.jsonl"), lines.as_bytes())?;
    let json =
        serde_json::to_vec_pretty(&tables).map_err(|error| Error::Internal(error.to_string()))?;
    write(output.join("results.json"), &json)?;
    Ok(Outcome {
        tables,
        answers: places.roots().describe(&file)?.into(),
    })
}

fn line(
    spec: &EvaluationSpec,
    paper: &Paper,
    seat: Seat,
    index: usize,
    text: &str,
    verdict: Verdict,
) -> Result<String, Error> {
    let question = &paper.questions()[index];
    let line = Line {
        benchmark: paper.name(),
        question_id: &question.question_id,
        ability: &question.ability,
        kind: kind_name(question.kind),
        candidate: &spec.candidates[seat.candidate].name,
        replica: seat.replica,
        shuffled: seat.is_shuffled,
        image: &paper.shown(index, seat.is_shuffled).image,
        question: &question.text,
        accepted: &question.answers,
        text,
        score: verdict.score(),
        unparsed: verdict == Verdict::Unreadable,
    };
    Ok(serde_json::to_string(&line).map_err(|error| Error::Internal(error.to_string()))? + "\n")
}

fn write(path: PathBuf, content: &[u8]) -> Result<PathBuf, Error> {
    write_atomic(&path, content).map_err(Error::io("write", &path))?;
    Ok(path)
}
