//! The engine on the tiny checkpoint, counted in steps and in order, never in time.

use std::path::Path;

use models::stable_diffusion::{Pipeline, Request};
use runtime::RequestContext;
use tokio::sync::mpsc;

use super::*;
use crate::request::Place;
use crate::shelf::{Lease, Shelf};

fn pipeline(name: &'static str) -> Lease<Pipeline> {
    let folder = "../../crates/models/tests/fixtures/sd/tiny";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let load = move |_| Ok(Pipeline::load(&folder, name).expect("the tiny checkpoint"));
    let shelf = Shelf::new(vec![1], None, 1, load);
    shelf.load_now(0).expect("it loads");
    shelf.try_lease(0).expect("it is there")
}

fn engine(max_batch: usize, batch_wait: Duration) -> Engine {
    let bounds = Bounds {
        capacity: 200,
        max_batch,
        batch_wait,
    };
    Engine::start(bounds).expect("a thread")
}

/// What a picture of four times the model's side costs.
const LARGE: usize = 16;

/// Tickets that share a channel, so that its order is the device's.
struct Desk {
    pipeline: Lease<Pipeline>,
    sender: mpsc::Sender<(Place, Event)>,
    events: mpsc::Receiver<(Place, Event)>,
}

impl Desk {
    fn new(model: &'static str) -> Self {
        let (sender, events) = mpsc::channel(10_000);
        Self {
            pipeline: pipeline(model),
            sender,
            events,
        }
    }

    /// A picture of the model's own size.
    fn ticket(&self, caller: &str, seed: u64, steps: usize, context: &RequestContext) -> Ticket {
        self.sized(caller, seed, (steps, 16), context)
    }

    /// Seconds of work: it costs as much as [`LARGE`] others, a thousand times.
    fn endless(&self, caller: &str, seed: u64, context: &RequestContext) -> Ticket {
        self.sized(caller, seed, (1000, 64), context)
    }

    fn sized(
        &self,
        caller: &str,
        seed: u64,
        (steps, side_px): (usize, usize),
        context: &RequestContext,
    ) -> Ticket {
        let request = Request {
            prompt: "dog".into(),
            seed,
            steps,
            guidance: 1.,
            width_px: side_px,
            height_px: side_px,
            ..Request::default()
        };
        let place = Place {
            sample_id: format!("{caller}{seed}"),
            image_index: 0,
        };
        let safety = SafetyRule {
            checker: None,
            delivers_unsafe: false,
        };
        Ticket {
            pipeline: self.pipeline.clone(),
            request,
            safety,
            caller: Caller::Named(caller.into()),
            context: context.clone(),
            events: Events::new(place, self.sender.clone(), 200, true),
        }
    }

    /// The next picture that ends, by its name.
    fn end(&mut self) -> String {
        loop {
            match self.events.blocking_recv().expect("the desk has a sender") {
                (place, Event::End(ended)) => {
                    ended.expect("a picture");
                    return place.sample_id;
                }
                (_, Event::Progress { .. }) => {}
            }
        }
    }

    /// Waits until a picture has come so far.
    fn reach(&mut self, wanted: usize) {
        loop {
            match self.events.blocking_recv().expect("the desk has a sender") {
                (_, Event::Progress { done, .. }) if done >= wanted => return,
                _ => {}
            }
        }
    }

    /// Evaluations of the model so far, and pictures in them.
    fn counted(&self) -> (u64, u64) {
        let page = runtime::prometheus::render();
        let label = format!("model=\"{}\"", self.pipeline.name());
        let counter = |name: &str| {
            let mut lines = page.lines();
            let line = lines.find(|line| line.starts_with(name) && line.contains(&label));
            let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
            count.unwrap_or_default()
        };
        (
            counter("diptych_evaluations_total"),
            counter("diptych_evaluated_pictures_total"),
        )
    }
}

