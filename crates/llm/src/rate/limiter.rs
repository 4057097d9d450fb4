//! The queue in front of a server.
//!
//! Callers stand in line, first come, first served. Only the first of the line looks whether a
//! request may start; the others wait for its place. Who leaves the line (the future is dropped)
//! gives up nothing but its place.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{bucket::Bucket, window::Window};
use crate::{Error, place::Place};

/// The bounds that the operator sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_concurrency: u32,
    pub(crate) max_waiting: usize,
    pub(crate) requests_per_minute: Option<u64>,
    pub(crate) tokens_per_minute: Option<u64>,
    /// The longest quiet that a server may ask for: no call would live to its end.
    pub(crate) longest_quiet: Duration,
    /// Quiet in the place of a longer one, so that a wrong date silences nobody for days.
    pub(crate) usual_quiet: Duration,
}

impl Limits {
    /// How long to keep quiet when the server asks for `asked`.
    fn quiet(&self, asked: Option<Duration>) -> Duration {
        match asked {
            Some(asked) if asked > self.longest_quiet => self.usual_quiet,
            asked => asked.unwrap_or_default(),
        }
    }
}

/// Lets requests start. Clones share the line.
#[derive(Debug, Clone)]
pub(crate) struct Limiter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    model: String,
    limits: Limits,
    waiting: AtomicUsize,
    /// Held by the first of the line. Tokio's mutex is fair.
    first: tokio::sync::Mutex<()>,
    changed: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    window: Window,
    in_flight: usize,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    /// No start before this: the server asked for quiet, or the window is below one.
    not_before: Instant,
    /// Times in a row that nobody was there.
    away_count: u32,
    away_until: Instant,
}

/// How a request ended, for the one who lets the next start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Outcome {
    /// Answered; it took so many tokens.
    Answered {
        /// Of question and answer together.
        tokens: u64,
    },
    /// The server had too much to do, and wants quiet for a while if it says so.
    Overloaded {
        /// How long.
        retry_after: Option<Duration>,
    },
    /// Nobody was there. All keep quiet for a while, longer each time: one knocks for all.
    Away,
    /// Failed in a way that says nothing about load.
    Failed,
}

/// Quiet after the first time that nobody was there, and the longest.
const AWAY: Duration = Duration::from_millis(100);
const LONGEST_AWAY: Duration = Duration::from_secs(5);

/// What the first of the line finds.
enum Look {
    Start(Permit),
    WaitUntil(Instant),
    WaitForChange,
}

impl Limiter {
    /// A limiter for one model behind one address.
    pub(crate) fn new(model: &str, limits: Limits) -> Self {
        let now = Instant::now();
        let bucket = |amount: Option<u64>| amount.map(|amount| Bucket::per_minute(amount, now));
        let shared = Shared {
            model: model.to_owned(),
            limits,
            waiting: AtomicUsize::new(0),
            first: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            state: Mutex::new(State {
                window: Window::new(limits.max_concurrency),
                in_flight: 0,
                requests: bucket(limits.requests_per_minute),
                tokens: bucket(limits.tokens_per_minute),
                not_before: now,
                away_count: 0,
                away_until: now,
            }),
        };
        shared.show(&shared.state());
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Waits for the turn of a request of about so many tokens.
    ///
    /// # Errors
    /// A line that is full, at once.
    pub(crate) async fn acquire(&self, tokens: u64) -> Result<Permit, Error> {
        let max_waiting = self.shared.limits.max_waiting;
        let _place = Place::take(&self.shared.waiting, max_waiting, "--llm-max-waiting")?;
        let _first = self.shared.first.lock().await;
        loop {
            let changed = self.shared.changed.notified();
            match self.look(tokens) {
                Look::Start(permit) => return Ok(permit),
                Look::WaitForChange => changed.await,
                Look::WaitUntil(when) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(when) => {}
                },
            }
        }
    }

    /// The window now, in requests.
    pub(crate) fn window(&self) -> f64 {
        self.shared.state().window.size()
    }

    fn look(&self, tokens: u64) -> Look {
        let mut state = self.shared.state();
        let now = Instant::now();
        if state.in_flight >= state.window.in_flight_limit() {
            return Look::WaitForChange;
        }
        let tokens = tokens as f64;
        let for_requests = state.requests.as_mut().map(|bucket| bucket.wait(1.0, now));
        let for_tokens = state.tokens.as_mut().map(|bucket| bucket.wait(tokens, now));
        let wait = for_requests.max(for_tokens).unwrap_or_default();
        let ready = state.not_before.max(now + wait);
        if ready > now {
            return Look::WaitUntil(ready);
        }
        state.take(tokens);
        state.not_before = now + state.window.gap();
        state.in_flight += 1;
        Look::Start(Permit {
            shared: Arc::clone(&self.shared),
            epoch: state.window.epoch(),
            started: now,
            reserved_tokens: tokens,
            was_full: state.in_flight * 2 > state.window.in_flight_limit(),
        })
    }
}

