//! How many requests a server bears at a time, found out as TCP finds out what a path bears.
//!
//! The window begins small and doubles with every round that goes well (slow start); at the first
//! overload it is cut and from then on grows by a fixed step a round (additive increase,
//! multiplicative decrease; Chiu and Jain 1989), and faster where the server has grown. Below one request it means a rate: one in flight,
//! and between two starts the time a request takes, divided by the window. Answers to requests that
//! began before the last cut say nothing about the window after it, and do not cut again.

use std::time::Duration;

/// Requests in flight at the start.
const START: f64 = 2.0;

/// Smallest window: a thousand times slower than one request after the other.
const SMALLEST: f64 = 0.001;

/// What an overload leaves of the window: of one that went well before, and of one that did not.
const CUT: f64 = 0.7;
const CUT_AGAIN: f64 = 0.5;

/// What a round adds, as a share of the window at the last overload; one request at most. At 0.03
/// it takes ten rounds to come back to it.
const STEP_SHARE: f64 = 0.03;

/// Beyond this share of the window at the last overload the server bears more than it did, and a
/// round adds a share of the window itself: a server that has grown is found out in some ten rounds.
const KNOWN_SHARE: f64 = 1.25;
const PROBE_SHARE: f64 = 0.1;

/// Longest time between two starts.
const MAX_GAP: Duration = Duration::from_secs(60);

/// Share of a new latency in the running mean.
const LATENCY_SHARE: f64 = 0.1;

/// The window and what decides its next change.
#[derive(Debug)]
pub(super) struct Window {
    size: f64,
    largest: f64,
    /// The window at the last overload; `None` while it still doubles.
    ceiling: Option<f64>,
    /// Counts the cuts.
    epoch: u64,
    went_well: bool,
    latency_seconds: f64,
}

impl Window {
    /// A window for a server of which nothing is known.
    pub(super) fn new(largest: u32) -> Self {
        Self {
            size: START.min(f64::from(largest)),
            largest: f64::from(largest),
            ceiling: None,
            epoch: 0,
            went_well: true,
            latency_seconds: 0.0,
        }
    }

    /// The window, in requests.
    pub(super) fn size(&self) -> f64 {
        self.size
    }

    /// Requests that may be in flight: one at least.
    pub(super) fn in_flight_limit(&self) -> usize {
        (self.size as usize).max(1)
    }

    /// Time from one start to the next; zero unless the window is below one.
    pub(super) fn gap(&self) -> Duration {
        if self.size >= 1.0 {
            return Duration::ZERO;
        }
        let seconds = self.latency_seconds / self.size;
        Duration::try_from_secs_f64(seconds).map_or(MAX_GAP, |gap| gap.min(MAX_GAP))
    }

    /// What a request has to remember of its start.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A request went well. `was_full` says whether the window was in use: one that is not says
    /// nothing about a larger one.
    pub(super) fn answered(&mut self, latency: Duration, was_full: bool) {
        let seconds = latency.as_secs_f64();
        self.latency_seconds = match self.latency_seconds {
            0.0 => seconds,
            mean => mean + LATENCY_SHARE * (seconds - mean),
        };
        self.went_well = true;
        if !was_full {
            return;
        }
        let round = match self.ceiling {
            None => self.size.max(1.0),
            Some(ceiling) if self.size <= ceiling * KNOWN_SHARE => (ceiling * STEP_SHARE).min(1.0),
            Some(_) => self.size * PROBE_SHARE,
        };
        // Each of the round's requests brings its part; below one request, one is a round.
        self.size = (self.size + round / self.size.max(1.0)).min(self.largest);
    }

    /// The server had too much to do when a request of `epoch` came. Whether the window was cut.
    pub(super) fn overloaded(&mut self, epoch: u64) -> bool {
        if epoch != self.epoch {
            return false;
        }
        self.epoch += 1;
        self.ceiling = Some(self.size);
        let cut = if self.went_well { CUT } else { CUT_AGAIN };
        self.went_well = false;
        self.size = (self.size * cut).max(SMALLEST);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Duration = Duration::from_millis(100);

    #[test]
    fn it_doubles_until_the_first_overload_and_then_grows_by_steps() {
        let mut window = Window::new(64);
        for _ in 0..30 {
            window.answered(LATENCY, true);
        }
        assert_eq!(window.in_flight_limit(), 32);
        let epoch = window.epoch();
        assert!(window.overloaded(epoch));
        assert_eq!(window.in_flight_limit(), 22);
        // The other requests of the same flight do not cut again.
        assert!(!window.overloaded(epoch));
        let before = window.size();
        for _ in 0..22 {
            window.answered(LATENCY, true);
        }
        let round = window.size() - before;
        assert!((0.8..=1.0).contains(&round), "a round added {round}");
        // What is not used does not grow.
        let before = window.size();
        window.answered(LATENCY, false);
        assert_eq!(window.size(), before);
    }

    #[test]
    fn below_one_request_it_is_a_rate_and_it_never_stops() {
        let mut window = Window::new(64);
        window.answered(LATENCY, true);
        for _ in 0..100 {
            window.overloaded(window.epoch());
        }
        assert_eq!(window.in_flight_limit(), 1);
        assert_eq!(window.gap(), MAX_GAP);
        for _ in 0..2_000_000 {
            window.answered(LATENCY, true);
        }
        assert!(window.size() > 1.0, "it recovers: {}", window.size());
    }

    /// Against a server that bears ten requests at a time, answer by answer.
    #[test]
    fn it_settles_around_what_the_server_bears() {
        let mut window = Window::new(64);
        let mut refused = 0;
        let mut sizes = Vec::new();
        for round in 0..430 {
            let bears = if round < 400 { 10 } else { 40 };
            let epoch = window.epoch();
            let flight = window.in_flight_limit();
            for place in 0..flight {
                match place < bears {
                    true => window.answered(LATENCY, true),
                    false => {
                        refused += 1;
                        window.overloaded(epoch);
                    }
                }
            }
            sizes.push(window.size());
        }
        let settled = &sizes[100..400];
        assert!(
            settled.iter().all(|size| (6.0..=11.5).contains(size)),
            "{settled:?}"
        );
        assert!(refused < 120, "{refused} refusals");
        let grown = sizes[429];
        assert!(
            (25.0..50.0).contains(&grown),
            "it finds a server that has grown: {grown}"
        );
    }
}
