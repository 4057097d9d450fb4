//! `diptych run`: prompts, images, dialogues, training with and without them, evaluation,
//! report. Each step leaves its result in the run's folder; a step whose result is there is not
//! done again, so that running again continues and a finished run calls no model.
//!
//! * `folder`: where things lie.
//! * `parts`: parts of a recipe as the services' schemas have them.
//! * `record`: what is written down about the run.
//! * `synthesis`, `training`, `benchmark`, `evaluation`: the steps, in their order.

mod advice;
mod benchmark;
mod evaluation;
mod folder;
pub(crate) mod parts;
mod record;
mod synthesis;
mod training;

use std::{path::PathBuf, time::Instant};

use anyhow::Result;
use dataset::store::Location;

pub use self::{
    evaluation::verdict,
    folder::RunFolder,
    record::{Record, Trained},
    synthesis::{synthesize_with_progress, unchecked_words, warn_of_unchecked},
};
use crate::{
    assets::Assets,
    files,
    jobs::Errand,
    recipe::Recipe,
    suite::Suite,
    synth::{self, Budget, Plan},
};

/// The three runs, in the order in which they are compared.
pub const RUNS: [&str; 3] = ["baseline", "control", "synthetic"];

/// Name of one run's folder: the first seed has the plain name.
pub fn run_name(run: &str, seeds: &[u64], seed: u64) -> String {
    if seeds.first() == Some(&seed) {
        run.to_owned()
    } else {
        format!("{run}.seed{seed}")
    }
}

/// Whether every step of the recipe has left its result.
///
/// # Errors
/// The folder cannot be read, or belongs to another recipe.
pub async fn is_finished(recipe: &Recipe, folder: &RunFolder, assets: &Assets) -> Result<bool> {
    let Some(record) = files::read_json::<Record>(&folder.record())? else {
        return Ok(false);
    };
    record.check_same_recipe(recipe, folder)?;
    let plan = Plan::training(recipe).named_by_sets(assets)?;
    let last = if recipe.eval.is_some() {
        folder.scores().exists()
    } else {
        record.synthesis.partitions > 0
    };
    Ok(last
        && folder.report().exists()
        && synth::is_complete(&plan, &Location::Folder(folder.dataset())).await?)
}

/// Runs what is left of the experiment.
///
/// # Errors
/// One sentence and its causes; what was finished before stays.
pub async fn run(
    suite: &Suite,
    assets: &Assets,
    recipe: &Recipe,
    recipe_text: &str,
    folder: &RunFolder,
    budget: Budget,
) -> Result<Record> {
    let mut run = Run::open(suite, assets, recipe, recipe_text, folder)?;
    run.budget = budget;
    run.synthesize().await?;
    if let Some(train) = &recipe.train {
        run.train_all(train).await?;
    }
    if recipe.eval.is_some() {
        run.make_benchmark().await?;
        run.evaluate().await?;
    }
    Ok(run.record)
}

struct Run<'a> {
    suite: &'a Suite,
    assets: &'a Assets,
    recipe: &'a Recipe,
    folder: &'a RunFolder,
    record: Record,
    /// Cap of the synthesis.
    budget: Budget,
}

impl<'a> Run<'a> {
    fn open(
        suite: &'a Suite,
        assets: &'a Assets,
        recipe: &'a Recipe,
        recipe_text: &str,
        folder: &'a RunFolder,
    ) -> Result<Self> {
        let found = files::read_json::<Record>(&folder.record())?;
        if let Some(record) = &found {
            record.check_same_recipe(recipe, folder)?;
        }
        let record = Record {
            name: recipe.name.clone(),
            recipe: recipe_text.to_owned(),
            recipe_sha256: recipe.hash(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..found.unwrap_or_default()
        };
        let run = Self {
            suite,
            assets,
            recipe,
            folder,
            record,
            budget: Budget::NONE,
        };
        run.save()?;
        Ok(run)
    }

    fn save(&self) -> Result<()> {
        files::write_json(&self.folder.record(), &self.record)
    }

    /// Notes how long a step took; a step done in several sessions adds up.
    fn finish_step(&mut self, step: &str, started_at: Instant) -> Result<()> {
        *self.record.seconds.entry(step.to_owned()).or_default() +=
            started_at.elapsed().as_secs_f64();
        self.save()
    }

    /// The job of one step. What it reads is the run's own or stands in the recipe, whose changes
    /// are refused.
    fn errand(&self, step: &str, leaves: PathBuf) -> Errand {
        Errand {
            name: step.to_owned(),
            inputs: Vec::new(),
            leaves,
        }
    }
}
