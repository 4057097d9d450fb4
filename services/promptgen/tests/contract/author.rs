//! Prompts from a language model: what is asked of it, what is kept of its answers, and what
//! happens when it is wrong, slow or away.

use std::{collections::BTreeSet, path::Path};

use promptgen::{Backend, Options};
use proto::dataset::v1::PromptSyntax;
use proto::promptgen::v1::{GeneratePromptsRequest, GetCapabilitiesRequest, PromptSplit};
use runtime::error::retry_after;
use serde_json::json;
use tonic::Code;

use crate::{
    model_server::{Asked, ModelServer, Reply, says},
    stage::{ask, items, options, prompts, request, serve, start_failure},
};

fn openai(server: &ModelServer) -> Options {
    Options {
        backend: Backend::Openai,
        embedding_model: String::new(),
        llm: server.options(),
        ..options()
    }
}

fn with_journal(server: &ModelServer, folder: &Path) -> Options {
    Options {
        journal: Some(folder.join("answers.jsonl")),
        ..openai(server)
    }
}

/// What an order says behind `name: `, up to its stop.
fn ordered<'a>(asked: &'a Asked, name: &str) -> &'a str {
    let text = asked.text(1);
    let (_, rest) = text.split_once(&format!("{name}: ")).unwrap();
    rest.split('.').next().unwrap()
}

/// A model that does as it is told for abilities whose keyword is the subject. Every answer is one
/// of its own.
fn obedient(asked: &Asked) -> Reply {
    let (keyword, scene) = (ordered(asked, "Keyword"), ordered(asked, "Setting"));
    let style = ordered(asked, "Style");
    let number = asked.number;
    says(&json!({
        "prompt": format!("(({keyword})), {scene}, {style}, lit from {number} sides"),
        "facts": {
            "subjects": [{"name": keyword, "category": "animal", "count": 1, "attributes": []}],
            "scene": scene, "style": style, "abnormality": "", "relations": [],
        },
    }))
}

