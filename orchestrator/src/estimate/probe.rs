//! The timed probe: a little of every step.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use anyhow::{Context as _, Result};
use dataset::store::Location;
use proto::{
    dataset::v1::Artefact,
    eval::v1::{BenchmarkRef, Candidate, EvaluationSpec, candidate},
    trainer::v1::{DataSource, StageKind, TrainingSpec, TrainingStage, data_source, training_spec},
};

use super::{Rates, price};
use crate::{
    assets::Assets,
    experiment::parts,
    jobs::{self, Errand, artefact},
    recipe::{Eval, Recipe, Train},
    suite::Suite,
    synth::{self, Plan, Share, Watcher},
};

/// Abilities and samples of each that the probe makes.
const PROBE_ABILITIES: usize = 3;
const PROBE_SAMPLES: u64 = 16;
/// Optimizer steps of a probed stage; the first is left out of the timing.
const PROBE_STEPS: u32 = 9;
/// Questions per ability of the shorter and of the longer probed evaluation; more than twice as many.
const PROBE_QUESTIONS: [u32; 2] = [1, 5];

/// Measures a recipe's rates in `folder`, which the caller throws away.
///
/// # Errors
/// A step that fails; it would fail in the run too.
pub async fn measure(
    suite: &Suite,
    assets: &Assets,
    recipe: &Recipe,
    folder: &Path,
) -> Result<Rates> {
    let mut probe = Probe {
        suite,
        assets,
        recipe,
        folder,
        rates: Rates::default(),
    };
    probe.synthesis().await?;
    if let Some(train) = &recipe.train {
        let trained = probe.training(train).await?;
        if let Some(eval) = &recipe.eval {
            probe.evaluation(eval, &trained).await?;
        }
    }
    Ok(probe.rates)
}

struct Probe<'a> {
    suite: &'a Suite,
    assets: &'a Assets,
    recipe: &'a Recipe,
    folder: &'a Path,
    rates: Rates,
}

/// A probed training: time per step, time of the rest, and the model.
struct Trained {
    step: f64,
    rest: f64,
    model: Artefact,
}

