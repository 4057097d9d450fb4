//! The third step: questions about pictures of held-out prompts.

use std::time::Instant;

use anyhow::{Context as _, Result};
use dataset::store::Location;
use proto::{dataset::v1::Artefact, eval::v1::BenchmarkSpec};

use super::{Run, synthesize_with_progress};
use crate::{
    jobs::{self, artefact},
    suite::ServiceName,
    synth::{Plan, Share},
};

impl Run<'_> {
    pub(super) async fn make_benchmark(&mut self) -> Result<()> {
        let Some(eval) = &self.recipe.eval else {
            return Ok(());
        };
        if self.folder.benchmark().join("questions.jsonl").exists() {
            return Ok(());
        }
        let started_at = Instant::now();
        let plan = Plan::benchmark(self.recipe, eval.generated_images_per_ability)
            .with_evaluation_sets(self.assets)?;
        let held_out = self.folder.held_out();
        self.record.held_out = synthesize_with_progress(
            self.suite,
            &plan,
            &Location::Folder(held_out.clone()),
            Share::ALL,
            "held-out pictures",
        )
        .await?;
        let training_data = self.training_data()?;
        let spec = BenchmarkSpec {
            source: Some(artefact(&held_out, true)?),
            training_data,
            questions_per_ability: eval.questions_per_ability,
            seed: self.recipe.seed,
            output: Some(artefact(&self.folder.benchmark(), true)?),
        };
        let errand = self.errand("benchmark", self.folder.benchmark().join("questions.jsonl"));
        let result = jobs::make_benchmark(self.suite, &errand, spec)
            .await
            .context("making the benchmark")?;
        tracing::info!(
            questions = result.question_count,
            overlapping = result.overlapping_sample_count,
            "made the benchmark"
        );
        self.finish_step("benchmark", started_at)
    }

    /// Folders of all that the models are trained on, for the overlap check. Data of another layout,
    /// and built-in data of a service elsewhere, are noted as not checked.
    fn training_data(&mut self) -> Result<Vec<Artefact>> {
        let mut folders = vec![artefact(&self.folder.dataset(), true)?];
        let base = self
            .recipe
            .train
            .as_ref()
            .map(|train| train.base_data.as_str());
        match base {
            Some("builtin:nano-base") if self.suite.is_embedded(ServiceName::Eval) => {
                folders.push(artefact(&self.assets.base_data(), true)?);
            }
            Some(base) => self.record.overlap_not_checked = vec![base.to_owned()],
            None => {}
        }
        Ok(folders)
    }
}