#[tokio::test]
async fn prompts_hold_their_slots_keyword_and_style_and_no_two_share_an_answer() {
    let server = ModelServer::start(|asked| {
        let rules = asked.text(0);
        assert!(rules.contains("Show one animal, whole"), "{rules}");
        assert!(rules.contains("((octopus)), beach, cartoon"), "{rules}");
        assert!(!rules.contains("{{"), "{rules}");
        let schema = &asked.body["response_format"]["json_schema"]["schema"];
        assert_eq!(schema["additionalProperties"], false);
        assert!(asked.body["temperature"].as_f64().unwrap() > 0.0);
        obedient(asked)
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let prices = folder.path().join("prices.toml");
    let text =
        "[models.toy]\ninput_per_million = 1.0\noutput_per_million = 2.0\ncurrency = \"EUR\"\n";
    std::fs::write(&prices, text).unwrap();
    let mut options = openai(&server);
    options.llm.price_file = Some(prices);
    let (_handle, mut client) = serve(options).await;
    let offered = client.get_capabilities(GetCapabilitiesRequest {}).await;
    let offered = offered.unwrap().into_inner().capabilities.unwrap();
    assert_eq!(
        (offered.backend.as_str(), offered.models[0].name.as_str()),
        ("openai", "toy")
    );

    let found = prompts(&mut client, request("animal", 48)).await;
    assert_eq!((found.len(), server.asked()), (48, 48));
    let texts: BTreeSet<_> = found.iter().map(|prompt| &prompt.text).collect();
    assert_eq!(texts.len(), 48, "an answer was used twice");
    for prompt in &found {
        let times = found.iter().filter(|other| other.keyword == prompt.keyword);
        assert_eq!(times.count(), 3, "{}", prompt.keyword);
        let facts = prompt.facts.as_ref().unwrap();
        assert_eq!(facts.subjects[0].name, prompt.keyword);
        assert!(prompt.text.contains(&facts.style) && prompt.text.contains(&facts.scene));
        assert_eq!(prompt.parts[0].text, prompt.keyword);
        assert!((prompt.parts[0].weight - 1.21).abs() < 1e-6);
        let origin = prompt.provenance.as_ref().unwrap();
        assert_eq!(
            (origin.producer.as_str(), origin.model.as_str()),
            ("promptgen/openai", "toy-1")
        );
        assert!(!origin.seeded);
        assert_eq!(
            origin.parameters["cost_picos"],
            (100_000_000 + 40_000_000).to_string()
        );
        assert_eq!(origin.parameters["price_file"], "prices.toml");
        assert_eq!(origin.parameters["request_sha256"].len(), 64);
    }
    let seeds: BTreeSet<_> = found
        .iter()
        .map(|prompt| &prompt.provenance.as_ref().unwrap().parameters["sampling_seed"])
        .collect();
    assert_eq!(seeds.len(), 48);

    let places = |prompts: &[proto::dataset::v1::Prompt]| -> BTreeSet<(String, String, String)> {
        let place = |prompt: &proto::dataset::v1::Prompt| {
            let facts = prompt.facts.clone().unwrap();
            (prompt.keyword.clone(), facts.scene, facts.style)
        };
        prompts.iter().map(place).collect()
    };
    let held_out = GeneratePromptsRequest {
        split: PromptSplit::Benchmark.into(),
        ..request("animal", 40)
    };
    let held_out = prompts(&mut client, held_out).await;
    assert!(places(&held_out).is_disjoint(&places(&found)));
}

#[tokio::test]
async fn a_wrong_answer_is_sent_back_with_what_is_wrong_and_one_that_stays_wrong_fails_alone() {
    let server = ModelServer::start(|asked| {
        let keyword = ordered(asked, "Keyword");
        let text = obedient(asked).1;
        let turn = asked.messages().len();
        match (keyword, turn) {
            // Never right: its brackets stay open.
            ("dog", _) => (200, text.replace(")), ", ", ")),
            ("cat", 2) => (200, "I would rather not.".to_owned()),
            ("cat", _) if asked.text(3).contains("no JSON object") => {
                let red = r#""attributes":[{"name":"color","value":"red"}]"#;
                (200, text.replace("\"attributes\":[]", red))
            }
            ("cat", _) => {
                let complaint = asked.text(3);
                assert!(
                    complaint.contains("which the prompt does not say"),
                    "{complaint}"
                );
                (200, text)
            }
            ("fox", 2) => (200, text.replace("((fox))", "((dog))")),
            ("fox", _) => {
                assert!(asked.text(3).contains("keyword `fox`"), "{}", asked.text(3));
                (200, text)
            }
            _ => (200, text),
        }
    })
    .await;
    let (_handle, mut client) = serve(openai(&server)).await;
    let found = ask(&mut client, request("animal", 16)).await.unwrap();
    let (good, bad): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (15, 1));
    let failure = bad[0].as_ref().unwrap_err();
    assert!(
        failure.starts_with("UNUSABLE_ANSWERS") && failure.contains("brackets"),
        "{failure}"
    );
    let corrections: u32 = good
        .iter()
        .map(|prompt| prompt.as_ref().unwrap().provenance.clone().unwrap())
        .map(|origin| origin.parameters["corrections"].parse::<u32>().unwrap())
        .sum();
    assert_eq!(corrections, 2);

    let known = good[0].as_ref().unwrap();
    let plain = GeneratePromptsRequest {
        syntax: PromptSyntax::Plain.into(),
        excluded_texts: vec![known.text.clone()],
        items: items(1..2, 0),
        ..request("animal", 16)
    };
    let failure = ask(&mut client, plain)
        .await
        .unwrap()
        .remove(0)
        .unwrap_err();
    assert!(failure.contains("bracket"), "{failure}");
}

#[tokio::test]
async fn what_fails_one_item_fails_it_alone_and_what_fails_all_ends_the_request() {
    for (status, code) in [
        (401, Code::FailedPrecondition),
        (404, Code::FailedPrecondition),
        (429, Code::ResourceExhausted),
    ] {
        let server = ModelServer::start(move |_| (status, "no".to_owned())).await;
        let (_handle, mut client) = serve(openai(&server)).await;
        let error = ask(&mut client, request("animal", 2)).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(
            retry_after(&error).is_some(),
            code == Code::ResourceExhausted
        );
    }
    let server = ModelServer::start(|asked| match ordered(asked, "Keyword") {
        "owl" => (500, "out of memory".to_owned()),
        _ => obedient(asked),
    })
    .await;
    let (_handle, mut client) = serve(openai(&server)).await;
    let found = ask(&mut client, request("animal", 16)).await.unwrap();
    let failures: Vec<_> = found.into_iter().filter_map(Result::err).collect();
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0].starts_with("LANGUAGE_MODEL_FAILED"),
        "{failures:?}"
    );
}