impl Probe<'_> {
    async fn synthesis(&mut self) -> Result<()> {
        // What is loaded and cached by the first call is not of a sample's price.
        self.make_samples("warm-up", 1, 1).await?;
        let begun = Instant::now();
        let (summary, images) = self
            .make_samples("dataset", PROBE_ABILITIES, PROBE_SAMPLES)
            .await?;
        let seconds = begun.elapsed().as_secs_f64();
        let accepted = summary.accepted.max(1) as f64;
        let attempts = images as f64 / f64::from(self.recipe.synth.seeds_per_prompt);
        self.rates.sample = seconds / accepted;
        self.rates.attempts_per_sample = attempts / accepted;
        self.rates.price = price::read(&self.dataset()).await?;
        self.rates.bytes_per_sample = size_bytes(&self.dataset())? as f64 / accepted;
        Ok(())
    }

    fn dataset(&self) -> PathBuf {
        self.folder.join("dataset")
    }

    async fn make_samples(
        &self,
        name: &str,
        abilities: usize,
        samples: u64,
    ) -> Result<(synth::Summary, u64)> {
        let mut plan = Plan::training(self.recipe).with_evaluation_sets(self.assets)?;
        let counts = plan.wanted.sample_counts.iter();
        let counts = counts.map(|(name, &count)| (name.clone(), count.min(samples)));
        plan.wanted.sample_counts = counts.take(abilities).collect();
        let watcher = Counting::default();
        let place = Location::Folder(self.folder.join(name));
        let summary = synth::synthesize(self.suite, &plan, &place, Share::ALL, &watcher).await?;
        Ok((summary, watcher.images.into_inner()))
    }

    async fn training(&mut self, train: &Train) -> Result<Artefact> {
        let base = vec![parts::base_source(train, 1.0)?];
        let align = |name| {
            let stage = parts::stage(name, StageKind::Alignment, &train.align, base.clone());
            (name, stage)
        };
        let model = parts::base_model(&train.model)?;
        // The same pictures twice: the second time the tower has seen them.
        let cold = self.train(align("align"), model.clone()).await?;
        let warm = self.train(align("align-again"), model).await?;
        let batch = f64::from(train.align.batch_size);
        self.rates.new_picture = ((cold.step - warm.step) / batch).max(0.0);
        self.rates.align_step = warm.step;
        self.rates.job = warm.rest;
        self.rates.base_pictures = parts::base_sample_count(train, self.assets)? as f64;

        let aligned = training_spec::Base::BaseCheckpoint(warm.model);
        let instruct = |name, data| {
            let stage = parts::stage(name, StageKind::Instruction, &train.instruct, data);
            (name, stage)
        };
        // Twice again, since these pictures are others.
        self.train(instruct("base", base.clone()), aligned.clone())
            .await?;
        let on_base = self
            .train(instruct("base-again", base), aligned.clone())
            .await?;
        let mixed = || -> Result<Vec<DataSource>> {
            let synthetic = DataSource {
                name: "synthetic".to_owned(),
                location: Some(data_source::Location::Dataset(artefact(
                    &self.dataset(),
                    true,
                )?)),
                weight: train.synthetic_share,
                ..DataSource::default()
            };
            Ok(vec![
                parts::base_source(train, 1.0 - train.synthetic_share)?,
                synthetic,
            ])
        };
        let mixed = mixed()?;
        self.train(instruct("mixed", mixed.clone()), aligned.clone())
            .await?;
        let on_both = self.train(instruct("mixed-again", mixed), aligned).await?;
        self.rates.base_step = on_base.step;
        self.rates.synthetic_step = on_both.step;
        self.rates.bytes_per_training = size_bytes(&self.folder.join("mixed-again"))? as f64;
        Ok(on_both.model)
    }

    async fn train(
        &self,
        (name, stage): (&str, TrainingStage),
        base: training_spec::Base,
    ) -> Result<Trained> {
        let output = self.folder.join(name);
        let spec = TrainingSpec {
            base: Some(base),
            stages: vec![TrainingStage {
                name: "probe".to_owned(),
                step_count: PROBE_STEPS,
                ..stage
            }],
            seed: self.recipe.seed,
            output: Some(artefact(&output, true)?),
            ..TrainingSpec::default()
        };
        let times: RefCell<Vec<(u32, Instant)>> = RefCell::default();
        let begun = Instant::now();
        let errand = self.errand(name, output.join("outcome.json"));
        let result = jobs::train(self.suite, &errand, spec, |now| {
            if now.done_step_count > 0 {
                times
                    .borrow_mut()
                    .push((now.done_step_count, Instant::now()));
            }
        })
        .await
        .with_context(|| format!("probing training: {name}"))?;
        let whole = begun.elapsed().as_secs_f64();
        let times = times.into_inner();
        let step = match (times.first(), times.last()) {
            (Some((first, at)), Some((last, end))) if last > first => {
                (*end - *at).as_secs_f64() / f64::from(last - first)
            }
            _ => whole / f64::from(PROBE_STEPS),
        };
        Ok(Trained {
            step,
            rest: (whole - step * f64::from(PROBE_STEPS)).max(0.0),
            model: result.model.context("the trainer named no model")?,
        })
    }

    async fn evaluation(&mut self, eval: &Eval, model: &Artefact) -> Result<()> {
        let mut measured = Vec::new();
        for questions in PROBE_QUESTIONS {
            measured.push(self.evaluate(eval, model, questions).await?);
        }
        let [(few, short), (many, long)] = measured[..] else {
            return Ok(());
        };
        // The longer one finds the answers of the shorter one in the cache, and asks the rest.
        let more = many - 2.0 * few;
        self.rates.question = ((long - short) / more.max(1.0)).max(0.0);
        self.rates.evaluation = (short - few * self.rates.question).max(0.0);
        Ok(())
    }

    /// Answers asked for, and seconds.
    async fn evaluate(&self, eval: &Eval, model: &Artefact, questions: u32) -> Result<(f64, f64)> {
        let name = format!("eval-{questions}");
        let output = self.folder.join(&name);
        let spec = EvaluationSpec {
            candidates: vec![Candidate {
                name: "probe".to_owned(),
                model: Some(candidate::Model::Checkpoint(model.clone())),
                replicas: Vec::new(),
            }],
            benchmarks: vec![BenchmarkRef {
                name: "real".to_owned(),
                location: Some(parts::benchmark_location(&eval.real_benchmark)?),
            }],
            question_limit_per_ability: questions,
            resample_count: eval.resamples,
            seed: self.recipe.seed,
            output: Some(artefact(&output, true)?),
            ..EvaluationSpec::default()
        };
        let asked = AtomicU64::new(0);
        let begun = Instant::now();
        let errand = self.errand(&name, output.join("results.json"));
        jobs::evaluate(self.suite, &errand, spec, |now| {
            asked.store(now.question_count, Ordering::Relaxed);
        })
        .await
        .context("probing the evaluation")?;
        Ok((asked.into_inner() as f64, begun.elapsed().as_secs_f64()))
    }

    fn errand(&self, name: &str, leaves: PathBuf) -> Errand {
        Errand {
            name: name.to_owned(),
            inputs: Vec::new(),
            leaves,
        }
    }
}

/// Counts the pictures.
#[derive(Debug, Default)]
struct Counting {
    images: AtomicU64,
}

impl Watcher for Counting {
    fn image_done(&self) {
        self.images.fetch_add(1, Ordering::Relaxed);
    }

    fn sample_accepted(&self) {}
}

/// Bytes of all files under a folder.
fn size_bytes(folder: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let (path, metadata) = {
            let entry = entry?;
            (entry.path(), entry.metadata()?)
        };
        total += match metadata.is_dir() {
            true => size_bytes(&path)?,
            false => metadata.len(),
        };
    }
    Ok(total)
}