impl State {
    /// Requests that started before the last quiet was decided do not make it longer.
    fn keep_away(&mut self, started: Instant) {
        if started < self.away_until {
            return;
        }
        let quiet = AWAY.saturating_mul(1 << self.away_count.min(16));
        self.away_count += 1;
        self.away_until = Instant::now() + quiet.min(LONGEST_AWAY);
        self.not_before = self.not_before.max(self.away_until);
    }

    fn take(&mut self, tokens: f64) {
        if let Some(bucket) = &mut self.requests {
            bucket.take(1.0);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(tokens);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, state: &State) {
        let model = self.model.clone();
        metrics::gauge!("diptych_llm_concurrency", "model" => model).set(state.window.size());
    }
}

/// A request that may run. Dropping it, finished or not, makes room for the next.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    epoch: u64,
    started: Instant,
    reserved_tokens: f64,
    was_full: bool,
}

impl Permit {
    /// Tells how the request ended.
    pub(crate) fn finish(self, outcome: Outcome) {
        let mut state = self.shared.state();
        match outcome {
            Outcome::Failed => {}
            Outcome::Away => state.keep_away(self.started),
            Outcome::Answered { tokens } => {
                state.away_count = 0;
                let latency = self.started.elapsed();
                state.window.answered(latency, self.was_full);
                if let Some(bucket) = &mut state.tokens {
                    bucket.take(tokens as f64 - self.reserved_tokens);
                }
            }
            Outcome::Overloaded { retry_after } => {
                if state.window.overloaded(self.epoch) {
                    tracing::debug!(
                        window = state.window.size(),
                        "the language model is asked less"
                    );
                }
                if let Some(bucket) = &mut state.tokens {
                    bucket.take(-self.reserved_tokens);
                }
                let quiet = Instant::now() + self.shared.limits.quiet(retry_after);
                state.not_before = state.not_before.max(quiet);
            }
        }
        self.shared.show(&state);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.state().in_flight -= 1;
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            max_concurrency: 8,
            max_waiting: 100,
            requests_per_minute: None,
            tokens_per_minute: None,
            longest_quiet: Duration::from_secs(60),
            usual_quiet: Duration::from_secs(3),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_tokens_per_minute_are_kept() {
        let start = Instant::now();
        let limiter = Limiter::new(
            "m",
            Limits {
                requests_per_minute: Some(60),
                ..limits()
            },
        );
        for _ in 0..65 {
            let permit = limiter.acquire(1).await.unwrap();
            permit.finish(Outcome::Answered { tokens: 1 });
        }
        // Five at once, then one a second.
        let passed = start.elapsed().as_secs_f64();
        assert!((59.9..60.2).contains(&passed), "{passed}");

        let start = Instant::now();
        let limiter = Limiter::new(
            "m",
            Limits {
                tokens_per_minute: Some(6_000),
                ..limits()
            },
        );
        for _ in 0..25 {
            // Reserved 500, used 100: what was not used comes back.
            let permit = limiter.acquire(500).await.unwrap();
            permit.finish(Outcome::Answered { tokens: 100 });
        }
        let passed = start.elapsed().as_secs_f64();
        assert!((23.9..24.2).contains(&passed), "{passed}");
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_keeps_quiet_until_the_server_wants_to_be_asked_again() {
        let limiter = Limiter::new("m", limits());
        let start = Instant::now();
        let first = limiter.acquire(1).await.unwrap();
        let second = limiter.acquire(1).await.unwrap();
        let retry_after = Some(Duration::from_secs(7));
        first.finish(Outcome::Overloaded { retry_after });
        second.finish(Outcome::Overloaded { retry_after: None });
        let third = limiter.acquire(1).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 7);
        assert!(
            limiter.window() > 1.0,
            "one flight cuts once: {}",
            limiter.window()
        );
        // A day is more than any call has: the next asks after the usual while.
        let retry_after = Some(Duration::from_secs(86_400));
        third.finish(Outcome::Overloaded { retry_after });
        let fourth = limiter.acquire(1).await.unwrap();
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        drop(fourth);
    }

    #[tokio::test(start_paused = true)]
    async fn one_knocks_for_all_while_nobody_is_there() {
        let limiter = Limiter::new("m", limits());
        let start = Instant::now();
        let mut knocks = 0;
        while start.elapsed() < Duration::from_secs(60) {
            limiter.acquire(1).await.unwrap().finish(Outcome::Away);
            knocks += 1;
        }
        assert!((15..25).contains(&knocks), "{knocks} knocks in a minute");
        assert!(limiter.window() > 1.0, "it says nothing about load");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_line_is_refused_at_once_and_who_leaves_makes_room() {
        let limiter = Limiter::new(
            "m",
            Limits {
                max_concurrency: 1,
                max_waiting: 1,
                ..limits()
            },
        );
        let running = limiter.acquire(1).await.unwrap();
        let mut waiting = Box::pin(limiter.acquire(1));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(matches!(
            limiter.acquire(1).await,
            Err(Error::Full { waiting: 1, .. })
        ));
        drop(waiting);
        let mut waiting = Box::pin(limiter.acquire(1));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(running);
        waiting.await.unwrap();
    }
}
