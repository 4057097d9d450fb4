//! The last step: every run answers both benchmarks.

use std::time::Instant;

use anyhow::{Context as _, Result};
use proto::eval::v1::{BenchmarkRef, Candidate, EvaluationSpec, benchmark_ref, candidate};

use super::{RUNS, Run, parts::benchmark_location, run_name};
use crate::{
    files,
    jobs::{self, artefact},
    progress::Progress,
    recipe::Train,
    scores::Scores,
};

impl Run<'_> {
    pub(super) async fn evaluate(&mut self) -> Result<()> {
        let (Some(eval), Some(train)) = (&self.recipe.eval, &self.recipe.train) else {
            return Ok(());
        };
        if self.folder.scores().exists() {
            return Ok(());
        }
        let started_at = Instant::now();
        let mut candidates = Vec::new();
        for run in RUNS {
            candidates.push(self.candidate(train, run)?);
        }
        let spec = EvaluationSpec {
            candidates,
            benchmarks: vec![
                benchmark(
                    "ai_generated",
                    benchmark_ref::Location::Folder(artefact(&self.folder.benchmark(), true)?),
                ),
                benchmark("real", benchmark_location(&eval.real_benchmark)?),
            ],
            question_limit_per_ability: eval.questions_per_ability,
            resample_count: eval.resamples,
            seed: self.recipe.seed,
            output: Some(artefact(&self.folder.evaluation(), true)?),
            ..EvaluationSpec::default()
        };
        let progress = Progress::start("evaluation", 0);
        let errand = self.errand("eval", self.folder.evaluation().join("results.json"));
        let result = jobs::evaluate(self.suite, &errand, spec, |now| {
            progress.set(now.done_question_count, now.question_count, "questions");
        })
        .await
        .context("evaluation")?;
        let scores = Scores::from(&result);
        files::write_json(&self.folder.scores(), &scores)?;
        progress.finish(&verdict(&scores));
        self.finish_step("evaluation", started_at)
    }

    fn candidate(&self, train: &Train, run: &str) -> Result<Candidate> {
        let mut checkpoints = Vec::new();
        for &seed in &train.seeds {
            let name = run_name(run, &train.seeds, seed);
            let trained = self.trained(&name)?;
            checkpoints.push(
                trained
                    .with_context(|| format!("training {name} left no result"))?
                    .reference(),
            );
        }
        let first = checkpoints.remove(0);
        Ok(Candidate {
            name: run.to_owned(),
            model: Some(candidate::Model::Checkpoint(first)),
            replicas: checkpoints,
        })
    }
}

/// One sentence on what the synthesized data was worth.
pub fn verdict(scores: &Scores) -> String {
    let sentence = |benchmark: &str| {
        let gain = scores.gain(benchmark, "all", "synthetic", "control")?;
        Some(format!(
            "{benchmark}: {:+.1} points over control (95 % interval {:+.1} to {:+.1})",
            100.0 * gain.gain.mean,
            100.0 * gain.gain.low,
            100.0 * gain.gain.high
        ))
    };
    ["ai_generated", "real"]
        .into_iter()
        .filter_map(sentence)
        .collect::<Vec<_>>()
        .join("; ")
}

fn benchmark(name: &str, location: benchmark_ref::Location) -> BenchmarkRef {
    BenchmarkRef {
        name: name.to_owned(),
        location: Some(location),
    }
}
