//! `diptych run`: prompts, images, dialogues, training with and without them, evaluation,
//! report. Each step leaves its result in the run's folder; a step whose result is there is not
//! done again, so that running again continues and a finished run calls no model.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use proto::{
    dataset::v1::Artefact,
    eval::v1::{BenchmarkRef, BenchmarkSpec, Candidate, EvaluationSpec, benchmark_ref, candidate},
    trainer::v1::{
        DataSource, OptimizerSettings, StageKind, TrainingSpec, TrainingStage, data_source,
        training_spec,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    assets::Assets,
    files, jobs,
    jobs::artefact,
    progress::Progress,
    recipe::{Recipe, Stage, Train},
    scores::Scores,
    suite::{ServiceName, Suite},
    synth::{self, Plan, Share, Summary},
};

/// The folder of a run and where things lie in it.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// The run in `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Synthesized samples.
    pub fn dataset(&self) -> PathBuf {
        self.root.join("dataset")
    }

    /// Held-out samples that the AI-generated benchmark is made from.
    pub fn held_out(&self) -> PathBuf {
        self.root.join("benchmark/dataset")
    }

    /// The AI-generated benchmark.
    pub fn benchmark(&self) -> PathBuf {
        self.root.join("benchmark/ai_generated")
    }

    /// One training run, by [`run_name`].
    pub fn training(&self, name: &str) -> PathBuf {
        self.root.join("train").join(name)
    }

    /// Answers of the models.
    pub fn evaluation(&self) -> PathBuf {
        self.root.join("eval")
    }

    /// Scores.
    pub fn scores(&self) -> PathBuf {
        self.root.join("eval.json")
    }

    /// Report.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// Recipe, versions, hashes and timings.
    pub fn record(&self) -> PathBuf {
        self.root.join("run.json")
    }
}

/// `run.json`: what the run was, beside what it made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    /// Name of the recipe.
    pub name: String,
    /// The recipe, as it was read.
    pub recipe: String,
    /// Hash of the recipe.
    pub recipe_sha256: String,
    /// Version of this program.
    pub version: String,
    /// Hashes of the models by service.
    pub models: BTreeMap<String, String>,
    /// Manifest hash of the dataset.
    pub manifest_sha256: String,
    /// What synthesis came to.
    pub synthesis: Summary,
    /// What making the benchmark's pictures came to.
    pub held_out: Summary,
    /// Seconds that each step took, when it was done.
    pub seconds: BTreeMap<String, f64>,
}

