//! What the device thread does: take in, evaluate, hand over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use models::stable_diffusion::{Denoising, Pipeline, Request};
use opentelemetry::KeyValue;
use runtime::RequestContext;
use runtime::context::SpanGuard;

use super::ticket::{Caller, Events, SafetyRule, Ticket};
use super::{Queue, Shared};
use crate::error::Error;
use crate::line::{Loads, Waiting};
use crate::picture::{Rendered, judge};
use crate::shelf::Lease;

/// What the thread owns.
pub(super) struct Device {
    pub(super) shared: Arc<Shared>,
    /// In pictures of their models' own sizes.
    pub(super) max_batch: usize,
    /// How long a device with nothing to do waits for a full batch.
    pub(super) batch_wait: Duration,
    pub(super) on_device: Vec<Active>,
}

/// A picture on the device.
pub(super) struct Active {
    pipeline: Lease<Pipeline>,
    request: Request,
    picture: Denoising,
    safety: SafetyRule,
    caller: Caller,
    cost: usize,
    context: RequestContext,
    events: Events,
    span: SpanGuard,
    begun: Instant,
}

/// Pictures of one model and one shape: those that one evaluation moves on.
#[derive(PartialEq)]
struct Group {
    /// Identity of the model.
    model: *const Pipeline,
    width_px: usize,
    height_px: usize,
}

impl Active {
    fn group(&self) -> Group {
        Group {
            model: std::ptr::from_ref(&*self.pipeline),
            width_px: self.request.width_px,
            height_px: self.request.height_px,
        }
    }
}

impl Device {
    pub(super) fn run(mut self) {
        while self.take_in() {
            // A panic is a bug in a model; it ends the pictures at hand and not the service.
            let moved = catch_unwind(AssertUnwindSafe(|| self.advance()));
            if moved.is_err() {
                for active in self.on_device.drain(..) {
                    active.events.end(Err(panicked()));
                }
            }
        }
    }

