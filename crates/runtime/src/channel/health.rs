//! Outlier ejection: whether one address gets calls, from what its last calls did.
//!
//! An ejected address is left out for a back-off that doubles from one ejection to the next. When
//! it is over, one call is let through as a probe; the rest follows when that one was answered.

use std::time::Duration;

use tokio::time::Instant;

/// Calls in a row that may fail on a standing connection. A connection that does not come about
/// ejects at once.
const STRIKES: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// What an address' last calls tell.
#[derive(Debug, Default)]
pub(super) struct Health {
    strikes: u32,
    ejections: u32,
    until: Option<Instant>,
}

/// What an address may be given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Any call.
    Open,
    /// This one call, as a probe.
    Probe,
    /// Nothing, unless no other address is left.
    Ejected,
}

impl Health {
    /// Asks for admission at `now`. A granted probe renews the ejection while it runs, so that
    /// nobody else probes meanwhile and a probe that is dropped leaves nothing behind.
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        match self.until {
            None => Admission::Open,
            Some(until) if now < until => Admission::Ejected,
            Some(_) => {
                self.eject(now);
                Admission::Probe
            }
        }
    }

    /// A call was answered.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// A call failed that may yet have been the call's own bad luck. Returns the back-off when
    /// that ejects the address.
    pub(super) fn strike(&mut self, now: Instant) -> Option<Duration> {
        self.strikes = self.strikes.saturating_add(1);
        if self.strikes < STRIKES {
            return None;
        }
        self.eject(now)
    }

    /// Leaves the address out. Returns the back-off, or `None` when it is left out already: many
    /// calls that fail together are one failure.
    pub(super) fn eject(&mut self, now: Instant) -> Option<Duration> {
        if self.until.is_some_and(|until| now < until) {
            return None;
        }
        let doublings = self.ejections.min(16);
        let backoff = FIRST_BACKOFF
            .saturating_mul(1 << doublings)
            .min(MAX_BACKOFF);
        self.ejections = self.ejections.saturating_add(1);
        self.until = Some(now + backoff);
        Some(backoff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ejection_doubles_with_each_failed_probe_and_ends_with_an_answer() {
        let mut now = Instant::now();
        let mut health = Health::default();
        assert_eq!(health.admit(now), Admission::Open);
        assert_eq!(health.eject(now), Some(FIRST_BACKOFF));
        assert_eq!(health.eject(now), None, "calls that fail together");
        for seconds in [2, 4, 8, 16, 30, 30] {
            let back_off = health.until.expect("ejected") - now;
            now += back_off - Duration::from_millis(1);
            assert_eq!(health.admit(now), Admission::Ejected);
            now += Duration::from_millis(1);
            assert_eq!(health.admit(now), Admission::Probe);
            assert_eq!(health.admit(now), Admission::Ejected, "one probe at a time");
            assert_eq!(health.eject(now), None, "the probe has renewed it");
            let back_off = health.until.expect("ejected") - now;
            assert_eq!(back_off, Duration::from_secs(seconds));
        }
        health.answered();
        assert_eq!(health.admit(now), Admission::Open);
    }

    #[test]
    fn only_failures_in_a_row_eject_a_standing_address() {
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..10 {
            assert_eq!(health.strike(now), None);
            assert_eq!(health.strike(now), None);
            health.answered();
        }
        health.strike(now);
        health.strike(now);
        assert_eq!(health.strike(now), Some(FIRST_BACKOFF));
    }
}