#[test]
fn a_caller_that_leaves_costs_the_evaluation_it_is_in_and_no_more() {
    let mut desk = Desk::new("left");
    let engine = engine(LARGE + 1, Duration::ZERO);
    let leaving = RequestContext::detached();
    let staying = RequestContext::detached();
    let endless = desk.endless("a", 1, &leaving);
    engine.submit(vec![endless]).expect("room");
    desk.reach(3);
    leaving.cancelled().cancel();
    let (_, before) = desk.counted();
    engine
        .submit(vec![desk.ticket("b", 2, 5, &staying)])
        .expect("room");
    assert_eq!(desk.end(), "b2");
    let (_, after) = desk.counted();
    assert!(
        (5..=6).contains(&(after - before)),
        "{before} to {after}: five of the one that stayed, and at most one under way"
    );

    // Those that leave before their turn cost nothing, and hold no place.
    let gone = RequestContext::detached();
    gone.cancelled().cancel();
    let many = (0..200).map(|seed| desk.ticket("c", seed, 5, &gone));
    engine.submit(many.collect()).expect("room");
    let last = desk.ticket("b", 3, 5, &staying);
    engine.submit(vec![last]).expect("the others hold no place");
    assert_eq!(desk.end(), "b3");
    assert_eq!(desk.counted().1, after + 5);
}

#[test]
fn one_picture_does_not_wait_for_another_caller_s_hundred() {
    let mut desk = Desk::new("fair");
    let engine = engine(1, Duration::ZERO);
    let context = RequestContext::detached();
    let hundred = (0..100).map(|seed| desk.ticket("a", seed, 4, &context));
    engine.submit(hundred.collect()).expect("room");
    engine
        .submit(vec![desk.ticket("b", 0, 4, &context)])
        .expect("room");
    let order: Vec<String> = (0..101).map(|_| desk.end()).collect();
    let place = order.iter().position(|name| name == "b0");
    // One was on the device, and one had its turn before the other came.
    assert!(place.is_some_and(|place| place <= 2), "{place:?}");
    let of_first = order.iter().filter(|name| name.starts_with('a'));
    assert!(
        of_first.eq((0..100)
            .map(|seed| format!("a{seed}"))
            .collect::<Vec<_>>()
            .iter())
    );
}

#[test]
fn those_who_come_together_share_every_evaluation_and_a_lone_one_waits_no_longer_than_it_may() {
    let mut desk = Desk::new("together");
    let context = RequestContext::detached();
    // Far longer than the test may take: a full batch must not wait for it.
    let patient = engine(2, Duration::from_secs(600));
    for seed in [1, 2] {
        let ticket = desk.ticket("a", seed, 10, &context);
        patient.submit(vec![ticket]).expect("room");
    }
    desk.end();
    desk.end();
    assert_eq!(desk.counted(), (10, 20));
    drop(patient);

    let hasty = engine(LARGE + 1, Duration::from_millis(20));
    let begun = std::time::Instant::now();
    let alone = desk.ticket("a", 3, 10, &context);
    hasty.submit(vec![alone]).expect("room");
    desk.reach(0);
    desk.reach(1);
    assert!(
        begun.elapsed() >= Duration::from_millis(20),
        "it did not wait"
    );
    desk.end();
    // One that comes while the device works joins at its next step.
    hasty
        .submit(vec![desk.endless("a", 4, &context)])
        .expect("room");
    desk.reach(1);
    let (before, _) = desk.counted();
    hasty
        .submit(vec![desk.ticket("a", 5, 10, &context)])
        .expect("room");
    assert_eq!(desk.end(), "a5");
    // One of each shape a step.
    let evaluations = desk.counted().0 - before;
    assert!((20..=22).contains(&evaluations), "{evaluations}");
}

#[test]
fn those_refused_are_told_to_come_back_one_after_another() {
    let mut desk = Desk::new("refused");
    let bounds = Bounds {
        capacity: 3,
        max_batch: 1,
        batch_wait: Duration::ZERO,
    };
    let engine = Engine::start(bounds).expect("a thread");
    let context = RequestContext::detached();
    engine
        .submit(vec![desk.endless("a", 1, &context)])
        .expect("room");
    desk.reach(1);
    let three = (2..5).map(|seed| desk.ticket("a", seed, 4, &context));
    engine.submit(three.collect()).expect("room");
    let refused = || {
        let one = desk.ticket("b", 9, 4, &context);
        match engine.submit(vec![one]) {
            Err(Error::Full { retry_after, .. }) => retry_after,
            other => panic!("{other:?}"),
        }
    };
    let told: Vec<Duration> = (0..8).map(|_| refused()).collect();
    assert!(told.is_sorted() && told[3] == told[0] * 4, "{told:?}");
    assert_eq!(told[7], told[3], "none waits longer than the queue takes");
}
