//! Writes text-to-image prompts for an ability, and hosts text embedding.
//!
//! * `service`, `embedding_service`: the gRPC adapters; requests become domain values there.
//! * `backend`: who writes the prompts; `grammar` draws them from the ability's file, `author` asks a
//!   language model.
//! * `embedding`: the model that embeds texts.
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

use backend::{PromptWriter, author::Author, grammar::Grammar};
use dataset::ability::Abilities;
use embedding::Embedder;
use embedding_service::Embedding;
use llm::{LanguageModel, Local, Remote};
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
/// `REDIS_URL` that is none, a language model without address, name or the key it was promised, a
/// journal that cannot be opened.
pub async fn start(
    options: Options,
    listener: Listener,
    telemetry: &Telemetry,
    stop: CancellationToken,
) -> Result<Handle, StartError> {
    llm::journal::on_passage(dataset::store::kill_point::pass);
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
    let backend = writer(&options, &abilities).await.map_err(startup)?;
    let warm_up = Arc::clone(&backend);
    let prompts = Promptgen {
        abilities,
        backend,
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
    // The abilities are checked and in memory: only a language model is left to wait for.
    let warm_up = async move { warm_up.warm_up().await };
    serve(service, listener, warm_up, stop).await
}

/// Temperature where the operator names none: prompts should differ.
const TEMPERATURE: f64 = 0.9;

/// The back-end that the options name.
async fn writer(
    options: &Options,
    abilities: &Arc<Abilities>,
) -> Result<Arc<dyn PromptWriter>, Error> {
    let abilities = Arc::clone(abilities);
    let model: Arc<dyn LanguageModel> = match options.backend {
        Backend::Grammar => return Ok(Arc::new(Grammar::new(abilities))),
        Backend::Openai => {
            let journal = options.journal.as_deref();
            if options.keyword_count > 0 && journal.is_none() {
                return Err(Error::KeywordsWithoutJournal);
            }
            Arc::new(Remote::open(&options.llm, journal, TEMPERATURE).await?)
        }
        Backend::Local => Arc::new(Local::open(&options.local, TEMPERATURE).await?),
    };
    let author = Author::new(abilities, model, options.keyword_count)?;
    Ok(Arc::new(author))
}
