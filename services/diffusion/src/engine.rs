//! The thread that owns the device.
//!
//! Pictures of all callers wait in one bounded queue and share batches: a picture joins when there is
//! room, moves on by one step with whoever is there, and leaves when it is done or its caller is gone.
//! A picture's bytes do not depend on its company, so nothing need wait for equals.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use models::stable_diffusion::{Denoising, Pipeline, Request};
use opentelemetry::KeyValue;
use runtime::RequestContext;
use runtime::context::SpanGuard;
use runtime::prometheus::QueueDepth;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::models_served::Safety;
use crate::picture::{Rendered, judge};
use crate::request::Place;

/// Files of pictures to go on from that may wait, in bytes.
const MAX_WAITING_BYTES: usize = 512 << 20;

/// What becomes of a picture.
pub(crate) enum Event {
    /// So many evaluations of so many are done; so many pictures are before it in the queue.
    Progress {
        done: usize,
        total: usize,
        queue_position: usize,
    },
    /// It is there, or will never be.
    End(Box<Result<Rendered, Error>>),
}

/// A picture that waits.
pub(crate) struct Ticket {
    /// Who renders it.
    pub(crate) pipeline: Arc<Pipeline>,
    /// What to render, already checked.
    pub(crate) request: Request,
    /// What becomes of the picture when it is there.
    pub(crate) safety: SafetyRule,
    /// Whose it is: cancelled when the caller leaves.
    pub(crate) context: RequestContext,
    /// Where its events go.
    pub(crate) events: Events,
}

impl Ticket {
    /// Bytes of the files that wait with it.
    fn bytes(&self) -> usize {
        self.request.original.as_ref().map_or(0, |original| {
            let mask = original.mask.as_ref().map_or(0, |mask| mask.bytes().len());
            original.picture.bytes().len() + mask
        })
    }
}

/// What a picture must pass before it is handed over.
#[derive(Clone)]
pub(crate) struct SafetyRule {
    /// Who tells; nothing is checked without.
    pub(crate) checker: Option<Safety>,
    /// Whether flagged pictures are handed over all the same.
    pub(crate) delivers_unsafe: bool,
}

/// The way of one picture's events to its caller.
///
/// The device never waits for a slow reader: the channel has a place for the end of every picture of
/// the call, and progress takes only what is left over.
#[derive(Clone)]
pub(crate) struct Events {
    place: Place,
    sender: mpsc::Sender<(Place, Event)>,
    /// Places that belong to the ends.
    reserved: usize,
    report_progress: bool,
}

impl Events {
    /// Events of the picture at `place` over a channel with room for `reserved` ends and some progress.
    pub(crate) fn new(
        place: Place,
        sender: mpsc::Sender<(Place, Event)>,
        reserved: usize,
        report_progress: bool,
    ) -> Self {
        Self {
            place,
            sender,
            reserved,
            report_progress,
        }
    }

    fn progress(&self, done: usize, total: usize, queue_position: usize) {
        if self.report_progress && self.sender.capacity() > self.reserved {
            let event = Event::Progress {
                done,
                total,
                queue_position,
            };
            let _the_caller_may_have_left = self.sender.try_send((self.place.clone(), event));
        }
    }

    fn end(&self, result: Result<Rendered, Error>) {
        let event = Event::End(Box::new(result));
        let _the_caller_may_have_left = self.sender.try_send((self.place.clone(), event));
    }
}

/// The device's owner. Dropping it ends the thread after the step it is in.
pub(crate) struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something waits, or the engine is closed.
    wake: Condvar,
    capacity: usize,
    depth: QueueDepth,
}

struct Queue {
    waiting: VecDeque<(Ticket, Instant)>,
    closed: bool,
    /// Smoothed time between two finished pictures.
    interval: Duration,
}

