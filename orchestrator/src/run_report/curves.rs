//! The losses of a run's trainings.

use anyhow::Result;
use serde::Deserialize;

use crate::{
    experiment::{RUNS, RunFolder, run_name},
    files,
    recipe::Recipe,
    report::{LossPoint, TrainingRun},
};

/// One line of the trainer's `metrics.jsonl`, as far as a curve needs it.
#[derive(Deserialize)]
struct Metric {
    step: u64,
    loss: f64,
}

/// The losses of every training run.
pub(super) fn training_runs(folder: &RunFolder, recipe: &Recipe) -> Result<Vec<TrainingRun>> {
    let Some(train) = &recipe.train else {
        return Ok(Vec::new());
    };
    let mut runs = Vec::new();
    for run in RUNS {
        for &seed in &train.seeds {
            let path = folder
                .training(&run_name(run, &train.seeds, seed))
                .join("metrics.jsonl");
            let points: Vec<LossPoint> = files::read_json_lines::<Metric>(&path)?
                .into_iter()
                .map(|metric| LossPoint {
                    step: metric.step,
                    loss: metric.loss,
                })
                .collect();
            if !points.is_empty() {
                let label = if train.seeds.len() > 1 {
                    format!("seed {seed}")
                } else {
                    String::new()
                };
                runs.push(TrainingRun {
                    arm: run.to_owned(),
                    label,
                    points,
                });
            }
        }
    }
    Ok(runs)
}
