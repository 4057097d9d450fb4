//! gRPC adapter of prompt writing.

use crate::{
    backend::{PromptWriter, grammar::unknown_ability},
    error::Error,
    memo::{CachedPrompts, Memo},
    request::{Item, Wanted},
};
use dataset::ability::Abilities;
use futures::{Stream, StreamExt as _, stream};
use proto::{
    dataset::v1::{Ability, Capabilities, ModelInfo},
    promptgen::v1::{
        GeneratePromptsRequest, GeneratePromptsResponse, GetAbilityRequest, GetAbilityResponse,
        GetCapabilitiesRequest, GetCapabilitiesResponse, ListAbilitiesRequest,
        ListAbilitiesResponse, generate_prompts_response::Result as Outcome,
        promptgen_service_server::PromptgenService,
    },
};
use runtime::{RequestContext, item_failure, respond};
use std::{pin::Pin, sync::Arc};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const DEFAULT_PAGE_SIZE: usize = 50;
const MAX_PAGE_SIZE: u32 = 100;

/// Writes prompts through a back-end and the cache.
pub(crate) struct Promptgen {
    pub(crate) abilities: Arc<Abilities>,
    pub(crate) backend: Arc<dyn PromptWriter>,
    pub(crate) memo: Memo,
    /// Most items of one request.
    pub(crate) max_items: usize,
    /// The embedding model hosted beside, where there is one.
    pub(crate) embedding_model: Option<ModelInfo>,
}

impl Promptgen {
    fn list(&self, request: &ListAbilitiesRequest) -> Result<ListAbilitiesResponse, Error> {
        let page_size = match request.page_size {
            0 => DEFAULT_PAGE_SIZE,
            given if given <= MAX_PAGE_SIZE => given as usize,
            given => {
                return Err(Error::field(
                    "page_size",
                    format!("{given} is over {MAX_PAGE_SIZE}"),
                ));
            }
        };
        let after = page_start(&self.abilities, &request.page_token)?;
        let rest = self
            .abilities
            .iter()
            .filter(|ability| after.is_none_or(|after| ability.name() > after));
        let mut page: Vec<_> = rest.take(page_size + 1).collect();
        let is_last = page.len() <= page_size;
        page.truncate(page_size);
        let last = page.last().filter(|_| !is_last);
        Ok(ListAbilitiesResponse {
            next_page_token: last
                .map(|ability| format!("{TOKEN_PREFIX}{}", ability.name()))
                .unwrap_or_default(),
            abilities: page.into_iter().map(Ability::from).collect(),
        })
    }

    /// The prompts of a request, prepared away from the threads that serve: an order may take its time,
    /// unless the caller leaves.
    async fn prompts(
        &self,
        request: GeneratePromptsRequest,
        left: CancellationToken,
    ) -> Result<CachedPrompts, Error> {
        let wanted = Wanted::try_from_request(request, self.max_items)?;
        if let Some(ability) = self.abilities.get(&wanted.ability) {
            wanted.check_pictures(ability)?;
        }
        let (memo, backend) = (self.memo.clone(), Arc::clone(&self.backend));
        let prepared = spawn_blocking(move || memo.prompts(backend.as_ref(), wanted, &left));
        prepared.await.map_err(Error::Thread)?
    }

    fn capabilities(&self) -> Capabilities {
        let embedding = self.embedding_model.as_ref().map(|_| "text_embedding");
        let features = [
            "webui_prompts",
            "facts",
            "style_weights",
            "benchmark_split",
            "multi_image",
        ];
        let features = features.into_iter();
        let model = self.backend.model();
        let features = features.chain(embedding);
        Capabilities {
            service: "diptych.promptgen.v1.PromptgenService".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: self.backend.name().to_owned(),
            models: model
                .into_iter()
                .chain(self.embedding_model.clone())
                .collect(),
            abilities: self.abilities.names().map(str::to_owned).collect(),
            features: features.map(str::to_owned).collect(),
            max_items_per_request: u32::try_from(self.max_items).unwrap_or(u32::MAX),
            measuring_models: Vec::new(),
        }
    }
}

type PromptStream = Pin<Box<dyn Stream<Item = Result<GeneratePromptsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl PromptgenService for Promptgen {
    type GeneratePromptsStream = PromptStream;

    async fn get_capabilities(
        &self,
        _request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<GetCapabilitiesResponse>, Status> {
        Ok(Response::new(GetCapabilitiesResponse {
            capabilities: Some(self.capabilities()),
        }))
    }

    async fn list_abilities(
        &self,
        request: Request<ListAbilitiesRequest>,
    ) -> Result<Response<ListAbilitiesResponse>, Status> {
        self.list(request.get_ref())
            .map(Response::new)
            .map_err(|error| respond(&error))
    }

    async fn get_ability(
        &self,
        request: Request<GetAbilityRequest>,
    ) -> Result<Response<GetAbilityResponse>, Status> {
        let name = &request.get_ref().name;
        match self.abilities.get(name) {
            Some(ability) => Ok(Response::new(GetAbilityResponse {
                ability: Some(ability.into()),
            })),
            None => Err(respond(&unknown_ability(&self.abilities, name))),
        }
    }

    async fn generate_prompts(
        &self,
        request: Request<GeneratePromptsRequest>,
    ) -> Result<Response<Self::GeneratePromptsStream>, Status> {
        let cancelled = RequestContext::of(&request).cancelled();
        let prompts = self
            .prompts(request.into_inner(), cancelled.clone())
            .await
            .map_err(|error| respond(&error))?;
        let prompts = Arc::new(prompts);
        let items = stream::iter(prompts.items().to_vec());
        let written = items.map(move |item| {
            let prompts = Arc::clone(&prompts);
            async move { answer(&prompts, &item).await }
        });
        let written = written.buffered(self.backend.max_concurrency().max(1));
        Ok(Response::new(Box::pin(
            written.take_until(cancelled.cancelled_owned()),
        )))
    }
}

/// What came of an item. A failure that all items share is the request's: asked again, it comes with
/// what is missing.
async fn answer(prompts: &CachedPrompts, item: &Item) -> Result<GeneratePromptsResponse, Status> {
    let result = match prompts.write(item).await {
        Ok(prompt) => Outcome::Prompt(prompt),
        Err(error) if error.ends_request() => return Err(respond(&error)),
        Err(error) => Outcome::Failure(item_failure(&error)),
    };
    Ok(GeneratePromptsResponse {
        sample_id: item.sample_id.to_string(),
        result: Some(result),
    })
}

const TOKEN_PREFIX: &str = "after:";

/// The ability that a page begins behind; `None` for the first page.
fn page_start<'a>(abilities: &Abilities, token: &'a str) -> Result<Option<&'a str>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let name = token
        .strip_prefix(TOKEN_PREFIX)
        .filter(|name| abilities.get(name).is_some());
    name.map(Some)
        .ok_or_else(|| Error::field("page_token", "is none that ListAbilities gave"))
}
