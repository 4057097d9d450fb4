//! A service whose handlers do what their request says, and tell the test what they saw.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use proto::promptgen::v1::{
    GeneratePromptsRequest, GeneratePromptsResponse, GetAbilityRequest, GetAbilityResponse,
    GetCapabilitiesRequest, GetCapabilitiesResponse, ListAbilitiesRequest, ListAbilitiesResponse,
    promptgen_service_client::PromptgenServiceClient,
    promptgen_service_server::{PromptgenService, PromptgenServiceServer},
};
use runtime::{
    Channel, Handle, Kind, Listener, RequestContext, Service, ServiceError, Telemetry,
    options::{ClientOptions, ListenOptions},
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub(crate) const SERVICE: &str = "diptych.promptgen.v1.PromptgenService";

/// What a handler tells the test.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Began,
    /// The request's token was cancelled.
    Cancelled,
    /// What was left of the deadline.
    Remaining(Option<Duration>),
}

#[derive(Clone)]
pub(crate) struct Stage {
    events: mpsc::UnboundedSender<Event>,
    /// Lets waiting handlers go on.
    pub(crate) release: Arc<Notify>,
    onward: Option<PromptgenServiceClient<Channel>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the stage fails: {0}")]
struct Failure(&'static str);

impl ServiceError for Failure {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

impl Stage {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, seen) = mpsc::unbounded_channel();
        (
            Self {
                events,
                release: Arc::default(),
                onward: None,
            },
            seen,
        )
    }

    pub(crate) fn with_onward(self, onward: PromptgenServiceClient<Channel>) -> Self {
        Self {
            onward: Some(onward),
            ..self
        }
    }

    fn tell(&self, event: Event) {
        self.events.send(event).expect("the test listens");
    }

    /// As a device thread would: watches the token, outside the handler.
    fn watch(&self, context: &RequestContext) {
        let (stage, cancelled) = (self.clone(), context.cancelled());
        tokio::spawn(async move {
            cancelled.cancelled().await;
            let _the_test_may_be_over = stage.events.send(Event::Cancelled);
        });
    }
}

#[tonic::async_trait]
impl PromptgenService for Stage {
    type GeneratePromptsStream =
        Pin<Box<dyn Stream<Item = Result<GeneratePromptsResponse, Status>> + Send>>;

    async fn get_capabilities(
        &self,
        _: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<GetCapabilitiesResponse>, Status> {
        Ok(Response::new(GetCapabilitiesResponse::default()))
    }

    async fn list_abilities(
        &self,
        _: Request<ListAbilitiesRequest>,
    ) -> Result<Response<ListAbilitiesResponse>, Status> {
        Err(runtime::respond(&Failure("secretly")))
    }

    async fn get_ability(
        &self,
        request: Request<GetAbilityRequest>,
    ) -> Result<Response<GetAbilityResponse>, Status> {
        let context = RequestContext::of(&request);
        match request.get_ref().name.as_str() {
            "wait" => {
                self.watch(&context);
                self.tell(Event::Began);
                self.release.notified().await;
            }
            "panic" => panic!("as asked"),
            "remaining" => self.tell(Event::Remaining(context.remaining())),
            "onward" => {
                let mut client = self.onward.clone().expect("a second service");
                client.get_ability(ability("remaining")).await?;
            }
            _ => {}
        }
        Ok(Response::new(GetAbilityResponse::default()))
    }

    async fn generate_prompts(
        &self,
        request: Request<GeneratePromptsRequest>,
    ) -> Result<Response<Self::GeneratePromptsStream>, Status> {
        self.watch(&RequestContext::of(&request));
        let wanted = request.into_inner().ability;
        let stage = self.clone();
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            yield GeneratePromptsResponse::default();
            match wanted.as_str() {
                "panic" => {
                    // tonic sends what it has when the stream pauses; the first message is out.
                    tokio::task::yield_now().await;
                    panic!("as asked");
                }
                "onward" => {
                    let mut client = stage.onward.clone().expect("a second service");
                    client.get_ability(ability("remaining")).await?;
                }
                _ => stage.release.notified().await,
            }
            yield GeneratePromptsResponse::default();
        })))
    }
}

pub(crate) fn ability(name: &str) -> GetAbilityRequest {
    GetAbilityRequest {
        name: name.to_owned(),
    }
}

pub(crate) fn prompts(ability: &str) -> GeneratePromptsRequest {
    GeneratePromptsRequest {
        ability: ability.to_owned(),
        ..Default::default()
    }
}

/// Loopback, port 0, with a second port.
pub(crate) fn listen() -> ListenOptions {
    ListenOptions {
        health_listen: Some("127.0.0.1:0".parse().expect("an address")),
        ..ListenOptions::default()
    }
}

/// A service that is ready.
pub(crate) async fn start(stage: Stage, listen: &ListenOptions) -> Handle {
    start_as(stage, listen, &Telemetry::silent("promptgen")).await
}

pub(crate) async fn start_as(
    stage: Stage,
    listen: &ListenOptions,
    telemetry: &Telemetry,
) -> Handle {
    let warm_up = async { Ok::<(), std::io::Error>(()) };
    let mut handle = start_with(stage, listen, telemetry, warm_up).await;
    handle.ready().await.expect("it serves");
    handle
}

/// A service that warms up with `warm_up`.
pub(crate) async fn start_with(
    stage: Stage,
    listen: &ListenOptions,
    telemetry: &Telemetry,
    warm_up: impl Future<Output = Result<(), std::io::Error>> + Send + 'static,
) -> Handle {
    let listener = Listener::bind(listen, 0).await.expect("a free port");
    let server = PromptgenServiceServer::new(stage)
        .max_decoding_message_size(listen.max_message_bytes)
        .max_encoding_message_size(listen.max_message_bytes);
    let service = Service::new(telemetry, proto::FILE_DESCRIPTOR_SET).with(server);
    runtime::serve(service, listener, warm_up, CancellationToken::new())
        .await
        .expect("it starts")
}

pub(crate) fn client(endpoint: &str) -> PromptgenServiceClient<Channel> {
    client_with(endpoint, &ClientOptions::default())
}

pub(crate) fn client_with(
    endpoint: &str,
    options: &ClientOptions,
) -> PromptgenServiceClient<Channel> {
    let telemetry = Telemetry::silent("test");
    let channel = Channel::lazy("promptgen", endpoint, options, &telemetry).expect("an endpoint");
    PromptgenServiceClient::new(channel)
}

/// Fails the test instead of hanging it.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("within 20 s")
}
