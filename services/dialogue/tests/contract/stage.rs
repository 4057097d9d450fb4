//! A dialogue service of the test's own, prompts to write about, and the calls most tests make.

use std::{collections::BTreeMap, path::PathBuf};

use dataset::ability::{Abilities, Ability, Draw, Split};
use dialogue::{Options, start};
use proto::{
    dataset::v1::{Conversation, Prompt},
    dialogue::v1::{
        CheckDialogueRequest, DialogueItem, Disagreement, WriteDialoguesRequest,
        dialogue_service_client::DialogueServiceClient,
        write_dialogues_response::Result as Outcome,
    },
};
use runtime::{Handle, Listener, Telemetry, options::ListenOptions};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

pub(crate) type Client = DialogueServiceClient<Channel>;

fn assets() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

pub(crate) fn options() -> Options {
    Options::for_assets(assets())
}

pub(crate) async fn serve() -> (Handle, Client) {
    serve_with(options()).await
}

pub(crate) async fn serve_with(options: Options) -> (Handle, Client) {
    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let telemetry = Telemetry::silent("dialogue");
    let mut handle = start(options, listener, &telemetry, CancellationToken::new())
        .await
        .unwrap();
    handle.ready().await.unwrap();
    let client = Client::connect(handle.endpoint()).await.unwrap();
    (handle, client)
}

/// Prompts of every ability with one picture per sample, with ids.
pub(crate) fn shipped_prompts(count_per_ability: usize) -> Vec<Prompt> {
    let abilities = Abilities::load_folder(&assets().join("abilities")).unwrap();
    let mut prompts = Vec::new();
    let one_picture = |ability: &&Ability| ability.images_per_sample() == 1;
    for ability in abilities.iter().filter(one_picture) {
        let draw = Draw {
            seed: 3,
            split: Split::Training,
            style_weights: &BTreeMap::new(),
        };
        for found in ability
            .ordered(&draw)
            .unwrap()
            .into_iter()
            .take(count_per_ability)
        {
            prompts.push(Prompt {
                sample_id: format!("{:032x}", prompts.len()),
                ability: ability.name().to_owned(),
                keyword: found.keyword.clone(),
                text: found.webui_text(),
                facts: Some(found.facts.clone()),
                ..Prompt::default()
            });
        }
    }
    prompts
}

pub(crate) fn prompt_of(ability: &str, text: &str) -> Prompt {
    let abilities = Abilities::load_folder(&assets().join("abilities")).unwrap();
    let found = abilities
        .get(ability)
        .unwrap()
        .combinations()
        .iter()
        .find(|found| found.plain_text() == text);
    let found = found.unwrap_or_else(|| panic!("no prompt `{text}`"));
    Prompt {
        sample_id: "0".repeat(32),
        ability: ability.to_owned(),
        text: text.to_owned(),
        facts: Some(found.facts.clone()),
        ..Prompt::default()
    }
}

pub(crate) fn item(prompt: &Prompt) -> DialogueItem {
    DialogueItem {
        sample_id: prompt.sample_id.clone(),
        prompts: vec![prompt.clone()],
        images: Vec::new(),
    }
}

pub(crate) fn request(prompts: &[Prompt]) -> WriteDialoguesRequest {
    WriteDialoguesRequest {
        items: prompts.iter().map(item).collect(),
        seed: 7,
        ..Default::default()
    }
}

pub(crate) async fn ask(
    client: &mut Client,
    request: WriteDialoguesRequest,
) -> Result<Vec<Result<Conversation, String>>, Status> {
    let mut stream = client.write_dialogues(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.push(match message.result.unwrap() {
            Outcome::Conversation(conversation) => Ok(conversation),
            Outcome::Failure(failure) => Err(format!("{}: {}", failure.reason, failure.message)),
        });
    }
    Ok(all)
}

pub(crate) async fn write(
    client: &mut Client,
    request: WriteDialoguesRequest,
) -> Vec<Conversation> {
    ask(client, request)
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

pub(crate) async fn check(
    client: &mut Client,
    conversation: &Conversation,
    prompt: &Prompt,
) -> Vec<Disagreement> {
    let request = CheckDialogueRequest {
        conversation: Some(conversation.clone()),
        prompts: vec![prompt.clone()],
    };
    client
        .check_dialogue(request)
        .await
        .unwrap()
        .into_inner()
        .disagreements
}
