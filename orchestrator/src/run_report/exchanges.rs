//! Questions of a run's benchmarks, with what every arm answered.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::BenchmarkFolders;
use crate::{
    experiment::RunFolder,
    files,
    report::{Exchange, GivenAnswer, Picture},
};

/// Questions shown per benchmark and ability.
const EXCHANGES_PER_ABILITY: usize = 1;

/// One line of a benchmark's `questions.jsonl`.
#[derive(Deserialize)]
struct Question {
    question_id: String,
    ability: String,
    image: String,
    text: String,
    answers: Vec<String>,
}

/// One line of the evaluation's `answers.jsonl`.
#[derive(Deserialize)]
struct Answer {
    benchmark: String,
    question_id: String,
    candidate: String,
    text: String,
    score: f64,
    shuffled: bool,
    #[serde(default)]
    replica: u32,
}

/// The first questions of each benchmark and ability with what every arm said, those on which the
/// arms differ before the others.
pub(super) fn first_ones(
    folder: &RunFolder,
    benchmarks: &BenchmarkFolders,
) -> Result<Vec<Exchange>> {
    let mut given: BTreeMap<(String, String), Vec<GivenAnswer>> = BTreeMap::new();
    for answer in files::read_json_lines::<Answer>(&folder.evaluation().join("answers.jsonl"))? {
        if !answer.shuffled && answer.replica == 0 {
            let right = answer.score > 0.5;
            let given = given
                .entry((answer.benchmark, answer.question_id))
                .or_default();
            given.push(GivenAnswer {
                arm: answer.candidate,
                text: answer.text,
                right,
            });
        }
    }
    let mut shown = Vec::new();
    for (benchmark, place) in benchmarks {
        let mut questions = files::read_json_lines::<Question>(&place.join("questions.jsonl"))?;
        questions.retain(|question| {
            given.contains_key(&(benchmark.clone(), question.question_id.clone()))
        });
        let differ = |question: &Question| {
            let answers = &given[&(benchmark.clone(), question.question_id.clone())];
            answers.iter().any(|answer| answer.right) && answers.iter().any(|answer| !answer.right)
        };
        // Stable: those on which the arms differ come first, else the file's order stays.
        questions.sort_by_key(|question| !differ(question));
        let mut per_ability: BTreeMap<String, usize> = BTreeMap::new();
        for question in questions {
            let count = per_ability.entry(question.ability.clone()).or_default();
            if *count < EXCHANGES_PER_ABILITY {
                *count += 1;
                let answers = given[&(benchmark.clone(), question.question_id.clone())].clone();
                shown.push(exchange(benchmark, place, question, answers)?);
            }
        }
    }
    Ok(shown)
}

fn exchange(
    benchmark: &str,
    place: &Path,
    question: Question,
    answers: Vec<GivenAnswer>,
) -> Result<Exchange> {
    let path = place.join(&question.image);
    let data = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let format =
        image::guess_format(&data).with_context(|| format!("{} is no picture", path.display()))?;
    let picture = Picture {
        media_type: format.to_mime_type().to_owned(),
        data,
        width_px: 0,
        alt: format!("picture to the question “{}”", question.text),
    };
    Ok(Exchange {
        benchmark: benchmark.to_owned(),
        ability: question.ability,
        picture,
        question: question.text,
        accepted_answers: question.answers,
        answers,
    })
}
