//! When a failed attempt is made again.
//!
//! Failures of a server cost: an attempt of the call, and a unit of a budget that all calls share
//! and only successes refill, so that a server that is down is not buried under retries. Answers of
//! overload cost neither: the server is well, and the limiter sees to it that it is asked less. Nor
//! does a server that has answered and cannot be reached now: it is being restarted, and nothing was
//! sent. Both end with the deadline of the call. A server that never answered is given up soon: its
//! address may be wrong.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;

use crate::{Error, Options, options::milliseconds};

/// What a success gives back, in retries.
const GIVEN_BACK: f64 = 0.5;

/// Largest share that is added to the wait a server asked for, so that several clients do not come
/// back in the same moment.
const SPREAD: f64 = 0.1;

/// The policy of one client, with its budget.
#[derive(Debug)]
pub(crate) struct Retry {
    max_attempts: u32,
    first_delay: Duration,
    max_delay: Duration,
    full: f64,
    budget: Mutex<f64>,
    has_answered: AtomicBool,
}

/// What one call has behind it.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failed: u32,
    waited: u32,
}

impl Retry {
    pub(crate) fn new(options: &Options) -> Self {
        let full = f64::from(options.retry_budget);
        Self {
            max_attempts: options.max_attempts.max(1),
            first_delay: milliseconds(options.first_delay_ms),
            max_delay: milliseconds(options.max_delay_ms),
            full,
            budget: Mutex::new(full),
            has_answered: AtomicBool::new(false),
        }
    }

    /// A call went well.
    pub(crate) fn succeeded(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        *budget = (*budget + GIVEN_BACK).min(self.full);
    }

    /// How long to wait after `error`; `None` to give up.
    pub(crate) fn delay(&self, error: &Error, attempts: &mut Attempts) -> Option<Duration> {
        if !error.is_retryable() {
            return None;
        }
        let turn = if self.is_free(error) {
            attempts.waited += 1;
            attempts.waited
        } else {
            attempts.failed += 1;
            if attempts.failed >= self.max_attempts || !self.withdraw() {
                return None;
            }
            attempts.failed
        };
        match error.retry_after() {
            Some(asked) => Some(asked),
            None => Some(self.backoff(turn)),
        }
    }

    fn is_free(&self, error: &Error) -> bool {
        match error {
            Error::Overloaded { .. } => true,
            Error::Unreachable { .. } => self.has_answered.load(Ordering::Relaxed),
            _ => false,
        }
    }

    fn backoff(&self, turn: u32) -> Duration {
        let doubled = self.first_delay.saturating_mul(1 << (turn - 1).min(16));
        let longest = doubled.min(self.max_delay);
        longest.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    fn withdraw(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = *budget >= 1.0;
        if is_there {
            *budget -= 1.0;
        }
        is_there
    }
}

/// The wait that a server asked for, a little longer.
pub(crate) fn spread(asked: Duration) -> Duration {
    asked.mul_f64(1.0 + rand::rng().random_range(0.0..=SPREAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(retry_budget: u32) -> Retry {
        Retry::new(&Options {
            retry_budget,
            max_attempts: 3,
            ..Options::default()
        })
    }

    fn failed() -> Error {
        Error::Server {
            status: 500,
            message: String::new(),
        }
    }

    #[test]
    fn failures_end_with_the_attempts_or_the_budget_and_waiting_does_not() {
        let policy = retry(100);
        let mut attempts = Attempts::default();
        let first = policy.delay(&failed(), &mut attempts).expect("a retry");
        assert!((250..=500).contains(&first.as_millis()), "{first:?}");
        let second = policy.delay(&failed(), &mut attempts).expect("a retry");
        assert!((500..=1000).contains(&second.as_millis()), "{second:?}");
        assert!(policy.delay(&failed(), &mut attempts).is_none());

        let poor = retry(2);
        let mut given = 0;
        for _ in 0..10 {
            given += u32::from(poor.delay(&failed(), &mut Attempts::default()).is_some());
        }
        assert_eq!(given, 2);
        poor.succeeded();
        poor.succeeded();
        assert!(poor.delay(&failed(), &mut Attempts::default()).is_some());

        let overloaded = Error::Overloaded {
            status: 429,
            message: String::new(),
            retry_after: Some(Duration::from_secs(9)),
        };
        let mut attempts = Attempts::default();
        for _ in 0..50 {
            let delay = poor.delay(&overloaded, &mut attempts);
            assert_eq!(delay, Some(Duration::from_secs(9)));
        }
        let away = || Error::Unreachable {
            url: String::new(),
            reason: String::new(),
        };
        let unknown = retry(100);
        let waits = |policy: &Retry| {
            let mut attempts = Attempts::default();
            (0..50)
                .filter(|_| policy.delay(&away(), &mut attempts).is_some())
                .count()
        };
        assert_eq!(waits(&unknown), 2);
        unknown.succeeded();
        assert_eq!(waits(&unknown), 50);
        let refused = Error::Refused {
            status: 400,
            message: String::new(),
        };
        assert!(poor.delay(&refused, &mut attempts).is_none());
    }
}
