//! A bucket of tokens: an amount per minute, with a little ahead.

use std::time::Duration;

use tokio::time::Instant;

/// How much may be spent at once: what a few seconds bring.
const BURST_SECONDS: f64 = 5.0;

/// An amount that refills evenly. Its level may fall below zero: what was spent beyond what was
/// reserved has to come in again first.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    capacity: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A bucket that starts full. It holds five seconds' worth, one unit at least.
    pub(super) fn per_minute(amount: u64, now: Instant) -> Self {
        let per_second = amount as f64 / 60.0;
        let capacity = (per_second * BURST_SECONDS).max(1.0);
        Self {
            per_second,
            capacity,
            level: capacity,
            at: now,
        }
    }

    /// How long until `amount` is there; more than the bucket holds counts as all it holds.
    pub(super) fn wait(&mut self, amount: f64, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.per_second).min(self.capacity);
        self.at = now;
        let missing = amount.min(self.capacity) - self.level;
        if missing <= 0.0 {
            return Duration::ZERO;
        }
        // A microsecond more, so that rounding never leads to a second wait for nothing.
        Duration::from_secs_f64(missing / self.per_second) + Duration::from_micros(1)
    }

    /// Takes an amount; a negative one is given back.
    pub(super) fn take(&mut self, amount: f64) {
        self.level = (self.level - amount).min(self.capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_brings_its_amount_and_an_overdraft_is_paid_first() {
        let start = Instant::now();
        let mut bucket = Bucket::per_minute(600, start);
        assert_eq!(bucket.wait(50.0, start), Duration::ZERO);
        bucket.take(60.0);
        let wait = bucket.wait(10.0, start);
        assert!((wait.as_secs_f64() - 2.0).abs() < 1e-3, "{wait:?}");
        assert_eq!(bucket.wait(10.0, start + wait), Duration::ZERO);
        // Larger than the bucket: served when it is full, else never.
        assert_eq!(
            bucket.wait(9_999.0, start + Duration::from_secs(60)),
            Duration::ZERO
        );
    }
}
