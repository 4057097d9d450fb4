//! The second step: the alignment once per seed, then each run from there.

use std::time::Instant;

use anyhow::{Context as _, Result};
use proto::trainer::v1::{
    DataSource, StageKind, TrainingSpec, TrainingStage, data_source, training_spec,
};

use super::{
    RUNS, Run, Trained,
    parts::{base_model, base_source, stage},
    run_name,
};
use crate::{
    files,
    jobs::{self, artefact},
    progress::Progress,
    recipe::Train,
};

/// Steps between checkpoints: a kill costs less than a minute of training.
const CHECKPOINT_EVERY_STEPS: u32 = 100;

impl Run<'_> {
    pub(super) async fn train_all(&mut self, train: &Train) -> Result<()> {
        for &seed in &train.seeds {
            let align = run_name("align", &train.seeds, seed);
            let stage = stage(
                "align",
                StageKind::Alignment,
                &train.align,
                vec![base_source(train, 0.0)?],
            );
            let base = base_model(&train.model)?;
            self.train_one(&align, base, stage, seed).await?;
            let aligned = self
                .trained(&align)?
                .context("the alignment run left no result")?;
            for run in RUNS {
                let stage = self.instruction_stage(train, run)?;
                let name = run_name(run, &train.seeds, seed);
                let base = training_spec::Base::BaseCheckpoint(aligned.reference());
                self.train_one(&name, base, stage, seed).await?;
            }
        }
        Ok(())
    }

    fn instruction_stage(&self, train: &Train, run: &str) -> Result<TrainingStage> {
        let mut settings = train.instruct.clone();
        let mut data = vec![base_source(train, 1.0 - train.synthetic_share)?];
        match run {
            "baseline" => settings.steps = train.baseline_steps,
            "synthetic" => data.push(DataSource {
                name: "synthetic".to_owned(),
                location: Some(data_source::Location::Dataset(artefact(
                    &self.folder.dataset(),
                    true,
                )?)),
                weight: train.synthetic_share,
                ..DataSource::default()
            }),
            _ => {}
        }
        Ok(stage("instruct", StageKind::Instruction, &settings, data))
    }

    async fn train_one(
        &mut self,
        name: &str,
        base: training_spec::Base,
        stage: TrainingStage,
        seed: u64,
    ) -> Result<()> {
        if self.trained(name)?.is_some() {
            return Ok(());
        }
        let started_at = Instant::now();
        let output = self.folder.training(name);
        let spec = TrainingSpec {
            base: Some(base),
            checkpoint_every_steps: CHECKPOINT_EVERY_STEPS,
            stages: vec![stage],
            seed,
            output: Some(artefact(&output, true)?),
            ..TrainingSpec::default()
        };
        let progress = Progress::start(format!("training {name}"), 0);
        let errand = self.errand(name, output.join("outcome.json"));
        let result = jobs::train(self.suite, &errand, spec, |step| {
            let message = format!(
                "loss {:.3}, {:.0} tokens/s",
                step.loss, step.tokens_per_second
            );
            progress.set(step.done_step_count.into(), step.step_count.into(), message);
        })
        .await
        .with_context(|| format!("training {name}"))?;
        let model = result.model.context("the trainer named no model")?;
        let trained = Trained {
            model_uri: model.uri,
            model_sha256: model.sha256,
            final_loss: result.final_loss,
            skipped_samples: result.skipped_sample_count,
        };
        files::write_json(&output.join("result.json"), &trained)?;
        progress.finish(&format!("last loss {:.3}", trained.final_loss));
        self.finish_step(&format!("train {name}"), started_at)
    }

    /// The result of a training, where it has ended.
    pub(super) fn trained(&self, name: &str) -> Result<Option<Trained>> {
        files::read_json(&self.folder.training(name).join("result.json"))
    }
}