impl Engine {
    /// Starts the device thread: `capacity` pictures may wait, `max_batch` of their models' own sizes
    /// are on the device, or as many pixels in fewer larger ones.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(capacity: usize, max_batch: usize) -> std::io::Result<Self> {
        let queue = Queue {
            waiting: VecDeque::new(),
            closed: false,
            interval: Duration::from_millis(500),
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            capacity,
            depth: QueueDepth::new(crate::NAME, "device"),
        });
        let device = Device {
            shared: shared.clone(),
            max_batch: max_batch.max(1),
            on_device: Vec::new(),
        };
        std::thread::Builder::new()
            .name("diffusion-device".to_owned())
            .spawn(move || device.run())?;
        Ok(Self { shared })
    }

    /// Queues all pictures of a call, or none.
    ///
    /// # Errors
    /// [`Error::Full`] at once, and [`Error::Stopping`].
    pub(crate) fn submit(&self, tickets: Vec<Ticket>) -> Result<(), Error> {
        let mut queue = self.shared.lock();
        // Callers that left hold no places.
        queue
            .waiting
            .retain(|(ticket, _)| !ticket.context.is_cancelled());
        let (waiting, capacity) = (queue.waiting.len(), self.shared.capacity);
        if queue.closed {
            return Err(Error::Stopping);
        }
        let retry_after = |excess: usize| {
            let wait = queue.interval * u32::try_from(excess).unwrap_or(u32::MAX);
            wait.clamp(Duration::from_millis(100), Duration::from_secs(60))
        };
        let there = queue.waiting.iter().map(|(ticket, _)| ticket.bytes());
        let bytes: usize = there.chain(tickets.iter().map(Ticket::bytes)).sum();
        if bytes > MAX_WAITING_BYTES {
            return Err(Error::Heavy {
                bytes,
                most: MAX_WAITING_BYTES,
                retry_after: retry_after(waiting),
            });
        }
        if waiting + tickets.len() > capacity {
            let retry_after = retry_after(waiting + tickets.len() - capacity);
            return Err(Error::Full {
                waiting,
                capacity,
                retry_after,
            });
        }
        for (position, ticket) in (waiting..).zip(tickets) {
            ticket.events.progress(0, ticket.request.steps, position);
            queue.waiting.push_back((ticket, Instant::now()));
        }
        self.shared.depth.set(queue.waiting.len());
        self.shared.wake.notify_one();
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread owns.
struct Device {
    shared: Arc<Shared>,
    /// In pictures of their models' own sizes.
    max_batch: usize,
    on_device: Vec<Active>,
}

/// A picture on the device.
struct Active {
    pipeline: Arc<Pipeline>,
    request: Request,
    picture: Denoising,
    safety: SafetyRule,
    context: RequestContext,
    events: Events,
    span: SpanGuard,
    begun: Instant,
}

impl Device {
    fn run(mut self) {
        while self.take_in() {
            self.on_device
                .retain(|active| !active.context.is_cancelled());
            metrics::histogram!("diptych_batch_size", "service" => crate::NAME)
                .record(self.on_device.len() as f64);
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
        let mut taken = Vec::new();
        let on_device = self.on_device.iter();
        let mut used: usize = on_device
            .map(|active| active.pipeline.cost(&active.request))
            .sum();
        let mut queue = shared.lock();
        loop {
            if queue.closed {
                return false;
            }
            while let Some((ticket, _)) = queue.waiting.front() {
                if ticket.context.is_cancelled() {
                    queue.waiting.pop_front();
                    continue;
                }
                let cost = ticket.pipeline.cost(&ticket.request);
                // One that is larger than a whole batch goes alone.
                if used > 0 && used + cost > self.max_batch {
                    break;
                }
                used += cost;
                taken.extend(queue.waiting.pop_front());
            }
            shared.depth.set(queue.waiting.len());
            if !(self.on_device.is_empty() && taken.is_empty()) {
                break;
            }
            queue = shared
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        self.on_device.extend(
            taken
                .into_iter()
                .filter_map(|(ticket, since)| begin(ticket, since)),
        );
        true
    }

    /// One step of every picture, then the ends of those that are done.
    fn advance(&mut self) {
        for pipeline in distinct(&self.on_device) {
            let of_model = |active: &&mut Active| Arc::ptr_eq(&active.pipeline, &pipeline);
            let mut pictures: Vec<&mut Denoising> = self
                .on_device
                .iter_mut()
                .filter(of_model)
                .map(|active| &mut active.picture)
                .collect();
            let step = pipeline.step(&mut pictures);
            if let Err(error) = step {
                self.fail(&pipeline, &error.to_string());
            }
        }
        for Active {
            picture, events, ..
        } in &self.on_device
        {
            events.progress(picture.evaluations_done(), picture.evaluations(), 0);
        }
        let (done, rest): (Vec<_>, Vec<_>) =
            self.on_device.drain(..).partition(|a| a.picture.is_done());
        self.on_device = rest;
        self.finish(done);
    }

    /// Decodes, encodes and hands over, together where the model is the same.
    fn finish(&mut self, done: Vec<Active>) {
        for pipeline in distinct(&done) {
            let of_model: Vec<&Active> = done
                .iter()
                .filter(|a| Arc::ptr_eq(&a.pipeline, &pipeline))
                .collect();
            let rendered = catch_unwind(AssertUnwindSafe(|| render(&pipeline, &of_model)));
            let rendered =
                rendered.unwrap_or_else(|_| of_model.iter().map(|_| Err(panicked())).collect());
            for (active, rendered) in of_model.iter().zip(rendered) {
                active.events.end(rendered);
            }
        }
        for mut active in done {
            let seconds = active.begun.elapsed().as_secs_f64();
            metrics::histogram!("diptych_device_seconds", "service" => crate::NAME).record(seconds);
            active.span.set(KeyValue::new(
                "diptych.step_count",
                active.picture.evaluations() as i64,
            ));
            let mut queue = self.shared.lock();
            let share = active.begun.elapsed() / u32::try_from(self.max_batch).unwrap_or(1);
            queue.interval = (queue.interval * 7 + share) / 8;
        }
    }

    fn fail(&mut self, pipeline: &Arc<Pipeline>, reason: &str) {
        tracing::error!(model = pipeline.name(), reason, "a step failed");
        let (failed, rest): (Vec<_>, Vec<_>) = self
            .on_device
            .drain(..)
            .partition(|active| Arc::ptr_eq(&active.pipeline, pipeline));
        self.on_device = rest;
        for active in failed {
            active.events.end(Err(Error::Task(reason.to_owned())));
        }
    }
}

/// Encodes the prompts of a picture and puts it on the device.
fn begin(ticket: Ticket, since: Instant) -> Option<Active> {
    let Ticket {
        pipeline,
        request,
        safety,
        context,
        events,
    } = ticket;
    let wait = since.elapsed().as_secs_f64();
    metrics::histogram!("diptych_queue_wait_seconds", "service" => crate::NAME).record(wait);
    let attributes = vec![
        KeyValue::new("diptych.model", pipeline.name().to_owned()),
        KeyValue::new("diptych.queue_wait_seconds", wait),
    ];
    let span = context.span("render", attributes);
    let begun = Instant::now();
    match catch_unwind(AssertUnwindSafe(|| pipeline.begin(&request))) {
        Ok(Ok(picture)) => Some(Active {
            pipeline,
            request,
            picture,
            safety,
            context,
            events,
            span,
            begun,
        }),
        Ok(Err(error)) => {
            events.end(Err(error.into()));
            None
        }
        Err(_) => {
            events.end(Err(panicked()));
            None
        }
    }
}

/// The pictures of one model, decoded and encoded; one result each.
fn render(pipeline: &Pipeline, done: &[&Active]) -> Vec<Result<Rendered, Error>> {
    let pictures: Vec<&Denoising> = done.iter().map(|active| &active.picture).collect();
    let decoded = pipeline.finish(&pictures).into_iter();
    let encoded = decoded.zip(done).map(|(picture, active)| {
        let picture = picture?;
        let safety = judge(&picture, &active.safety)?;
        let mut rendered = Rendered::new(&picture, &active.request, pipeline, safety)?;
        rendered.prompt_truncated = !active.picture.warnings.is_empty();
        Ok(rendered)
    });
    encoded.collect()
}

fn panicked() -> Error {
    Error::Task("the device thread panicked".to_owned())
}

/// The models in use, each once.
fn distinct(active: &[Active]) -> Vec<Arc<Pipeline>> {
    let mut found: Vec<Arc<Pipeline>> = Vec::new();
    for Active { pipeline, .. } in active {
        if !found.iter().any(|known| Arc::ptr_eq(known, pipeline)) {
            found.push(pipeline.clone());
        }
    }
    found
}
