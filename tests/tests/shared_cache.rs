//! Two services that share a Redis, and lose it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use promptgen::{Options, start};
use proto::{
    dataset::v1::Prompt,
    promptgen::v1::{
        GeneratePromptsRequest, PromptItem, generate_prompts_response::Result as Outcome,
        promptgen_service_client::PromptgenServiceClient,
    },
};
use runtime::{
    Handle, Listener, Telemetry,
    options::{CacheOptions, ListenOptions},
};
use tests::{Redis, checkout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

type Client = PromptgenServiceClient<Channel>;

#[tokio::test]
async fn redis_keeps_prompts_for_others_and_its_death_changes_nothing() {
    let mut redis = Redis::start();
    let (_one, mut first) = serve(&redis).await;
    let (_two, mut second) = serve(&redis).await;
    let written = prompts(&mut first, request("food", 40)).await;
    let before = shared_hits();
    assert_eq!(prompts(&mut second, request("food", 40)).await, written);
    assert!(
        shared_hits() >= before + 40.0,
        "the second service did not use the first one's prompts"
    );

    let mut stream = first
        .generate_prompts(request("plant", 60))
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    redis.kill();
    let mut count = 1;
    while let Some(message) = stream.message().await.unwrap() {
        assert!(matches!(message.result, Some(Outcome::Prompt(_))));
        count += 1;
    }
    assert_eq!(count, 60);
    let (_three, mut third) = serve(&redis).await;
    assert_eq!(prompts(&mut third, request("food", 40)).await, written);
}

async fn serve(redis: &Redis) -> (Handle, Client) {
    let options = Options {
        cache: CacheOptions {
            redis_url: Some(redis.url()),
            ..CacheOptions::default()
        },
        ..Options::for_assets(checkout())
    };
    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let telemetry = Telemetry::silent("promptgen");
    let mut handle = start(options, listener, &telemetry, CancellationToken::new())
        .await
        .unwrap();
    handle.ready().await.unwrap();
    let client = Client::connect(handle.endpoint()).await.unwrap();
    (handle, client)
}

fn request(ability: &str, count: u64) -> GeneratePromptsRequest {
    let item = |slot| PromptItem {
        sample_id: format!("{slot:032x}"),
        slot,
        ..PromptItem::default()
    };
    GeneratePromptsRequest {
        ability: ability.into(),
        items: (0..count).map(item).collect(),
        seed: 7,
        slot_count: count,
        ..Default::default()
    }
}

async fn prompts(client: &mut Client, request: GeneratePromptsRequest) -> Vec<Prompt> {
    let mut stream = client.generate_prompts(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        match message.result {
            Some(Outcome::Prompt(prompt)) => all.push(prompt),
            other => panic!("no prompt: {other:?}"),
        }
    }
    all
}

/// Prompts found in Redis so far, by the metric.
fn shared_hits() -> f64 {
    let metrics = runtime::prometheus::render();
    let is_hit = |line: &&str| {
        line.starts_with("diptych_cache_lookups_total")
            && [r#"kind="prompt""#, r#"result="hit""#, r#"tier="redis""#]
                .iter()
                .all(|label| line.contains(label))
    };
    let count = |line: &str| {
        line.rsplit(' ')
            .next()
            .and_then(|count| count.parse::<f64>().ok())
    };
    metrics.lines().filter(is_hit).filter_map(count).sum()
}
