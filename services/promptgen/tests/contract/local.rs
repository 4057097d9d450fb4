//! Prompts from a language model in this process. Its weights are random: it writes nonsense in the
//! right form, and what is tested is that nonsense is named as such, alike every time.

use std::path::Path;

use promptgen::{Backend, Options};
use proto::{dataset::v1::Prompt, promptgen::v1::GetCapabilitiesRequest};
use runtime::error::retry_after;
use tonic::Status;

use crate::{
    leaving,
    stage::{Client, ask, options, request, serve, start_failure},
    tiny_model,
};

fn local(path: &Path) -> Options {
    Options {
        backend: Backend::Local,
        embedding_model: String::new(),
        local: llm::LocalOptions {
            path: Some(path.to_owned()),
            max_tokens: 160,
            max_corrections: 1,
            ..llm::LocalOptions::default()
        },
        ..options()
    }
}

#[tokio::test]
async fn the_model_is_named_with_its_weights_and_nonsense_fails_alike_every_time() {
    let folder = tiny_model::wide(1 << 15);
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (_handle, mut client) = serve(local(folder.path())).await;
        let offered = client.get_capabilities(GetCapabilitiesRequest {}).await;
        let offered = offered.unwrap().into_inner().capabilities.unwrap();
        assert_eq!(offered.backend, "local");
        let model = &offered.models[0];
        assert!(model.name.starts_with("tiny-llama-"), "{}", model.name);
        assert_eq!(model.sha256.len(), 64);
        assert_eq!(
            (model.architecture.as_str(), model.parameter_count),
            ("LlamaForCausalLM", 120_000)
        );
        let found = ask(&mut client, request("animal", 3)).await.unwrap();
        for outcome in &found {
            // Random weights cannot begin a prompt with the keyword in double brackets.
            let failure = outcome.as_ref().unwrap_err();
            assert!(
                failure.starts_with("UNUSABLE_ANSWERS")
                    && failure.contains("after 1 corrections")
                    && failure.contains("brackets"),
                "{failure}"
            );
        }
        runs.push(found);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0][0], runs[0][1], "every sample has a seed of its own");
}

#[tokio::test]
async fn a_question_longer_than_the_context_fails_by_name_and_no_path_or_a_wrong_one_at_the_start()
{
    let narrow = tiny_model::narrow();
    let (_handle, mut client) = serve(local(&narrow)).await;
    let found = ask(&mut client, request("animal", 1)).await.unwrap();
    let failure = found[0].as_ref().unwrap_err();
    assert!(
        failure.starts_with("LANGUAGE_MODEL_CONTEXT_FULL")
            && failure.contains("`llama`")
            && failure.contains("640 positions"),
        "{failure}"
    );
    let mut nameless = local(&narrow);
    nameless.local.path = None;
    for (options, word) in [
        (nameless, "DIPTYCH_LANGUAGE_MODEL"),
        (local(&narrow.join("nowhere")), "nowhere"),
    ] {
        let failure = start_failure(options).await;
        assert!(failure.contains(word), "{failure}");
        assert!(failure.contains("--language-model"), "{failure}");
    }
}

/// The abilities, and one that no context holds.
fn abilities_with_a_wordy_one() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shipped = options().abilities;
    for name in ["animal.toml", "shared.toml"] {
        std::fs::copy(shipped.join(name), folder.path().join(name)).unwrap();
    }
    let animal = std::fs::read_to_string(shipped.join("animal.toml")).unwrap();
    let wordy = animal
        .replace("name = \"animal\"", "name = \"wordy\"")
        .replace("Tell which", &"word ".repeat(30_000));
    std::fs::write(folder.path().join("wordy.toml"), wordy).unwrap();
    folder
}

/// What comes of one question about an ability.
async fn one(client: &mut Client, ability: &str) -> Result<Result<Prompt, String>, Status> {
    let found = ask(client, request(ability, 1)).await;
    found.map(|mut found| found.remove(0))
}

#[tokio::test]
async fn a_caller_that_leaves_stops_the_work_and_while_it_lasts_others_are_refused() {
    let model = tiny_model::wide(1 << 14);
    let abilities = abilities_with_a_wordy_one();
    let mut slow = local(model.path());
    slow.abilities = abilities.path().to_owned();
    slow.local.max_waiting = 0;
    slow.local.max_tokens = 1 << 14;
    let (_handle, client) = serve(slow).await;
    let first = client.clone();
    let much = move || {
        let mut client = first.clone();
        async move { one(&mut client, "animal").await.map(|_| ()) }
    };
    let little = || {
        let mut client = client.clone();
        async move { Ok(one(&mut client, "wordy").await?.unwrap_err()) }
    };
    let busy = leaving::stops_the_work(model.path(), much, little).await;
    assert!(
        busy.message().contains("--language-model-max-waiting"),
        "{busy}"
    );
    assert!(retry_after(&busy).is_some());
}
