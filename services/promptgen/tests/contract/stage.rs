//! A promptgen of the test's own, and the questions most tests ask it.

use std::{ops::Range, path::PathBuf};

use promptgen::{Options, start};
use proto::{
    dataset::v1::Prompt,
    promptgen::v1::{
        GeneratePromptsRequest, PromptItem, generate_prompts_response::Result as Outcome,
        promptgen_service_client::PromptgenServiceClient,
    },
};
use runtime::{Handle, Listener, Telemetry, options::ListenOptions};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

pub(crate) type Client = PromptgenServiceClient<Channel>;

pub(crate) fn options() -> Options {
    Options::for_assets(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")))
}

pub(crate) async fn serve(options: Options) -> (Handle, Client) {
    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let telemetry = Telemetry::silent("promptgen");
    let mut handle = start(options, listener, &telemetry, CancellationToken::new())
        .await
        .unwrap();
    handle.ready().await.unwrap();
    let client = Client::connect(handle.endpoint()).await.unwrap();
    (handle, client)
}

/// Why a service does not start.
pub(crate) async fn start_failure(options: Options) -> String {
    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let telemetry = Telemetry::silent("promptgen");
    let started = start(options, listener, &telemetry, CancellationToken::new()).await;
    match started {
        Err(error) => error.to_string(),
        Ok(mut handle) => handle.ready().await.unwrap_err().to_string(),
    }
}

pub(crate) fn items(slots: Range<u64>, attempt: u32) -> Vec<PromptItem> {
    slots
        .map(|slot| PromptItem {
            sample_id: format!("{:032x}", slot * 100 + u64::from(attempt)),
            slot,
            attempt,
            picture: 0,
        })
        .collect()
}

pub(crate) fn request(ability: &str, count: u64) -> GeneratePromptsRequest {
    GeneratePromptsRequest {
        ability: ability.into(),
        items: items(0..count, 0),
        seed: 7,
        slot_count: count,
        ..Default::default()
    }
}

pub(crate) async fn ask(
    client: &mut Client,
    request: GeneratePromptsRequest,
) -> Result<Vec<Result<Prompt, String>>, Status> {
    let mut stream = client.generate_prompts(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.push(match message.result.unwrap() {
            Outcome::Prompt(prompt) => Ok(prompt),
            Outcome::Failure(failure) => Err(format!("{}: {}", failure.reason, failure.message)),
        });
    }
    Ok(all)
}

pub(crate) async fn prompts(client: &mut Client, request: GeneratePromptsRequest) -> Vec<Prompt> {
    ask(client, request)
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

pub(crate) fn field_of(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    status.get_details_bad_request().unwrap().field_violations[0]
        .field
        .clone()
}
