//! Prompts and embeddings through the cache. A cache that fails costs only time.

use crate::{
    backend::{Prepared, PromptWriter},
    embedding::Embedder,
    error::Error,
    request::{Item, Wanted},
};
use bytes::Bytes;
use prost::Message as _;
use proto::{dataset::v1::Prompt, promptgen::v1::TextEmbedding};
use runtime::cache::{Cache, Key, Kind};
use std::sync::Arc;

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

    /// The prompts of a request. Errors: what makes the whole request fail.
    pub(crate) fn prompts(
        &self,
        backend: &dyn PromptWriter,
        wanted: Wanted,
    ) -> Result<CachedPrompts, Error> {
        Ok(CachedPrompts {
            cache: self.cache.clone(),
            backend: backend.name(),
            fingerprint: backend.fingerprint(&wanted)?,
            prepared: backend.prepare(&wanted)?,
            items: wanted.items,
        })
    }

    /// The vector of a text.
    pub(crate) async fn embedding(
        &self,
        embedder: &Arc<Embedder>,
        text: &str,
    ) -> Result<TextEmbedding, Error> {
        let key = Key::new(Kind::TextEmbedding)
            .part("model", embedder.sha256())
            .part("text", text);
        if let Some(found) = self.cache.get(&key).await {
            return Ok(TextEmbedding::decode(found)?);
        }
        let (worker, words) = (Arc::clone(embedder), text.to_owned());
        let values = tokio::task::spawn_blocking(move || worker.embed(&words))
            .await
            .map_err(Error::Thread)??;
        let embedding = TextEmbedding { values };
        self.cache
            .put(&key, Bytes::from(embedding.encode_to_vec()))
            .await;
        Ok(embedding)
    }
}

impl CachedPrompts {
    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// The prompt of one item.
    pub(crate) async fn write(&self, item: &Item) -> Result<Prompt, Error> {
        let Item {
            sample_id,
            slot,
            attempt,
        } = item;
        let key = Key::new(Kind::Prompt)
            .part("backend", self.backend)
            .part("request", &self.fingerprint)
            .part("item", format!("{sample_id} {slot} {attempt}"));
        if let Some(found) = self.cache.get(&key).await {
            return Ok(Prompt::decode(found)?);
        }
        let prompt = self.prepared.write(item).await?;
        self.cache
            .put(&key, Bytes::from(prompt.encode_to_vec()))
            .await;
        Ok(prompt)
    }
}
