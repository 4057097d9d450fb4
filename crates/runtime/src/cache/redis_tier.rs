//! The tier in Redis: short time-outs, and a breaker, so that a Redis in trouble costs nothing.
//!
//! A stored value begins with 8 bytes of its own SHA-256: what another program, or half a write,
//! left under our key is a miss and not an answer.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use sha2::{Digest as _, Sha256};

use super::{Kind, count};
use crate::{StartError, options::CacheOptions};

/// See the module.
pub(super) struct RedisTier {
    connection: ConnectionManager,
    breaker: Mutex<Breaker>,
    timeout: Duration,
    ttl_ms: u64,
    max_value_bytes: usize,
}

const SEAL_BYTES: usize = 8;

impl RedisTier {
    pub(super) fn open(url: &str, options: &CacheOptions) -> Result<Self, StartError> {
        let timeout = Duration::from_millis(options.cache_timeout_ms);
        let client = redis::Client::open(url).map_err(StartError::Redis)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(10))
            .set_max_delay(timeout);
        let connection =
            ConnectionManager::new_lazy_with_config(client, config).map_err(StartError::Redis)?;
        Ok(Self {
            connection,
            breaker: Mutex::default(),
            timeout,
            ttl_ms: options.cache_ttl().as_secs().saturating_mul(1000).max(1),
            max_value_bytes: options.cache_max_value_bytes,
        })
    }

    pub(super) async fn get(&self, kind: Kind, name: &str) -> Option<Bytes> {
        // A range, so that whatever lies there, no more than the bound is read.
        let mut command = redis::cmd("GETRANGE");
        command
            .arg(name)
            .arg(0)
            .arg(self.max_value_bytes + SEAL_BYTES);
        let value = self.run::<Vec<u8>>(kind, &command).await?;
        let value = unseal(value);
        count(kind, "redis", if value.is_some() { "hit" } else { "miss" });
        value
    }

    pub(super) async fn put(&self, kind: Kind, name: &str, value: &[u8]) {
        let mut command = redis::cmd("SET");
        command
            .arg(name)
            .arg(seal(value))
            .arg("PX")
            .arg(self.ttl_ms);
        let _lost_write_is_a_later_miss = self.run::<()>(kind, &command).await;
    }

    /// Asks Redis for an answer, past the breaker.
    pub(super) async fn ping(&self) -> Result<(), String> {
        let mut connection = self.connection.clone();
        let command = redis::cmd("PING");
        let answer = command.query_async::<String>(&mut connection);
        match tokio::time::timeout(self.timeout * 2, answer).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    async fn run<T: redis::FromRedisValue>(&self, kind: Kind, command: &redis::Cmd) -> Option<T> {
        if !self.breaker().admits(Instant::now()) {
            count(kind, "redis", "skipped");
            return None;
        }
        let mut connection = self.connection.clone();
        let outcome =
            tokio::time::timeout(self.timeout, command.query_async(&mut connection)).await;
        let problem = match outcome {
            Ok(Ok(value)) => {
                self.breaker().succeeded();
                return Some(value);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        count(kind, "redis", "error");
        self.breaker().failed(Instant::now(), &problem);
        None
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl std::fmt::Debug for RedisTier {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        out.write_str("RedisTier")
    }
}

/// After three failures in a row Redis is left alone for a while; then one command tries it.
#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

const FAILURES_TO_OPEN: u32 = 3;
const PAUSE: Duration = Duration::from_secs(5);

impl Breaker {
    fn admits(&mut self, now: Instant) -> bool {
        match self.open_until {
            Some(until) if now < until => false,
            Some(_) => {
                // The one that tries; the others wait for its outcome.
                self.open_until = Some(now + PAUSE);
                true
            }
            None => true,
        }
    }

    fn succeeded(&mut self) {
        if self.open_until.is_some() {
            tracing::info!("Redis answers again; the shared cache is in use");
        }
        *self = Self::default();
    }

    fn failed(&mut self, now: Instant, problem: &str) {
        self.failures = self.failures.saturating_add(1);
        if self.failures == FAILURES_TO_OPEN {
            tracing::warn!(problem, "Redis fails; going on without the shared cache");
            metrics::counter!("diptych_cache_breaker_opened_total").increment(1);
        }
        if self.failures >= FAILURES_TO_OPEN {
            self.open_until = Some(now + PAUSE);
        }
    }
}

fn seal(value: &[u8]) -> Vec<u8> {
    let mut sealed = Sha256::digest(value)[..SEAL_BYTES].to_vec();
    sealed.extend_from_slice(value);
    sealed
}

fn unseal(mut sealed: Vec<u8>) -> Option<Bytes> {
    let value = sealed.split_off(SEAL_BYTES.min(sealed.len()));
    let whole = sealed.len() == SEAL_BYTES && Sha256::digest(&value)[..SEAL_BYTES] == sealed;
    whole.then(|| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breaker_opens_after_three_failures_and_lets_one_probe_through() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..FAILURES_TO_OPEN {
            assert!(breaker.admits(start));
            breaker.failed(start, "gone");
        }
        assert!(!breaker.admits(start + PAUSE / 2));
        assert!(breaker.admits(start + PAUSE), "one probe");
        assert!(!breaker.admits(start + PAUSE), "and not a second");
        breaker.succeeded();
        assert!(breaker.admits(start + PAUSE));
    }

    #[test]
    fn a_damaged_value_is_a_miss() {
        let sealed = seal(b"embedding");
        assert_eq!(unseal(sealed.clone()).expect("whole"), "embedding");
        assert_eq!(unseal(sealed[..sealed.len() - 1].to_vec()), None);
        assert_eq!(unseal(b"short".to_vec()), None);
        assert_eq!(unseal(Vec::new()), None);
        assert_eq!(unseal(seal(b"")).expect("an empty value is a value"), "");
    }
}
