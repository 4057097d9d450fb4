//! Retries: what is UNAVAILABLE is tried again within a budget, and a full service is asked again
//! when it said it would have room.
//!
//! The same policy as gRPC's service config with retry throttling (gRFC A6): a failing peer is not
//! buried under retries, because each costs a token and only successes bring tokens back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use tonic::{Code, Status};

use crate::{context::Deadline, error::retry_after};

/// A retry policy with its budget. Clones share the budget; keep one per peer.
///
/// Only calls whose repetition does no harm belong here: reads, seeded generation, creation with
/// a `request_id`. For a stream, retry the call that opens it.
#[derive(Debug, Clone)]
pub struct Retry {
    attempts: u32,
    first_delay: Duration,
    max_delay: Duration,
    budget: Arc<Budget>,
}

impl Default for Retry {
    /// Four attempts, from 50 ms to 2 s.
    fn default() -> Self {
        Self::new(4, Duration::from_millis(50), Duration::from_secs(2))
    }
}

impl Retry {
    /// A policy of so many attempts in all, the first included. The wait begins at `first_delay`,
    /// doubles each time, has up to a random half taken off, and never passes `max_delay`, also
    /// where the peer asks for more.
    pub fn new(attempts: u32, first_delay: Duration, max_delay: Duration) -> Self {
        Self {
            attempts,
            first_delay,
            max_delay,
            budget: Arc::default(),
        }
    }

    /// Calls until it succeeds, fails for good, or the policy ends it. The last status is returned
    /// as it came.
    ///
    /// # Errors
    /// Whatever the last attempt failed with.
    pub async fn call<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut made = 0;
        loop {
            let status = match attempt().await {
                Ok(value) => {
                    self.budget.deposit();
                    return Ok(value);
                }
                Err(status) => status,
            };
            made += 1;
            let Some(delay) = self.delay(&status, made) else {
                return Err(status);
            };
            tracing::debug!(code = ?status.code(), ?delay, attempt = made, "trying again");
            tokio::time::sleep(delay).await;
        }
    }

    /// How long to wait after `made` attempts; `None` to give up.
    fn delay(&self, status: &Status, made: u32) -> Option<Duration> {
        if made >= self.attempts {
            return None;
        }
        let asked = retry_after(status);
        match status.code() {
            Code::Unavailable if self.budget.withdraw() => {}
            // The peer is well and said when it has room: that costs no budget.
            Code::ResourceExhausted if asked.is_some() => {}
            _ => return None,
        }
        let backoff = self.first_delay.saturating_mul(1 << (made - 1).min(16));
        let jittered = backoff.mul_f64(rand::rng().random_range(0.5..=1.0));
        let delay = asked.unwrap_or(jittered).min(self.max_delay);
        let deadline = opentelemetry::Context::current().get::<Deadline>().copied();
        let in_time = deadline.is_none_or(|until| std::time::Instant::now() + delay < until.0);
        in_time.then_some(delay)
    }
}

/// Tokens, in tenths. Full at first; a retry takes a whole one, a success brings a tenth back, and
/// below half nothing is retried.
#[derive(Debug)]
struct Budget(AtomicU32);

const FULL: u32 = 100;
const RETRY_COST: u32 = 10;

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(FULL))
    }
}

impl Budget {
    fn deposit(&self) {
        let add = |tokens: u32| (tokens < FULL).then_some(tokens + 1);
        let _already_full = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn withdraw(&self) -> bool {
        let take = |tokens: u32| (tokens > FULL / 2).then(|| tokens.saturating_sub(RETRY_COST));
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick() -> Retry {
        Retry::new(3, Duration::ZERO, Duration::ZERO)
    }

    #[tokio::test]
    async fn an_unavailable_peer_is_tried_again_and_a_refusal_is_not() {
        let calls = AtomicU32::new(0);
        let answer = quick()
            .call(|| {
                let made = calls.fetch_add(1, Ordering::Relaxed);
                std::future::ready(if made < 2 {
                    Err(Status::unavailable(""))
                } else {
                    Ok(made)
                })
            })
            .await;
        assert_eq!(answer.expect("the third attempt succeeds"), 2);

        let calls = AtomicU32::new(0);
        let refused = quick()
            .call(|| {
                calls.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Err::<(), _>(Status::invalid_argument("no")))
            })
            .await;
        assert_eq!(refused.expect_err("refused").code(), Code::InvalidArgument);
        assert_eq!(calls.into_inner(), 1);
    }

    #[tokio::test]
    async fn the_budget_ends_the_retries_of_a_peer_that_stays_away() {
        let retry = quick();
        let calls = AtomicU32::new(0);
        for _ in 0..50 {
            let failed = retry
                .call(|| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    std::future::ready(Err::<(), _>(Status::unavailable("")))
                })
                .await;
            assert!(failed.is_err());
        }
        // 100 tenths down to 50 in steps of 10: five retries beside the fifty first attempts.
        assert_eq!(calls.into_inner(), 55);
    }
}
