//! One run from the first step, or from its newest checkpoint, to the exported model.

use std::time::Instant;

use models::llava::{Example, Llava};
use models::optim::{Adamw, accumulate, check_gradients};
use models::parameter::Parameter;
use serde::{Deserialize, Serialize};

use crate::card::{self, Totals};
use crate::checkpoint::{self, Found, Position};
use crate::data::{Prepared, RawSource, StageData, hashes, prepare};
use crate::error::Error;
use crate::features::{FeatureCache, Looker};
use crate::order::Order;
use crate::output::{Logs, Metric, Outcome, Output, Written};
use crate::plan::{Plan, Stage};

/// How far a run is, after one step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// The step.
    pub metric: Metric,
    /// Steps of all stages.
    pub step_count: u64,
    /// Positions per second, pictures included.
    pub tokens_per_second: f64,
    /// Seconds until the end at the present speed.
    pub remaining_seconds: f64,
}

/// Who owns the run and wants to hear of it.
pub(crate) trait Observer {
    /// The owner's turn, from 1.
    fn epoch(&self) -> u64;
    /// Whether the run is no longer wanted.
    fn is_cancelled(&self) -> bool;
    /// Whether this owner may still write.
    fn is_owner(&self) -> bool;
    /// One step was made.
    fn report(&self, progress: Progress);
}

/// Runs a plan in its output folder.
///
/// # Errors
/// All of [`Error`]; after [`Error::Cancelled`] a checkpoint of the last step stands.
pub(crate) fn run(
    plan: &Plan,
    mut sources: Vec<Vec<RawSource>>,
    cache: &FeatureCache,
    observer: &dyn Observer,
) -> Result<Outcome, Error> {
    let output = Output::claim(plan)?;
    let inputs = inputs(plan, &sources)?;
    if let Some(outcome) = output.outcome() {
        same_inputs("its result", &outcome.inputs, &inputs, plan)?;
        return Ok(outcome);
    }
    let mut model = Llava::load(&plan.base)?;
    let tower = model.tower_sha256();
    let found = checkpoint::newest(&output);
    let mut position = match &found {
        None => Position {
            plan_sha256: output.plan_sha256().to_owned(),
            inputs,
            ..Position::default()
        },
        Some(found) => {
            same_inputs("its checkpoint", &found.position.inputs, &inputs, plan)?;
            tracing::info!(step = found.position.step, "going on from a checkpoint");
            found.restore(&mut model)?;
            found.position.clone()
        }
    };
    position.epoch = observer.epoch();
    let logs = output.logs(position.step, observer.epoch())?;
    let mut run = Run {
        plan,
        output,
        cache,
        tower,
        observer,
        position,
        logs,
        lineage: Vec::new(),
        pace: Pace::default(),
    };
    for (index, stage) in plan.stages.iter().enumerate() {
        let raw = std::mem::take(&mut sources[index]);
        let data = prepare(plan, stage, raw, &model, &|| observer.is_cancelled())?;
        run.lineage.push(data.hashes.clone());
        if index < run.position.stage {
            continue; // done before the checkpoint
        }
        run.stage(index, stage, &data, &mut model, found.as_ref())?;
    }
    run.finish(&model)
}

/// What decides a run beside its plan: the plan names the base and the data by their places only.
fn inputs(plan: &Plan, sources: &[Vec<RawSource>]) -> Result<Vec<String>, Error> {
    let base = models::weights::folder_sha256(&plan.base);
    let base = base.map_err(models::llava_error::Error::from)?;
    let mut inputs = vec![format!("base model sha256:{base}")];
    for (stage, sources) in plan.stages.iter().zip(sources) {
        inputs.extend(hashes(stage, sources));
    }
    Ok(inputs)
}

fn same_inputs(what: &str, made: &[String], now: &[String], plan: &Plan) -> Result<(), Error> {
    if made == now {
        return Ok(());
    }
    let changed = now.iter().filter(|input| !made.contains(input));
    let changed: Vec<&str> = changed.map(String::as_str).collect();
    Err(Error::Data {
        path: plan.output.clone(),
        reason: format!(
            "{what} is of another base or other data than there is now ({}): choose another output",
            changed.join(", ")
        ),
    })
}

struct Run<'a> {
    plan: &'a Plan,
    output: Output,
    cache: &'a FeatureCache,
    tower: String,
    observer: &'a dyn Observer,
    position: Position,
    logs: Logs,
    lineage: Vec<Vec<String>>,
    pace: Pace,
}