#[tokio::test]
async fn a_second_start_with_the_journal_asks_nothing() {
    let server = ModelServer::start(obedient).await;
    let folder = tempfile::tempdir().unwrap();
    let options = with_journal(&server, folder.path());
    let (handle, mut client) = serve(options.clone()).await;
    let first = prompts(&mut client, request("animal", 8)).await;
    handle.stop();
    handle.wait().await.unwrap();
    let (_handle, mut client) = serve(options).await;
    assert_eq!(prompts(&mut client, request("animal", 8)).await, first);
    assert_eq!(server.asked(), 8);
}

#[tokio::test]
async fn keywords_that_the_file_lacks_are_asked_for_once_and_get_their_share() {
    let server = ModelServer::start(|asked| match asked.text(1).starts_with("Write 4 new") {
        true => says(
            &json!({"keywords": ["zebra", "Dogs", "cat", "camel", "goat", "zebra", "pig", "hen"]}),
        ),
        false => obedient(asked),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        keyword_count: 20,
        ..with_journal(&server, folder.path())
    };
    let (_handle, mut client) = serve(options.clone()).await;
    let found = prompts(&mut client, request("animal", 40)).await;
    let keywords: BTreeSet<_> = found.iter().map(|prompt| prompt.keyword.as_str()).collect();
    assert!(
        ["zebra", "camel", "goat", "pig"]
            .iter()
            .all(|word| keywords.contains(word))
    );
    for prompt in &found {
        let times = found.iter().filter(|other| other.keyword == prompt.keyword);
        assert_eq!(times.count(), 2, "{}", prompt.keyword);
    }
    assert_eq!(server.asked(), 41);
    // Pictures that belong together keep to the file's keywords: no list is asked for.
    prompts(&mut client, request("difference", 2)).await;
    assert_eq!(server.asked(), 43);

    let without = Options {
        journal: None,
        ..options
    };
    assert!(start_failure(without).await.contains("--journal"));
}

#[tokio::test]
async fn the_service_waits_for_its_model_and_does_not_start_without_its_key_or_model() {
    let server = ModelServer::late(3, obedient).await;
    let (_handle, mut client) = serve(openai(&server)).await;
    assert_eq!(server.looked(), 4);
    assert_eq!(prompts(&mut client, request("animal", 1)).await.len(), 1);

    let mut keyless = openai(&server);
    keyless.llm.key_env = Some("DIPTYCH_TEST_KEY_THAT_NOBODY_SETS".to_owned());
    let failure = start_failure(keyless).await;
    assert!(
        failure.contains("DIPTYCH_TEST_KEY_THAT_NOBODY_SETS"),
        "{failure}"
    );
    let mut nameless = openai(&server);
    nameless.llm.model = None;
    assert!(start_failure(nameless).await.contains("--llm-model"));
    let refusing = ModelServer::start(|_| (404, "no such model".to_owned())).await;
    let mut unknown = openai(&refusing);
    unknown.llm.model = Some("other".to_owned());
    let failure = start_failure(unknown).await;
    assert!(failure.contains("other"), "{failure}");
}
