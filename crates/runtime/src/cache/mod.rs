//! A cache of bytes: prompts, answers of language models, embeddings.
//!
//! In-process by default. With `REDIS_URL` a second tier is shared with other processes; when it
//! is slow, full or gone, the work goes on without it. Nothing here is the only copy of anything.

mod redis_tier;

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use self::redis_tier::RedisTier;
use crate::{StartError, artefact::hex, options::CacheOptions};

/// What kind of value an entry holds. Part of its key and of the metrics' labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Image prompts.
    Prompt,
    /// Answers of language models.
    Answer,
    /// Embeddings of texts.
    TextEmbedding,
    /// Embeddings of images.
    ImageEmbedding,
    /// How unsafe images are.
    ImageSafety,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Answer => "answer",
            Self::TextEmbedding => "text-embedding",
            Self::ImageEmbedding => "image-embedding",
            Self::ImageSafety => "image-safety",
        }
    }
}

/// The key of one entry: a hash of everything that decides the value.
#[derive(Debug, Clone)]
pub struct Key {
    kind: Kind,
    hasher: Sha256,
}

impl Key {
    /// A key without parts.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            hasher: Sha256::new(),
        }
    }

    /// Adds one thing that decides the value: model hash, seed, prompt, sampling settings, and for
    /// answers the sample's id and attempt. Names and values are hashed with their lengths, so
    /// that no two lists of parts run into each other.
    #[must_use]
    pub fn part(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for bytes in [name.as_bytes(), value.as_ref()] {
            self.hasher.update((bytes.len() as u64).to_le_bytes());
            self.hasher.update(bytes);
        }
        self
    }

    /// Namespace, version of the encoding, kind, hash.
    fn name(&self) -> String {
        format!(
            "diptych:v1:{}:{}",
            self.kind.name(),
            hex(&self.hasher.clone().finalize())
        )
    }
}

/// The cache. Cheap to clone; clones share the entries.
#[derive(Debug, Clone)]
pub struct Cache {
    local: moka::future::Cache<String, Bytes>,
    shared: Option<Arc<RedisTier>>,
    max_value_bytes: usize,
}