impl Run<'_> {
    fn stage(
        &mut self,
        index: usize,
        stage: &Stage,
        data: &StageData,
        model: &mut Llava,
        found: Option<&Found>,
    ) -> Result<(), Error> {
        model.set_trained(stage.trained())?;
        let resumed =
            found.filter(|found| found.position.stage == index && found.position.stage_step > 0);
        let optimizer = resumed
            .map(|found| found.optimizer(model, stage.optimizer.adamw()))
            .transpose()?;
        let mut adamw = optimizer
            .flatten()
            .unwrap_or_else(|| Adamw::new(model.parameters(), stage.optimizer.adamw()));
        let weights: Vec<f64> = stage.sources.iter().map(|source| source.weight).collect();
        let mut order = Order::new(self.plan.seed, index, &data.sizes, &weights);
        for _ in 0..self.position.drawn {
            order.draw();
        }
        self.self_test(stage, data, model)?;
        while self.position.stage_step < stage.step_count {
            if self.observer.is_cancelled() {
                return self.leave(model, &adamw);
            }
            let batch: Vec<&Prepared> = (0..stage.batch_size)
                .map(|_| &data.samples[order.draw()])
                .collect();
            self.step(stage, &batch, model, &mut adamw)?;
            let is_due = self
                .plan
                .checkpoint_every
                .is_some_and(|every| self.position.step.is_multiple_of(every));
            if is_due && self.position.stage_step < stage.step_count {
                self.save(model, Some(&adamw))?;
            }
        }
        model.set_trained(models::llava::Trained::Nothing)?;
        self.position.skipped += data.skipped.values().sum::<u64>();
        for (reason, count) in &data.skipped {
            tracing::warn!(
                stage = stage.name,
                count,
                reason = reason.reason(),
                "samples were skipped"
            );
        }
        self.position.stage += 1;
        (self.position.stage_step, self.position.drawn) = (0, 0);
        self.save(model, None)
    }

    fn step(
        &mut self,
        stage: &Stage,
        batch: &[&Prepared],
        model: &Llava,
        adamw: &mut Adamw,
    ) -> Result<(), Error> {
        let start = Instant::now();
        let examples = self.examples(batch, model)?;
        let (loss, tokens, supervised, grads) = gradients(stage, &examples, model)?;
        if !loss.is_finite() {
            return Err(self.diverged(stage, loss, batch));
        }
        let step = self.position.stage_step;
        let language = stage.schedule(stage.optimizer.learning_rate).at(step);
        let projector = stage
            .schedule(stage.optimizer.projector_learning_rate)
            .at(step);
        let rate = |parameter: &Parameter| {
            if is_projector(parameter) {
                projector
            } else {
                language
            }
        };
        let norm = adamw.step(
            model.parameters(),
            &grads,
            rate,
            stage.optimizer.max_gradient_norm,
        );
        let grad_norm = match norm {
            Err(models::llava_error::Error::Gradient(_)) => {
                return Err(self.diverged(stage, loss, batch));
            }
            other => other?,
        };
        self.position.stage_step += 1;
        self.position.step += 1;
        self.position.drawn += batch.len() as u64;
        self.position.supervised += supervised;
        self.position.last_loss = loss;
        let lr = if stage.trained() == models::llava::Trained::Projector {
            projector
        } else {
            language
        };
        let metric = Metric {
            step: self.position.step,
            stage: stage.name.clone(),
            loss,
            lr,
            grad_norm,
            tokens,
            supervised,
            samples: batch.len() as u64,
        };
        self.logs.add(&metric)?;
        self.pace.add(tokens, start.elapsed().as_secs_f64());
        self.tell(metric);
        Ok(())
    }

    fn examples(&self, batch: &[&Prepared], model: &Llava) -> Result<Vec<Example>, Error> {
        let looker = Looker::new(self.cache, model, &self.tower, self.plan.aspect());
        let features = looker.look(batch)?;
        let example = |(sample, features): (&&Prepared, Vec<_>)| Example {
            encoded: sample.encoded.clone(),
            features,
        };
        Ok(batch.iter().zip(features).map(example).collect())
    }

    /// Refuses to train when a trained tensor is not reached by the loss, or a frozen one is.
    fn self_test(&self, stage: &Stage, data: &StageData, model: &Llava) -> Result<(), Error> {
        let with_pictures = data
            .samples
            .iter()
            .filter(|sample| !sample.pictures.is_empty());
        let batch: Vec<&Prepared> = with_pictures.chain(&data.samples).take(4).collect();
        let (_, _, _, grads) = gradients(stage, &self.examples(&batch, model)?, model)?;
        Ok(check_gradients(model.parameters(), &grads)?)
    }

    fn tell(&self, metric: Metric) {
        let step_count = self.plan.step_count();
        let remaining = (step_count - metric.step) as f64 * self.pace.seconds_per_step();
        metrics::gauge!("diptych_train_loss").set(metric.loss);
        metrics::gauge!("diptych_train_tokens_per_second").set(self.pace.tokens_per_second());
        self.observer.report(Progress {
            metric,
            step_count,
            tokens_per_second: self.pace.tokens_per_second(),
            remaining_seconds: remaining,
        });
    }

    /// Saves before the run is left to another owner, or to nobody.
    fn leave(&mut self, model: &Llava, adamw: &Adamw) -> Result<(), Error> {
        if self.position.stage_step > 0 {
            self.save(model, Some(adamw))?;
        }
        Err(Error::Cancelled)
    }

    fn save(&mut self, model: &Llava, adamw: Option<&Adamw>) -> Result<(), Error> {
        if !self.observer.is_owner() {
            return Err(Error::Cancelled);
        }
        self.logs.sync()?;
        checkpoint::save(
            &self.output,
            &self.position,
            model,
            adamw,
            self.plan.checkpoints_kept,
        )
    }

    fn finish(self, model: &Llava) -> Result<Outcome, Error> {
        if !self.observer.is_owner() {
            return Err(Error::Cancelled);
        }
        let totals = Totals {
            skipped_sample_count: self.position.skipped,
            final_loss: self.position.last_loss,
            supervised_token_count: self.position.supervised,
        };
        let card = card::write(self.plan, &self.lineage, &totals);
        model.export(&self.output.model(), &[("README.md", card.as_bytes())])?;
        self.logs.sync()?;
        let outcome = Outcome {
            model: Written::hash(self.output.model())?,
            metrics: Written::hash(self.output.metrics())?,
            skipped_sample_count: totals.skipped_sample_count,
            final_loss: totals.final_loss,
            supervised_token_count: totals.supervised_token_count,
            inputs: self.position.inputs,
        };
        self.output.finish(&outcome)?;
        Ok(outcome)
    }

    fn diverged(&self, stage: &Stage, loss: f64, batch: &[&Prepared]) -> Error {
        let samples: Vec<&str> = batch
            .iter()
            .take(8)
            .map(|sample| sample.id.as_str())
            .collect();
        let (stage, step) = (stage.name.clone(), self.position.stage_step);
        Error::Diverged {
            stage,
            step,
            loss,
            samples: samples.join(", "),
        }
    }
}

