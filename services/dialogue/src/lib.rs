//! Writes conversations about images, and holds conversations against facts.
//!
//! * `service`: the gRPC adapter; requests become domain values in `request`.
//! * `backend`: who writes; `grammar` asks and answers by the ability's templates, `author` has a
//!   language model write by a plan.
//! * `queue`: what waits, as a gauge.
//! * `check`, `lexicon`: what a conversation claims, held against the facts.

mod backend;
mod check;
mod error;
mod lexicon;
mod options;
mod queue;
mod request;
mod service;

pub use error::Error;
pub use options::{Arguments, Backend, Options};

use backend::{DialogueWriter, author::Author, grammar::Grammar};
use check::Checker;
use dataset::ability::Abilities;
use llm::{LanguageModel, Local, Remote};
use proto::dialogue::v1::dialogue_service_server::DialogueServiceServer;
use runtime::{Handle, Listener, Service, StartError, Telemetry, serve};
use service::Dialogue;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Port used where no address is given.
pub const DEFAULT_PORT: u16 = 50053;

/// Starts the service; it serves until `stop` is cancelled.
///
/// # Errors
/// Abilities that cannot be loaded, a language model without address, name or the key it was promised,
/// a journal that cannot be opened.
pub async fn start(
    options: Options,
    listener: Listener,
    telemetry: &Telemetry,
    stop: CancellationToken,
) -> Result<Handle, StartError> {
    llm::journal::on_passage(dataset::store::kill_point::pass);
    let abilities = Abilities::load_folder(&options.abilities).map_err(Error::Abilities);
    let abilities =
        abilities.map_err(|error| StartError::Options(runtime::error::chain(&error)))?;
    let abilities = Arc::new(abilities);
    let checker = Arc::new(Checker::new(Arc::clone(&abilities)));
    let backend = writer(&options, &abilities, &checker).await;
    let backend = backend.map_err(|error| StartError::Options(runtime::error::chain(&error)))?;
    let warm_up = Arc::clone(&backend);
    let bytes = options.max_message_bytes;
    let dialogue = Dialogue::new(abilities, backend, checker, options.max_items);
    let server = DialogueServiceServer::new(dialogue)
        .max_decoding_message_size(bytes)
        .max_encoding_message_size(bytes);
    let service = Service::new(telemetry, proto::FILE_DESCRIPTOR_SET).with(server);
    // The abilities are checked and in memory: only a language model is left to wait for.
    let warm_up = async move { warm_up.warm_up().await };
    serve(service, listener, warm_up, stop).await
}

/// Temperature where the operator names none: wordings should differ, truths should not.
const TEMPERATURE: f64 = 0.7;

/// The back-end that the options name.
async fn writer(
    options: &Options,
    abilities: &Arc<Abilities>,
    checker: &Arc<Checker>,
) -> Result<Arc<dyn DialogueWriter>, Error> {
    let (abilities, checker) = (Arc::clone(abilities), Arc::clone(checker));
    let model: Arc<dyn LanguageModel> = match options.backend {
        Backend::Grammar => return Ok(Arc::new(Grammar::new(abilities, checker))),
        Backend::Openai => {
            let journal = options.journal.as_deref();
            Arc::new(Remote::open(&options.llm, journal, TEMPERATURE).await?)
        }
        Backend::Local if options.vision => return Err(Error::Blind),
        Backend::Local => Arc::new(Local::open(&options.local, TEMPERATURE).await?),
    };
    Ok(Arc::new(Author {
        abilities,
        checker,
        model,
        is_looking: options.vision,
    }))
}