impl Cache {
    /// A cache as the options say. Redis is connected to when it is first needed. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// A `REDIS_URL` that is none. A Redis that does not answer is no error.
    pub fn open(options: &CacheOptions) -> Result<Self, StartError> {
        crate::telemetry::install_crypto();
        let weigh = |key: &String, value: &Bytes| {
            u32::try_from(key.len() + value.len() + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
        };
        let local = moka::future::Cache::builder()
            .weigher(weigh)
            .max_capacity(options.cache_max_bytes)
            .time_to_live(options.cache_ttl())
            .build();
        let shared = options.redis_url.as_deref().filter(|url| !url.is_empty());
        let shared = shared
            .map(|url| RedisTier::open(url, options))
            .transpose()?
            .map(Arc::new);
        Ok(Self {
            local,
            shared,
            max_value_bytes: options.cache_max_value_bytes,
        })
    }

    /// The value of `key`, from the cache or else by `compute`. Callers that ask for the same key
    /// at the same time share one computation; when its caller leaves, another takes over. What is
    /// found and not sound, as `is_sound` judges, counts as absent and is written over.
    ///
    /// # Errors
    /// What `compute` failed with, for all that waited. Failures are not cached.
    pub async fn get_or_compute<F, E>(
        &self,
        key: &Key,
        is_sound: impl Fn(&Bytes) -> bool,
        compute: F,
    ) -> Result<Bytes, Arc<E>>
    where
        F: Future<Output = Result<Bytes, E>>,
        E: Send + Sync + 'static,
    {
        let name = key.name();
        let known = self.local.get(&name).await;
        if known.is_some_and(|value| !is_sound(&value)) {
            self.local.invalidate(&name).await;
        }
        let mut local_hit = true;
        let fill = async {
            local_hit = false;
            self.fill(key.kind, &name, is_sound, compute).await
        };
        let value = self.local.try_get_with_by_ref(&name, fill).await;
        count(key.kind, "local", if local_hit { "hit" } else { "miss" });
        if let Ok(value) = &value
            && value.len() > self.max_value_bytes
        {
            self.local.invalidate(&name).await;
        }
        value
    }

    /// The value of `key`, if it is there.
    pub async fn get(&self, key: &Key) -> Option<Bytes> {
        let name = key.name();
        let local = self.local.get(&name).await;
        count(
            key.kind,
            "local",
            if local.is_some() { "hit" } else { "miss" },
        );
        match (local, &self.shared) {
            (Some(value), _) => Some(value),
            (None, Some(shared)) => {
                let value = shared.get(key.kind, &name).await?;
                self.local.insert(name, value.clone()).await;
                Some(value)
            }
            (None, None) => None,
        }
    }

    /// Stores a value. Values over the size bound are dropped.
    pub async fn put(&self, key: &Key, value: Bytes) {
        if value.len() > self.max_value_bytes {
            return;
        }
        let name = key.name();
        if let Some(shared) = &self.shared {
            shared.put(key.kind, &name, &value).await;
        }
        self.local.insert(name, value).await;
    }

    /// Asks the shared tier whether it is there: `None` without one, else what is wrong with it.
    pub async fn ping(&self) -> Option<Result<(), String>> {
        match &self.shared {
            Some(shared) => Some(shared.ping().await),
            None => None,
        }
    }

    async fn fill<F, E>(
        &self,
        kind: Kind,
        name: &str,
        is_sound: impl Fn(&Bytes) -> bool,
        compute: F,
    ) -> Result<Bytes, E>
    where
        F: Future<Output = Result<Bytes, E>>,
    {
        let Some(shared) = &self.shared else {
            return compute.await;
        };
        match shared.get(kind, name).await {
            Some(value) if is_sound(&value) => return Ok(value),
            _ => {}
        }
        let value = compute.await?;
        if value.len() <= self.max_value_bytes {
            shared.put(kind, name, &value).await;
        }
        Ok(value)
    }
}

/// What an entry costs beside its bytes, roughly (measured by nobody; moka keeps about this much).
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// `diptych_cache_lookups_total{kind, tier, result}`; a result is hit, miss, error or skipped.
fn count(kind: Kind, tier: &'static str, result: &'static str) {
    metrics::counter!(
        "diptych_cache_lookups_total",
        "kind" => kind.name(), "tier" => tier, "result" => result
    )
    .increment(1);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn key(text: &str) -> Key {
        Key::new(Kind::Prompt).part("text", text)
    }

    #[tokio::test]
    async fn callers_of_one_key_share_one_computation_and_failures_are_not_kept() {
        let cache = Cache::open(&CacheOptions::default()).expect("a cache");
        let computed = AtomicU32::new(0);
        let barrier = tokio::sync::Barrier::new(2);
        let ask = || async {
            let compute = async {
                computed.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok::<_, std::io::Error>(Bytes::from_static(b"value"))
            };
            barrier.wait().await;
            cache
                .get_or_compute(&key("a"), |_| true, compute)
                .await
                .expect("computed")
        };
        let (one, two) = tokio::join!(ask(), ask());
        assert_eq!((one, computed.load(Ordering::Relaxed)), (two, 1));

        let failed = cache
            .get_or_compute(&key("b"), |_| true, async {
                Err::<Bytes, _>(std::io::Error::other("no"))
            })
            .await;
        assert!(failed.is_err());
        let compute = || async { Ok::<_, ()>(Bytes::from_static(b"b")) };
        let is_sound = |value: &Bytes| value == "b";
        let value = cache.get_or_compute(&key("b"), is_sound, compute()).await;
        assert_eq!(value.expect("computed"), "b");
        cache.put(&key("b"), Bytes::from_static(b"garbage")).await;
        let value = cache.get_or_compute(&key("b"), is_sound, compute()).await;
        assert_eq!(value.expect("computed again"), "b");
    }

    #[tokio::test]
    async fn the_memory_of_the_cache_is_bounded_and_large_values_are_not_kept() {
        let options = CacheOptions {
            cache_max_bytes: 10_000,
            cache_max_value_bytes: 1_000,
            cache_ttl_seconds: u64::MAX,
            ..CacheOptions::default()
        };
        let cache = Cache::open(&options).expect("a cache");
        for index in 0..100 {
            cache
                .put(&key(&index.to_string()), Bytes::from(vec![0; 900]))
                .await;
        }
        cache.local.run_pending_tasks().await;
        assert!(cache.local.weighted_size() <= 10_000);
        assert!(cache.local.entry_count() > 0, "something must be kept");

        let large = Bytes::from(vec![0; 1_001]);
        let compute = async { Ok::<_, ()>(large) };
        cache
            .get_or_compute(&key("large"), |_| true, compute)
            .await
            .expect("computed");
        assert_eq!(cache.get(&key("large")).await, None);
    }

    #[test]
    fn parts_of_a_key_do_not_run_into_each_other() {
        let names = [
            Key::new(Kind::Prompt).part("a", "bc").name(),
            Key::new(Kind::Prompt).part("ab", "c").name(),
            Key::new(Kind::Prompt).part("a", "b").part("c", "").name(),
            Key::new(Kind::Answer).part("a", "bc").name(),
        ];
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names[0].starts_with("diptych:v1:prompt:"));
    }
}
