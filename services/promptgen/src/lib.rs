//! Writes text-to-image prompts for an ability, and hosts text embedding.
//!
//! * `service`, `embedding_service`: the gRPC adapters; requests become domain values there.
//! * `backend`: who writes the prompts; `grammar` draws them from the ability's file.
//! * `embedding`: the text tower of a CLIP checkpoint.
//! * `memo`: both through the cache.

mod backend;
mod embedding;
mod embedding_service;
mod error;
mod memo;
mod options;
mod request;
mod service;

pub use error::Error;
pub use options::{Arguments, Backend, Options};

use backend::grammar::Grammar;
use dataset::ability::Abilities;
use embedding::Embedder;
use embedding_service::Embedding;
use memo::Memo;
use proto::promptgen::v1::{
    promptgen_service_server::PromptgenServiceServer,
    text_embedding_service_server::TextEmbeddingServiceServer,
};
use runtime::{Handle, Listener, Service, StartError, Telemetry, cache::Cache, serve};
use service::Promptgen;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Port used where no address is given.
pub const DEFAULT_PORT: u16 = 50051;

/// Starts the service; it serves until `stop` is cancelled.
///
/// # Errors
/// Abilities that cannot be loaded, an embedding model that cannot be read, a
/// `REDIS_URL` that is none.
pub async fn start(
    options: Options,
    listener: Listener,
    telemetry: &Telemetry,
    stop: CancellationToken,
) -> Result<Handle, StartError> {
    let startup = |error: Error| StartError::Options(runtime::error::chain(&error));
    let abilities = Arc::new(
        Abilities::load_folder(&options.abilities)
            .map_err(Error::Abilities)
            .map_err(startup)?,
    );
    let embedder = options
        .embedding_folder()
        .map(|(name, folder)| Embedder::load(&name, &folder));
    let embedder = embedder.transpose().map_err(startup)?;
    let memo = Memo::new(Cache::open(&options.cache)?);
    let backend = match options.backend {
        Backend::Grammar => Grammar::new(Arc::clone(&abilities)),
    };
    let prompts = Promptgen {
        abilities,
        backend: Arc::new(backend),
        memo: memo.clone(),
        max_items: options.max_items,
        embedding_model: embedder.as_ref().map(Embedder::info),
    };
    let embeddings = Embedding::new(embedder, memo);
    let bytes = options.max_message_bytes;
    let service = Service::new(telemetry, proto::FILE_DESCRIPTOR_SET)
        .with(
            PromptgenServiceServer::new(prompts)
                .max_decoding_message_size(bytes)
                .max_encoding_message_size(bytes),
        )
        .with(
            TextEmbeddingServiceServer::new(embeddings)
                .max_decoding_message_size(bytes)
                .max_encoding_message_size(bytes),
        );
    // The abilities are checked and in memory: nothing is left to warm up.
    serve(service, listener, async { Ok::<(), Error>(()) }, stop).await
}