/// A trained model, as `train/<run>/result.json` holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trained {
    /// Where the model lies.
    pub model_uri: String,
    /// Its hash.
    pub model_sha256: String,
    /// Loss of the last step.
    pub final_loss: f64,
    /// Samples skipped since no token was supervised.
    pub skipped_samples: u64,
}

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
pub async fn is_finished(recipe: &Recipe, folder: &RunFolder) -> Result<bool> {
    let Some(record) = files::read_json::<Record>(&folder.record())? else {
        return Ok(false);
    };
    check_same_recipe(recipe, &record, folder)?;
    let plan = Plan::training(recipe);
    let last = if recipe.eval.is_some() {
        folder.scores().exists()
    } else {
        record.synthesis.partitions > 0
    };
    Ok(last && folder.report().exists() && synth::is_complete(&plan, &folder.dataset()).await?)
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
) -> Result<Record> {
    let mut run = Run::open(suite, assets, recipe, recipe_text, folder)?;
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
            check_same_recipe(recipe, record, folder)?;
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

    async fn synthesize(&mut self) -> Result<()> {
        let started_at = Instant::now();
        self.record.models = model_hashes(self.suite).await?;
        let plan = Plan::training(self.recipe).with_evaluation_sets(self.assets)?;
        let summary = synthesize_with_progress(
            self.suite,
            &plan,
            &self.folder.dataset(),
            Share::ALL,
            "synthesis",
        )
        .await?;
        self.record
            .manifest_sha256
            .clone_from(&summary.manifest_sha256);
        self.record.synthesis = summary;
        self.finish_step("synthesis", started_at)
    }

    async fn train_all(&mut self, train: &Train) -> Result<()> {
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
                let base = training_spec::Base::BaseCheckpoint(reference(&aligned));
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
        let request_id = format!("{}-{name}", &self.record.recipe_sha256[..16]);
        let result = jobs::train(self.suite, &request_id, spec, |step| {
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

    fn trained(&self, name: &str) -> Result<Option<Trained>> {
        files::read_json(&self.folder.training(name).join("result.json"))
    }

    async fn make_benchmark(&mut self) -> Result<()> {
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
            &held_out,
            Share::ALL,
            "held-out pictures",
        )
        .await?;
        let spec = BenchmarkSpec {
            source: Some(artefact(&held_out, true)?),
            training_data: self.training_data()?,
            questions_per_ability: eval.questions_per_ability,
            seed: self.recipe.seed,
            output: Some(artefact(&self.folder.benchmark(), true)?),
        };
        let request_id = format!("{}-benchmark", &self.record.recipe_sha256[..16]);
        let result = jobs::make_benchmark(self.suite, &request_id, spec)
            .await
            .context("making the benchmark")?;
        tracing::info!(
            questions = result.question_count,
            overlapping = result.overlapping_sample_count,
            "made the benchmark"
        );
        self.finish_step("benchmark", started_at)
    }

    /// Folders of all that the models are trained on, for the overlap check. Built-in data of a
    /// service elsewhere lies where this process cannot name it.
    fn training_data(&self) -> Result<Vec<Artefact>> {
        let mut folders = vec![artefact(&self.folder.dataset(), true)?];
        let base = self
            .recipe
            .train
            .as_ref()
            .map(|train| train.base_data.as_str());
        if base == Some("builtin:nano-base") && self.suite.is_embedded(ServiceName::Eval) {
            folders.push(artefact(&self.assets.base_data(), true)?);
        }
        Ok(folders)
    }

    async fn evaluate(&mut self) -> Result<()> {
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
        let request_id = format!("{}-eval", &self.record.recipe_sha256[..16]);
        let result = jobs::evaluate(self.suite, &request_id, spec, |now| {
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
            checkpoints.push(reference(
                &self
                    .trained(&name)?
                    .with_context(|| format!("training {name} left no result"))?,
            ));
        }
        let first = checkpoints.remove(0);
        Ok(Candidate {
            name: run.to_owned(),
            model: Some(candidate::Model::Checkpoint(first)),
            replicas: checkpoints,
        })
    }
}

/// Steps between checkpoints: a kill costs less than a minute of training.
const CHECKPOINT_EVERY_STEPS: u32 = 100;

/// Synthesizes with a bar that counts accepted samples.
///
/// # Errors
/// As [`synth::synthesize`].
pub async fn synthesize_with_progress(
    suite: &Suite,
    plan: &Plan,
    out: &Path,
    share: Share,
    name: &str,
) -> Result<Summary> {
    let wanted = synth::wanted(plan, share);
    let present = synth::accepted(plan, out, share).await?;
    let watcher = BarWatcher {
        progress: Progress::start(name, wanted),
        wanted,
        accepted: AtomicU64::new(present),
        images: AtomicU64::new(0),
    };
    let summary = synth::synthesize(suite, plan, out, share, &watcher).await?;
    let rejected: u64 = summary.rejected.values().sum();
    let mut text = format!(
        "{} of {wanted} samples, {rejected} rejected on the way",
        summary.accepted
    );
    if summary.missing > 0 {
        text.push_str(&format!(
            "; {} could not be made within the attempts",
            summary.missing
        ));
    }
    watcher.progress.finish(&text);
    Ok(summary)
}

struct BarWatcher {
    progress: Progress,
    wanted: u64,
    accepted: AtomicU64,
    images: AtomicU64,
}

impl synth::Watcher for BarWatcher {
    fn image_done(&self) {
        let images = self.images.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.set(
            self.accepted.load(Ordering::Relaxed),
            self.wanted,
            format!("accepted, {images} pictures"),
        );
    }

    fn sample_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
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

fn check_same_recipe(recipe: &Recipe, record: &Record, folder: &RunFolder) -> Result<()> {
    ensure!(
        record.recipe_sha256.is_empty() || record.recipe_sha256 == recipe.hash(),
        "{} holds a run of another recipe (`{}`); choose another --out, or delete it",
        folder.root().display(),
        record.name
    );
    Ok(())
}

async fn model_hashes(suite: &Suite) -> Result<BTreeMap<String, String>> {
    let request = proto::diffusion::v1::GetCapabilitiesRequest {};
    let reply = suite.diffusion.clone().get_capabilities(request).await;
    let reply = reply.map_err(|status| anyhow::anyhow!("{}", runtime::explain(&status)))?;
    let models = reply.into_inner().capabilities.unwrap_or_default().models;
    Ok(models
        .into_iter()
        .map(|model| (model.name, model.sha256))
        .collect())
}

fn stage(name: &str, kind: StageKind, settings: &Stage, data: Vec<DataSource>) -> TrainingStage {
    TrainingStage {
        name: name.to_owned(),
        kind: kind.into(),
        data,
        step_count: settings.steps,
        batch_size: settings.batch_size,
        optimizer: Some(OptimizerSettings {
            learning_rate: settings.learning_rate,
            weight_decay: settings.weight_decay,
            warmup_ratio: settings.warmup_ratio,
            ..OptimizerSettings::default()
        }),
        ..TrainingStage::default()
    }
}

fn base_source(train: &Train, weight: f32) -> Result<DataSource> {
    use data_source::Location;
    let location = match train.base_data.strip_prefix("builtin:") {
        Some(_) => Location::Builtin(train.base_data.clone()),
        None => Location::LlavaJson(artefact(Path::new(&train.base_data), false)?),
    };
    Ok(DataSource {
        name: "base".to_owned(),
        location: Some(location),
        weight,
        ..DataSource::default()
    })
}

fn base_model(model: &str) -> Result<training_spec::Base> {
    Ok(match model.strip_prefix("builtin:") {
        Some(_) => training_spec::Base::BaseModel(model.to_owned()),
        None => training_spec::Base::BaseCheckpoint(artefact(Path::new(model), true)?),
    })
}

fn benchmark(name: &str, location: benchmark_ref::Location) -> BenchmarkRef {
    BenchmarkRef {
        name: name.to_owned(),
        location: Some(location),
    }
}

fn benchmark_location(benchmark: &str) -> Result<benchmark_ref::Location> {
    Ok(match benchmark.strip_prefix("builtin:") {
        Some(_) => benchmark_ref::Location::Builtin(benchmark.to_owned()),
        None => benchmark_ref::Location::Folder(artefact(Path::new(benchmark), true)?),
    })
}

fn reference(trained: &Trained) -> Artefact {
    Artefact {
        uri: trained.model_uri.clone(),
        sha256: trained.model_sha256.clone(),
        size_bytes: 0,
    }
}
