//! `diptych eval`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use proto::eval::v1::{BenchmarkRef, Candidate, EvaluationSpec, benchmark_ref, candidate};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{BadInput, Session, make_folder};
use crate::{
    cli::EvalArgs,
    experiment::verdict,
    files,
    jobs::{self, artefact},
    progress::Progress,
    scores::Scores,
    suite::{Needs, ServiceName},
    toml_file,
};

/// `spec.toml`: who is compared on what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    /// Models by the name they have in the results; the first in this order is the baseline.
    candidates: toml::Table,
    /// Benchmarks by the name they have in the results.
    benchmarks: BTreeMap<String, String>,
    #[serde(default)]
    questions_per_ability: u32,
    #[serde(default)]
    resamples: u32,
    #[serde(default)]
    seed: u64,
}

pub(super) async fn execute(args: EvalArgs, session: &Session) -> Result<()> {
    let EvalArgs { spec, out } = args;
    let (spec, mut roots) = build(&spec, &out).map_err(|error| error.context(BadInput))?;
    roots.push(std::path::absolute(&out)?);
    roots.push(session.assets.root().to_path_buf());
    make_folder(&out)?;
    let needs = Needs {
        artefact_roots: roots,
        ..Needs::services(&[ServiceName::Eval])
    };
    let suite = session.open(&needs).await?;
    let progress = Progress::start("evaluation", 0);
    let request_id = request_id(&spec);
    let result = jobs::evaluate(&suite, &request_id, spec, |now| {
        progress.set(now.done_question_count, now.question_count, "questions");
    })
    .await;
    suite.close().await?;
    let scores = Scores::from(&result?);
    files::write_json(&out.join("eval.json"), &scores)?;
    progress.finish(&verdict(&scores));
    session.say(&scores, &table(&scores))
}

fn request_id(spec: &EvaluationSpec) -> String {
    let digest = Sha256::digest(prost::Message::encode_to_vec(spec));
    let hex: String = digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("eval-{hex}")
}

fn table(scores: &Scores) -> String {
    let mut lines = vec![format!(
        "{:<14} {:<20} {:<12} {:>5}  accuracy (95 % interval)   shuffled",
        "benchmark", "candidate", "ability", "n"
    )];
    for row in &scores.accuracy {
        let shuffled = row.shuffled.map_or_else(
            || "-".to_owned(),
            |shuffled| format!("{:5.1}", 100.0 * shuffled.mean),
        );
        lines.push(format!(
            "{:<14} {:<20} {:<12} {:>5}  {:5.1} ({:5.1} to {:5.1})     {shuffled}",
            row.benchmark,
            row.candidate,
            row.ability,
            row.questions,
            100.0 * row.accuracy.mean,
            100.0 * row.accuracy.low,
            100.0 * row.accuracy.high
        ));
    }
    lines.join("\n")
}

fn build(path: &Path, out: &Path) -> Result<(EvaluationSpec, Vec<PathBuf>)> {
    let file: SpecFile = toml_file::read(path, "evaluation spec")?;
    ensure!(!file.candidates.is_empty(), "`candidates` names no model");
    ensure!(
        !file.benchmarks.is_empty(),
        "`benchmarks` names no benchmark"
    );
    let mut roots = Vec::new();
    let mut candidates = Vec::new();
    for (name, model) in file.candidates {
        let model = model
            .as_str()
            .with_context(|| format!("`candidates.{name}` is not a text"))?
            .to_owned();
        let model = match model.strip_prefix("builtin:") {
            Some(_) => candidate::Model::ModelName(model),
            None => {
                roots.push(std::path::absolute(&model)?);
                candidate::Model::Checkpoint(artefact(Path::new(&model), true)?)
            }
        };
        candidates.push(Candidate {
            name,
            model: Some(model),
            replicas: Vec::new(),
        });
    }
    let mut benchmarks = Vec::new();
    for (name, place) in file.benchmarks {
        let location = match place.strip_prefix("builtin:") {
            Some(_) => benchmark_ref::Location::Builtin(place),
            None => {
                roots.push(std::path::absolute(&place)?);
                benchmark_ref::Location::Folder(artefact(Path::new(&place), true)?)
            }
        };
        benchmarks.push(BenchmarkRef {
            name,
            location: Some(location),
        });
    }
    let spec = EvaluationSpec {
        candidates,
        benchmarks,
        question_limit_per_ability: file.questions_per_ability,
        resample_count: file.resamples,
        seed: file.seed,
        output: Some(artefact(out, true)?),
        ..EvaluationSpec::default()
    };
    Ok((spec, roots))
}
