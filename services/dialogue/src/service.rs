//! gRPC adapter.

use crate::{
    backend::{DialogueWriter, grammar::unknown_ability},
    check::Checker,
    error::Error,
    queue::Queue,
    request::{Item, Style, Wanted, to_check},
};
use dataset::ability::Abilities;
use futures::{Stream, StreamExt as _, stream};
use proto::{
    dataset::v1::{Capabilities, Prompt},
    dialogue::v1::{
        CheckDialogueRequest, CheckDialogueResponse, GetCapabilitiesRequest,
        GetCapabilitiesResponse, WriteDialoguesRequest, WriteDialoguesResponse,
        dialogue_service_server::DialogueService, write_dialogues_response::Result as Outcome,
    },
};
use runtime::{RequestContext, item_failure, respond};
use std::{pin::Pin, sync::Arc};
use tonic::{Request, Response, Status};

/// Writes and checks conversations.
pub(crate) struct Dialogue {
    abilities: Arc<Abilities>,
    backend: Arc<dyn DialogueWriter>,
    checker: Arc<Checker>,
    max_items: usize,
    queue: Arc<Queue>,
}

impl Dialogue {
    pub(crate) fn new(
        abilities: Arc<Abilities>,
        backend: Arc<dyn DialogueWriter>,
        checker: Arc<Checker>,
        max_items: usize,
    ) -> Self {
        Self {
            abilities,
            backend,
            checker,
            max_items,
            queue: Queue::new(),
        }
    }

    fn wanted(&self, request: WriteDialoguesRequest) -> Result<Wanted, Error> {
        let wanted = Wanted::try_from_request(request, self.max_items)?;
        let round_count = wanted.style.round_count;
        for item in &wanted.items {
            let image_count = item.prompts.len();
            for Prompt { ability: name, .. } in &item.prompts {
                let ability = self.abilities.get(name);
                let ability = ability.ok_or_else(|| unknown_ability(&self.abilities, name))?;
                if round_count < ability.min_rounds(image_count) {
                    return Err(Error::TooFewRounds {
                        ability: name.clone(),
                        image_count,
                        round_count,
                    });
                }
            }
        }
        Ok(wanted)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            service: "diptych.dialogue.v1.DialogueService".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: self.backend.name().to_owned(),
            models: self.backend.model().into_iter().collect(),
            abilities: self.abilities.names().map(str::to_owned).collect(),
            features: ["multi_turn", "answer_keywords", "check"]
                .into_iter()
                .chain(self.backend.features())
                .map(str::to_owned)
                .collect(),
            max_items_per_request: u32::try_from(self.max_items).unwrap_or(u32::MAX),
            measuring_models: Vec::new(),
        }
    }
}

type DialogueStream = Pin<Box<dyn Stream<Item = Result<WriteDialoguesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DialogueService for Dialogue {
    type WriteDialoguesStream = DialogueStream;

    async fn get_capabilities(
        &self,
        _request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<GetCapabilitiesResponse>, Status> {
        Ok(Response::new(GetCapabilitiesResponse {
            capabilities: Some(self.capabilities()),
        }))
    }

    async fn write_dialogues(
        &self,
        request: Request<WriteDialoguesRequest>,
    ) -> Result<Response<Self::WriteDialoguesStream>, Status> {
        let cancelled = RequestContext::of(&request).cancelled();
        let Wanted { items, style } = self
            .wanted(request.into_inner())
            .map_err(|error| respond(&error))?;
        let backend = Arc::clone(&self.backend);
        let items: Vec<_> = items
            .into_iter()
            .map(|item| (item, self.queue.enter()))
            .collect();
        let written = stream::iter(items).map(move |(item, place)| {
            let (backend, style) = (Arc::clone(&backend), style.clone());
            async move {
                let answered = answer(backend.as_ref(), &item, &style).await;
                drop(place);
                answered
            }
        });
        let written = written.buffered(self.backend.max_concurrency().max(1));
        Ok(Response::new(Box::pin(
            written.take_until(cancelled.cancelled_owned()),
        )))
    }

    async fn check_dialogue(
        &self,
        request: Request<CheckDialogueRequest>,
    ) -> Result<Response<CheckDialogueResponse>, Status> {
        let (conversation, prompts) =
            to_check(request.into_inner()).map_err(|error| respond(&error))?;
        let disagreements = self.checker.check(&conversation, &prompts);
        Ok(Response::new(CheckDialogueResponse { disagreements }))
    }
}

/// What came of an item. A failure that all items share is the request's: asked again, it comes with
/// what is missing.
async fn answer(
    backend: &dyn DialogueWriter,
    item: &Item,
    style: &Style,
) -> Result<WriteDialoguesResponse, Status> {
    let result = match backend.write(item, style).await {
        Ok(conversation) => Outcome::Conversation(conversation),
        Err(error) if error.ends_request() => return Err(respond(&error)),
        Err(error) => Outcome::Failure(item_failure(&error)),
    };
    Ok(WriteDialoguesResponse {
        sample_id: item.sample_id.to_string(),
        result: Some(result),
    })
}
