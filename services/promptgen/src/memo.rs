//! Prompts and embeddings through the cache. A cache that fails, or holds what nobody can read,
//! costs only time.

use crate::{
    backend::{Prepared, PromptWriter},
    embedding::Embedder,
    error::Error,
    request::{Item, Wanted},
};
use bytes::Bytes;
use models::ops::simd::Isa;
use prost::Message;
use proto::{dataset::v1::Prompt, promptgen::v1::TextEmbedding};
use runtime::cache::{Cache, Key, Kind};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The cache with what this service keeps in it.
#[derive(Clone)]
pub(crate) struct Memo {
    cache: Cache,
}

/// Writes the prompts of one request, each through the cache.
pub(crate) struct CachedPrompts {
    cache: Cache,
    backend: &'static str,
    fingerprint: String,
    prepared: Box<dyn Prepared>,
    items: Vec<Item>,
}

impl Memo {
    pub(crate) fn new(cache: Cache) -> Self {
        Self { cache }
    }

    /// The prompts of a request. Errors: what makes the whole request fail, `left` among it.
    pub(crate) fn prompts(
        &self,
        backend: &dyn PromptWriter,
        wanted: Wanted,
        left: &CancellationToken,
    ) -> Result<CachedPrompts, Error> {
        Ok(CachedPrompts {
            cache: self.cache.clone(),
            backend: backend.name(),
            fingerprint: backend.fingerprint(&wanted)?,
            prepared: backend.prepare(&wanted, left)?,
            items: wanted.items,
        })
    }

    /// The vector of a text.
    pub(crate) async fn embedding(
        &self,
        embedder: &Arc<Embedder>,
        text: &str,
    ) -> Result<TextEmbedding, Error> {
        let (worker, words) = (Arc::clone(embedder), text.to_owned());
        let compute = async {
            let values = tokio::task::spawn_blocking(move || worker.embed(&words))
                .await
                .map_err(Error::Thread)??;
            Ok(TextEmbedding { values })
        };
        remembered(&self.cache, &embedding_key(embedder, text), compute).await
    }
}

impl CachedPrompts {
    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The prompt of one item.
    pub(crate) async fn write(&self, item: &Item) -> Result<Prompt, Error> {
        remembered(&self.cache, &self.key(item), self.prepared.write(item)).await
    }

    fn key(&self, item: &Item) -> Key {
        let Item {
            sample_id,
            slot,
            attempt,
            picture,
        } = item;
        Key::new(Kind::Prompt)
            .part("backend", self.backend)
            .part("request", &self.fingerprint)
            .part("item", format!("{sample_id} {slot} {attempt} {picture}"))
    }
}

fn embedding_key(embedder: &Embedder, text: &str) -> Key {
    Key::new(Kind::TextEmbedding)
        .part("model", embedder.sha256())
        .part("isa", Isa::current().name())
        .part("text", text)
}

/// What lies under a key, or else what `compute` gives, once for all who ask at the same time. A
/// value that cannot be read counts as none, and is overwritten.
async fn remembered<M: Message + Default>(
    cache: &Cache,
    key: &Key,
    compute: impl Future<Output = Result<M, Error>>,
) -> Result<M, Error> {
    let is_sound = |bytes: &Bytes| M::decode(bytes.as_ref()).is_ok();
    let encoded = async { Ok(Bytes::from(compute.await?.encode_to_vec())) };
    let bytes = cache.get_or_compute(key, is_sound, encoded).await;
    M::decode(bytes.map_err(Error::Shared)?).map_err(Error::Encoding)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dataset::ability::Abilities;
    use proto::promptgen::v1::{GeneratePromptsRequest, PromptItem};
    use runtime::options::CacheOptions;

    use super::*;
    use crate::backend::grammar::Grammar;

    async fn stored<M: Message + Default>(cache: &Cache, key: &Key) -> Option<M> {
        M::decode(cache.get(key).await?).ok()
    }

    #[tokio::test]
    async fn a_cached_value_that_cannot_be_read_is_made_again_and_overwritten() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let cache = Cache::open(&CacheOptions::default()).expect("a cache");
        let memo = Memo::new(cache.clone());
        // A number that never ends: no message begins with it.
        let garbage = Bytes::from_static(b"\xff\xff");

        let abilities = Abilities::load_folder(&root.join("abilities")).expect("abilities");
        let request = GeneratePromptsRequest {
            ability: "animal".to_owned(),
            items: vec![PromptItem {
                sample_id: "0".repeat(32),
                ..PromptItem::default()
            }],
            ..GeneratePromptsRequest::default()
        };
        let wanted = Wanted::try_from_request(request, 1).expect("a request");
        let prompts = memo
            .prompts(
                &Grammar::new(Arc::new(abilities)),
                wanted,
                &CancellationToken::new(),
            )
            .expect("an ability");
        let item = prompts.items()[0].clone();
        let key = prompts.key(&item);
        cache.put(&key, garbage.clone()).await;
        let written = prompts.write(&item).await.expect("a miss");
        assert_eq!(stored(&cache, &key).await, Some(written));

        let clip = root.join("crates/models/tests/fixtures/sd/clip");
        let embedder = Arc::new(Embedder::load("clip", &clip).expect("a model"));
        let key = embedding_key(&embedder, "a dog");
        cache.put(&key, garbage.clone()).await;
        let embedding = memo.embedding(&embedder, "a dog").await.expect("a miss");
        assert_eq!(stored(&cache, &key).await, Some(embedding));
    }
}
