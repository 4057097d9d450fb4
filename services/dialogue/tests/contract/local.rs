//! Conversations from a language model in this process. Its weights are random: it writes nonsense in
//! the right form. Most nonsense is named as such; what no check looks into passes.

use std::path::Path;

use dialogue::{Backend, Options, start};
use proto::{
    dataset::v1::{Prompt, QuestionKind, Subject},
    dialogue::v1::{DialogueItem, GetCapabilitiesRequest, WriteDialoguesRequest},
};
use runtime::{Listener, Telemetry, options::ListenOptions};
use tokio_util::sync::CancellationToken;

use crate::{
    leaving,
    stage::{ask, options, request, serve_with, shipped_prompts},
    tiny_model,
};

fn local(path: &Path) -> Options {
    Options {
        backend: Backend::Local,
        local: llm::LocalOptions {
            path: Some(path.to_owned()),
            max_tokens: 200,
            ..llm::LocalOptions::default()
        },
        ..options()
    }
}

fn animals(count: usize) -> Vec<Prompt> {
    let mut prompts = shipped_prompts(count);
    prompts.retain(|prompt| prompt.ability == "animal");
    prompts
}

fn of_kind(prompts: &[Prompt], kind: QuestionKind) -> WriteDialoguesRequest {
    WriteDialoguesRequest {
        kinds: vec![kind.into()],
        round_count: 1,
        ..request(prompts)
    }
}

/// Conversations of one round about two pictures together: of these, the schema alone makes sure of
/// everything that is checked, but for claims that the facts deny.
fn about_two(prompts: &[Prompt]) -> WriteDialoguesRequest {
    let item = |pair: &[Prompt]| DialogueItem {
        sample_id: pair[0].sample_id.clone(),
        prompts: pair.to_vec(),
        images: Vec::new(),
    };
    WriteDialoguesRequest {
        items: prompts.chunks(2).map(item).collect(),
        ..of_kind(prompts, QuestionKind::MultiImage)
    }
}

#[tokio::test]
async fn what_the_schema_makes_right_passes_with_its_provenance_and_alike_every_time() {
    let folder = tiny_model::wide(1 << 15);
    let prompts = animals(6);
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (_handle, mut client) = serve_with(local(folder.path())).await;
        let offered = client.get_capabilities(GetCapabilitiesRequest {}).await;
        let offered = offered.unwrap().into_inner().capabilities.unwrap();
        assert_eq!(offered.backend, "local");
        let model = &offered.models[0];
        assert_eq!(model.architecture, "LlamaForCausalLM");
        assert_eq!((model.parameter_count, model.sha256.len()), (120_000, 64));
        assert!(!offered.features.contains(&"vision".to_owned()));
        let found = ask(&mut client, about_two(&prompts)).await.unwrap();
        let written: Vec<_> = found.iter().flatten().collect();
        assert!(!written.is_empty(), "{found:?}");
        for conversation in written {
            let made = conversation.provenance.as_ref().unwrap();
            assert_eq!(made.producer, "dialogue/local");
            let named = (&made.model, &made.model_sha256);
            assert_eq!(named, (&model.name, &model.sha256));
            assert!(made.seeded);
            assert_eq!(made.parameters["tokens_are_estimated"], "false");
            let [question, answer] = conversation.turns.as_slice() else {
                panic!("{conversation:?}");
            };
            assert_eq!(question.kind(), QuestionKind::MultiImage);
            assert_eq!(question.image_index, [0, 1]);
            assert!(!question.text.is_empty() && !answer.text.is_empty());
        }
        runs.push(found);
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test]
async fn nonsense_that_answers_nothing_fails_alone_by_what_is_wrong() {
    let folder = tiny_model::wide(1 << 15);
    let (_handle, mut client) = serve_with(local(folder.path())).await;
    let found = ask(&mut client, of_kind(&animals(2), QuestionKind::YesNo)).await;
    let found = found.unwrap();
    assert_eq!(found.len(), 2);
    for outcome in found {
        let failure = outcome.unwrap_err();
        assert!(
            failure.starts_with("DISAGREES_WITH_FACTS") && failure.contains("begins with"),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn a_local_model_does_not_look() {
    let folder = tiny_model::wide(1 << 10);
    let looking = Options {
        vision: true,
        ..local(folder.path())
    };
    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let telemetry = Telemetry::silent("dialogue");
    let started = start(looking, listener, &telemetry, CancellationToken::new()).await;
    let refused = started.err().unwrap().to_string();
    assert!(refused.contains("--vision"), "{refused}");
}

#[tokio::test]
async fn a_caller_that_leaves_stops_the_work_and_while_it_lasts_others_are_refused() {
    let model = tiny_model::wide(1 << 14);
    let mut slow = local(model.path());
    slow.local.max_waiting = 0;
    slow.local.max_tokens = 1 << 14;
    let (_handle, client) = serve_with(slow).await;
    let long = WriteDialoguesRequest {
        round_count: 16,
        ..request(&animals(1))
    };
    // What fits no context.
    let mut wordy = animals(1);
    wordy[0].facts.as_mut().unwrap().subjects[0] = Subject {
        name: "word ".repeat(30_000),
        ..Subject::default()
    };
    let first = client.clone();
    let much = move || {
        let (mut client, long) = (first.clone(), long.clone());
        async move { ask(&mut client, long).await.map(|_| ()) }
    };
    let little = || {
        let (mut client, wordy) = (client.clone(), request(&wordy));
        async move { Ok(ask(&mut client, wordy).await?.remove(0).unwrap_err()) }
    };
    leaving::stops_the_work(model.path(), much, little).await;
}
