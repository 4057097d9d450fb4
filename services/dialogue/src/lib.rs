//! Writes conversations about images, and holds conversations against facts.
//!
//! * `service`: the gRPC adapter; requests become domain values in `request`.
//! * `backend`: who writes; `grammar` asks and answers by the ability's templates.
//! * `check`, `lexicon`: what a conversation claims, held against the facts.

mod backend;
mod check;
mod error;
mod lexicon;
mod options;
mod request;
mod service;

pub use error::Error;
pub use options::{Arguments, Backend, Options};

use backend::grammar::Grammar;
use check::Checker;
use dataset::ability::Abilities;
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
/// Abilities that cannot be loaded.
pub async fn start(
    options: Options,
    listener: Listener,
    telemetry: &Telemetry,
    stop: CancellationToken,
) -> Result<Handle, StartError> {
    let abilities = Abilities::load_folder(&options.abilities).map_err(Error::Abilities);
    let abilities =
        abilities.map_err(|error| StartError::Options(runtime::error::chain(&error)))?;
    let abilities = Arc::new(abilities);
    let checker = Arc::new(Checker::new(Arc::clone(&abilities)));
    let backend = match options.backend {
        Backend::Grammar => Grammar::new(Arc::clone(&abilities), Arc::clone(&checker)),
    };
    let bytes = options.max_message_bytes;
    let dialogue = Dialogue::new(abilities, Arc::new(backend), checker, options.max_items);
    let server = DialogueServiceServer::new(dialogue)
        .max_decoding_message_size(bytes)
        .max_encoding_message_size(bytes);
    let service = Service::new(telemetry, proto::FILE_DESCRIPTOR_SET).with(server);
    // The abilities are checked and in memory: nothing is left to warm up.
    serve(service, listener, async { Ok::<(), Error>(()) }, stop).await
}
