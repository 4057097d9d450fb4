//! `diptych eval`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use proto::{
    dataset::v1::Artefact,
    eval::v1::{BenchmarkRef, Candidate, EvaluationSpec, benchmark_ref, candidate},
};
use serde::Deserialize;

use super::{BadInput, Session, make_folder};
use crate::{
    cli::EvalArgs,
    files,
    jobs::{self, Errand, artefact},
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
    let text = std::fs::read_to_string(&spec).unwrap_or_default();
    let (spec, inputs) = build(&spec, &out).map_err(|error| error.context(BadInput))?;
    claim(&out, &text)?;
    let errand = Errand {
        name: "eval".to_owned(),
        leaves: out.join("results.json"),
        inputs: inputs.clone(),
    };
    // The service keeps its records under the first root.
    let roots = [
        std::path::absolute(&out)?,
        session.assets.root().to_path_buf(),
    ];
    let roots = roots.into_iter().chain(inputs).collect();
    let needs = Needs {
        artefact_roots: roots,
        ..Needs::services(&[ServiceName::Eval])
    };
    let suite = session.open(&needs).await?;
    let progress = Progress::start("evaluation", 0);
    let result = jobs::evaluate(&suite, &errand, spec, |now| {
        progress.set(now.done_question_count, now.question_count, "questions");
    })
    .await;
    suite.close().await?;
    let scores = Scores::from(&result?);
    files::write_json(&out.join("eval.json"), &scores)?;
    progress.finish(&summary(&scores));
    session.say(&scores, &table(&scores))
}

/// Name of the copy of the spec beside the results that came of it.
const SPEC_COPY: &str = "evaluated.toml";

/// Makes the folder of the results, or takes one that holds results of the same spec: those of
/// another one stay.
fn claim(out: &Path, text: &str) -> Result<()> {
    make_folder(out)?;
    let copy = out.join(SPEC_COPY);
    let results = ["results.json", "eval.json"].map(|name| out.join(name));
    if results.iter().any(|file| file.exists()) {
        let parsed = |text: &str| text.parse::<toml::Table>().ok();
        let theirs = std::fs::read_to_string(&copy).ok();
        let is_same = theirs.is_some_and(|theirs| parsed(&theirs) == parsed(text));
        let is_ours = || -> Result<()> {
            ensure!(
                is_same,
                "{} holds the results of another evaluation ({SPEC_COPY} there says of which): choose another --out, or remove the folder",
                out.display()
            );
            Ok(())
        };
        is_ours().context(BadInput)?;
    }
    files::write(&copy, text.as_bytes())
}

/// The overall accuracies, one candidate after another.
fn summary(scores: &Scores) -> String {
    let overall = scores.accuracy.iter().filter(|row| row.ability == "all");
    let sentences = overall.map(|row| {
        let percent = 100.0 * row.accuracy.mean;
        format!("{} {percent:.1} % on {}", row.candidate, row.benchmark)
    });
    sentences.collect::<Vec<_>>().join(", ")
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
    if !scores.gains.is_empty() {
        lines.push(format!(
            "\n{:<14} {:<32} {:<12}  difference (95 % interval)   p (Holm)",
            "benchmark", "candidate − reference", "ability"
        ));
    }
    for row in &scores.gains {
        lines.push(format!(
            "{:<14} {:<32} {:<12}  {:+5.1} ({:+5.1} to {:+5.1})     {:.3}",
            row.benchmark,
            format!("{} − {}", row.candidate, row.reference),
            row.ability,
            100.0 * row.gain.mean,
            100.0 * row.gain.low,
            100.0 * row.gain.high,
            row.p_holm
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
    let mut inputs = Vec::new();
    let mut candidates = Vec::new();
    for (name, model) in file.candidates {
        let model = model
            .as_str()
            .with_context(|| format!("`candidates.{name}` is not a text"))?
            .to_owned();
        let model = match model.strip_prefix("builtin:") {
            Some(_) => candidate::Model::ModelName(model),
            None => candidate::Model::Checkpoint(folder(&model, &mut inputs)?),
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
            None => benchmark_ref::Location::Folder(folder(&place, &mut inputs)?),
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
    Ok((spec, inputs))
}

/// A folder of this machine, noted among the inputs.
fn folder(path: &str, inputs: &mut Vec<PathBuf>) -> Result<Artefact> {
    let path = Path::new(path);
    ensure!(path.is_dir(), "there is no folder {}", path.display());
    inputs.push(std::path::absolute(path)?);
    artefact(path, true)
}