    /// Fills the batch from the queue; waits while there is nothing to do. False at the end.
    fn take_in(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut queue = shared.lock();
        loop {
            if queue.closed {
                return false;
            }
            self.drop_left();
            queue.drop_left();
            let ready = self.on_device.is_empty().then(|| self.wait(&queue));
            let Some(wait) = ready.flatten() else { break };
            let woken = shared.wake.wait_timeout(queue, wait);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let taken = self.take(&mut queue);
        shared.depth.set(queue.line.len());
        drop(queue);
        self.on_device.extend(taken.into_iter().filter_map(begin));
        true
    }

    /// How long an empty device waits before it looks at the queue again; `None` to begin now.
    fn wait(&self, queue: &Queue) -> Option<Duration> {
        let Some(oldest) = queue.line.oldest() else {
            return Some(IDLE);
        };
        let left = self.batch_wait.checked_sub(oldest.elapsed())?;
        (queue.line.cost() < self.max_batch && !left.is_zero()).then_some(left)
    }

    fn take(&self, queue: &mut Queue) -> Vec<Waiting<Ticket>> {
        let mut loads = Loads::new();
        for active in &self.on_device {
            *loads.entry(active.caller.clone()).or_default() += active.cost;
        }
        let mut used: usize = loads.values().sum();
        let mut taken = Vec::new();
        // One that is larger than a whole batch goes alone.
        let max_batch = self.max_batch;
        while let Some(next) = queue
            .line
            .take(&mut loads, |cost| used == 0 || used + cost <= max_batch)
        {
            used += next.cost;
            taken.push(next);
        }
        queue.refused = queue.refused.saturating_sub(taken.len());
        queue.tell(&loads);
        taken
    }

    /// One evaluation of every picture, then the ends of those that are done. Whoever has left is
    /// dropped before each evaluation, and before it is decoded.
    fn advance(&mut self) {
        let mut groups: Vec<Group> = Vec::new();
        for active in &self.on_device {
            let group = active.group();
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        for group in &groups {
            self.drop_left();
            self.evaluate(group);
        }
        self.drop_left();
        let (mut done, rest): (Vec<_>, Vec<_>) =
            self.on_device.drain(..).partition(|a| a.picture.is_done());
        self.on_device = rest;
        for group in &groups {
            done.retain(|active| !active.context.is_cancelled());
            let (members, others) = done.into_iter().partition(|a| a.group() == *group);
            done = others;
            self.finish(members);
        }
    }

    fn evaluate(&mut self, group: &Group) {
        let members = self.on_device.iter_mut().filter(|a| a.group() == *group);
        let mut members: Vec<&mut Active> = members.collect();
        let Some(pipeline) = members.first().map(|active| active.pipeline.clone()) else {
            return;
        };
        let count = members.len();
        metrics::histogram!("diptych_batch_size", "service" => crate::NAME).record(count as f64);
        for (counter, by) in [
            ("diptych_evaluations_total", 1),
            ("diptych_evaluated_pictures_total", count as u64),
        ] {
            let model = pipeline.name().to_owned();
            metrics::counter!(counter, "service" => crate::NAME, "model" => model).increment(by);
        }
        let mut pictures: Vec<&mut Denoising> =
            members.iter_mut().map(|a| &mut a.picture).collect();
        if let Err(error) = pipeline.step(&mut pictures) {
            self.fail(group, pipeline.name(), &error.to_string());
            return;
        }
        for Active {
            picture, events, ..
        } in members
        {
            events.progress(picture.evaluations_done(), picture.evaluations(), 0);
        }
    }

    /// Decodes together, encodes and hands over.
    fn finish(&mut self, done: Vec<Active>) {
        let rendered = catch_unwind(AssertUnwindSafe(|| render(&done)));
        let rendered = rendered.unwrap_or_else(|_| done.iter().map(|_| Err(panicked())).collect());
        for (mut active, rendered) in done.into_iter().zip(rendered) {
            active.events.end(rendered);
            let spent = active.begun.elapsed();
            metrics::histogram!("diptych_device_seconds", "service" => crate::NAME)
                .record(spent.as_secs_f64());
            active.span.set(KeyValue::new(
                "diptych.step_count",
                active.picture.evaluations() as i64,
            ));
            let mut queue = self.shared.lock();
            let share = spent / u32::try_from(self.max_batch).unwrap_or(1);
            queue.interval = (queue.interval * 7 + share) / 8;
        }
    }

    fn drop_left(&mut self) {
        self.on_device
            .retain(|active| !active.context.is_cancelled());
    }

    fn fail(&mut self, group: &Group, model: &str, reason: &str) {
        tracing::error!(model, reason, "a step failed");
        let (failed, rest): (Vec<_>, Vec<_>) = self
            .on_device
            .drain(..)
            .partition(|active| active.group() == *group);
        self.on_device = rest;
        for active in failed {
            active.events.end(Err(Error::Task(reason.to_owned())));
        }
    }
}

/// How often a device without work looks up although nobody woke it.
const IDLE: Duration = Duration::from_secs(60);

/// Encodes the prompts of a picture and puts it on the device.
fn begin(waiting: Waiting<Ticket>) -> Option<Active> {
    let wait = waiting.since.elapsed().as_secs_f64();
    metrics::histogram!("diptych_queue_wait_seconds", "service" => crate::NAME).record(wait);
    let cost = waiting.cost;
    let Ticket {
        pipeline,
        request,
        safety,
        caller,
        context,
        events,
    } = waiting.item;
    if context.is_cancelled() {
        return None;
    }
    let attributes = vec![
        KeyValue::new("diptych.model", pipeline.name().to_owned()),
        KeyValue::new("diptych.queue_wait_seconds", wait),
    ];
    let span = context.span("render", attributes);
    let begun = Instant::now();
    let picture = catch_unwind(AssertUnwindSafe(|| pipeline.begin(&request)));
    match picture.map_or_else(|_| Err(panicked()), |begun| begun.map_err(Error::from)) {
        Ok(picture) => Some(Active {
            pipeline,
            request,
            picture,
            safety,
            caller,
            cost,
            context,
            events,
            span,
            begun,
        }),
        Err(error) => {
            events.end(Err(error));
            None
        }
    }
}

/// Pictures of one model, decoded and encoded; one result each.
fn render(done: &[Active]) -> Vec<Result<Rendered, Error>> {
    let Some(first) = done.first() else {
        return Vec::new();
    };
    let pictures: Vec<&Denoising> = done.iter().map(|active| &active.picture).collect();
    let decoded = first.pipeline.finish(&pictures).into_iter();
    let encoded = decoded.zip(done).map(|(picture, active)| {
        let picture = picture?;
        let safety = judge(&picture, &active.safety)?;
        let mut rendered = Rendered::new(&picture, &active.request, &active.pipeline, safety)?;
        rendered.prompt_truncated = !active.picture.warnings.is_empty();
        Ok(rendered)
    });
    encoded.collect()
}

fn panicked() -> Error {
    Error::Task("the device thread panicked".to_owned())
}