type Gradients = (f64, u64, u64, candle_core::backprop::GradStore);

/// Loss, positions, supervised positions and gradients of a batch, in its micro-batches.
fn gradients(stage: &Stage, examples: &[Example], model: &Llava) -> Result<Gradients, Error> {
    let parts = examples.chunks(examples.len().div_ceil(stage.micro_batches));
    let part_count = parts.len();
    let all: usize = examples.iter().map(supervised_count).sum();
    let (mut loss, mut tokens, mut supervised) = (0.0, 0, 0);
    let mut total = None;
    for part in parts {
        let divisor = match stage.averages_micro_batches {
            true => part.iter().map(supervised_count).sum::<usize>() * part_count,
            false => all,
        };
        let part = model.loss(part, Some(divisor))?;
        loss += f64::from(
            part.value
                .to_scalar::<f32>()
                .map_err(models::llava_error::Error::from)?,
        );
        tokens += part.token_count as u64;
        supervised += part.supervised_count as u64;
        let grads = part
            .value
            .backward()
            .map_err(models::llava_error::Error::from)?;
        match &mut total {
            None => total = Some(grads),
            Some(total) => accumulate(model.parameters(), total, &grads)?,
        }
    }
    let grads = total.ok_or_else(|| models::llava_error::Error::Input("an empty batch".into()))?;
    Ok((loss, tokens, supervised, grads))
}

/// Labels that the loss counts: a label of the first position has nothing before it to predict it.
fn supervised_count(example: &Example) -> usize {
    let labels = example.encoded.labels.iter().skip(1);
    labels
        .filter(|&&label| label != models::conversation::IGNORE)
        .count()
}

fn is_projector(parameter: &Parameter) -> bool {
    parameter
        .pieces()
        .iter()
        .any(|piece| piece.name.starts_with("multi_modal_projector."))
}

/// How fast the steps go: an average over about the last twenty.
#[derive(Debug, Default)]
struct Pace {
    seconds: f64,
    tokens: f64,
    steps: f64,
}

impl Pace {
    fn add(&mut self, tokens: u64, seconds: f64) {
        const KEPT: f64 = 0.95;
        self.seconds = self.seconds * KEPT + seconds;
        self.tokens = self.tokens * KEPT + tokens as f64;
        self.steps = self.steps * KEPT + 1.0;
    }

    fn seconds_per_step(&self) -> f64 {
        self.seconds / self.steps.max(1.0)
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens / self.seconds.max(1e-9)
    }
}
