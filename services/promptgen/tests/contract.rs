//! The contract of promptgen, over real sockets.
#![allow(
    clippy::unwrap_used,
    reason = "the functions beside the tests are tests too; clippy knows only the latter"
)]

use promptgen::{Options, start};
use proto::{
    dataset::v1::{Prompt, PromptSyntax},
    promptgen::v1::{
        EmbedTextsRequest, GeneratePromptsRequest, GetAbilityRequest, GetCapabilitiesRequest,
        ListAbilitiesRequest, PromptItem, PromptSplit,
        generate_prompts_response::Result as Outcome,
        promptgen_service_client::PromptgenServiceClient,
        text_embedding_service_client::TextEmbeddingServiceClient,
    },
};
use runtime::{
    Handle, Listener, Telemetry,
    options::{CacheOptions, ListenOptions},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

type Client = PromptgenServiceClient<Channel>;

fn options() -> Options {
    Options::for_assets(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")))
}

async fn serve(options: Options) -> (Handle, Client) {
    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let telemetry = Telemetry::silent("promptgen");
    let mut handle = start(options, listener, &telemetry, CancellationToken::new())
        .await
        .unwrap();
    handle.ready().await.unwrap();
    let client = Client::connect(handle.endpoint()).await.unwrap();
    (handle, client)
}

fn items(slots: std::ops::Range<u64>, attempt: u32) -> Vec<PromptItem> {
    slots
        .map(|slot| PromptItem {
            sample_id: format!("{:032x}", slot * 100 + u64::from(attempt)),
            slot,
            attempt,
        })
        .collect()
}

fn request(ability: &str, count: u64) -> GeneratePromptsRequest {
    GeneratePromptsRequest {
        ability: ability.into(),
        items: items(0..count, 0),
        seed: 7,
        slot_count: count,
        ..Default::default()
    }
}

async fn ask(
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

async fn prompts(client: &mut Client, request: GeneratePromptsRequest) -> Vec<Prompt> {
    ask(client, request)
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

fn field_of(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    status.get_details_bad_request().unwrap().field_violations[0]
        .field
        .clone()
}

#[tokio::test]
async fn prompts_come_with_facts_weights_and_origin_and_none_comes_twice() {
    let (_handle, mut client) = serve(options()).await;
    let offered = client
        .get_capabilities(GetCapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner()
        .capabilities
        .unwrap();
    assert_eq!(
        (offered.backend.as_str(), offered.abilities.len()),
        ("grammar", 13)
    );

    let mut texts = BTreeSet::new();
    for ability in &offered.abilities {
        let found = prompts(&mut client, request(ability, 64)).await;
        let keywords: BTreeSet<_> = found.iter().map(|prompt| &prompt.keyword).collect();
        for prompt in &found {
            assert!(
                texts.insert(prompt.text.clone()),
                "{} came twice",
                prompt.text
            );
            assert!(
                prompt.text.starts_with("((") && prompt.text.contains(")), "),
                "{}",
                prompt.text
            );
            assert!((prompt.parts[0].weight - 1.21).abs() < 1e-6 && prompt.parts.len() == 3);
            let facts = prompt.facts.as_ref().unwrap();
            assert!(
                !facts.scene.is_empty() && !facts.style.is_empty() && facts.subjects.len() == 1
            );
            assert!(prompt.provenance.as_ref().unwrap().seeded);
            let count = found
                .iter()
                .filter(|other| other.keyword == prompt.keyword)
                .count();
            assert!(
                count <= 64_usize.div_ceil(keywords.len()) + 1,
                "{count} x {}",
                prompt.keyword
            );
        }
    }
    assert!(texts.len() > 500);
    let red = prompts(&mut client, request("color", 7))
        .await
        .into_iter()
        .find(|prompt| prompt.keyword == "red")
        .unwrap();
    let facts = red.facts.unwrap();
    assert_eq!(
        (
            facts.subjects[0].attributes[0].name.as_str(),
            facts.subjects[0].attributes[0].value.as_str()
        ),
        ("color", "red")
    );
}

#[tokio::test]
async fn the_same_question_has_the_same_answer_whole_in_parts_and_after_a_restart() {
    let (_handle, mut client) = serve(options()).await;
    let whole = prompts(&mut client, request("animal", 64)).await;
    let (_other, mut restarted) = serve(options()).await;
    let mut rest = request("animal", 64);
    rest.items = items(0..64, 0).into_iter().rev().step_by(3).collect();
    let again = prompts(&mut restarted, rest).await;
    let by_id: BTreeMap<_, _> = whole
        .iter()
        .map(|prompt| (&prompt.sample_id, prompt))
        .collect();
    assert!(
        again.len() > 20
            && again
                .iter()
                .all(|prompt| by_id[&prompt.sample_id] == prompt)
    );

    let other_seed = GeneratePromptsRequest {
        seed: 8,
        ..request("animal", 64)
    };
    let texts = |prompts: &[Prompt]| {
        prompts
            .iter()
            .map(|prompt| prompt.text.clone())
            .collect::<BTreeSet<_>>()
    };
    assert_ne!(
        texts(&prompts(&mut client, other_seed).await),
        texts(&whole)
    );

    let refill = GeneratePromptsRequest {
        items: items(0..64, 1),
        ..request("animal", 64)
    };
    assert!(
        texts(&prompts(&mut client, refill).await).is_disjoint(&texts(&whole)),
        "an attempt repeats another slot's prompt"
    );
    let held_out = GeneratePromptsRequest {
        split: PromptSplit::Benchmark.into(),
        ..request("animal", 64)
    };
    assert!(texts(&prompts(&mut client, held_out).await).is_disjoint(&texts(&whole)));
}

#[tokio::test]
async fn exclusions_syntax_and_style_shares_are_honoured_and_the_end_is_told() {
    let (_handle, mut client) = serve(options()).await;
    let first = prompts(&mut client, request("hair", 8)).await;
    let excluding = GeneratePromptsRequest {
        excluded_texts: vec![first[3].text.clone()],
        ..request("hair", 8)
    };
    let stepped = prompts(&mut client, excluding).await;
    assert_ne!(stepped[3].text, first[3].text);
    assert!(
        stepped
            .iter()
            .zip(&first)
            .enumerate()
            .all(|(slot, (new, old))| slot == 3 || new.text == old.text)
    );

    let plain = GeneratePromptsRequest {
        syntax: PromptSyntax::Plain.into(),
        ..request("hair", 8)
    };
    let plain = prompts(&mut client, plain).await;
    assert_eq!(
        plain[0].text,
        first[0].text.replace("((", "").replace("))", "")
    );
    assert!(plain[0].parts.iter().all(|part| part.weight == 1.0));

    let sketches = GeneratePromptsRequest {
        style_weights: [("sketch".to_owned(), 1.0)].into(),
        ..request("animal", 8)
    };
    assert!(
        prompts(&mut client, sketches)
            .await
            .iter()
            .all(|prompt| prompt.text.ends_with("sketch"))
    );

    // Past the last of its prompts a slot begins again, and takes no other slot's.
    let mut late = request("hair", 8);
    late.items[5].attempt = 9_000;
    let late = prompts(&mut client, late).await;
    let texts: BTreeSet<&str> = late.iter().map(|prompt| prompt.text.as_str()).collect();
    assert_eq!(texts.len(), 8);

    let mut many = request("hair", 8);
    many.slot_count = 100_000;
    many.items[5].slot = 99_999;
    let outcomes = ask(&mut client, many).await.unwrap();
    assert!(
        outcomes[5]
            .as_ref()
            .unwrap_err()
            .starts_with("PROMPTS_EXHAUSTED"),
        "{:?}",
        outcomes[5]
    );
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 7);
}

#[tokio::test]
async fn bad_requests_are_refused_by_field() {
    let (_handle, mut client) = serve(options()).await;
    let status = ask(&mut client, request("weather", 3)).await.unwrap_err();
    assert!(
        status.code() == Code::NotFound && status.message().contains("abnormal, action, animal"),
        "{status}"
    );

    let change = |edit: &dyn Fn(&mut GeneratePromptsRequest)| {
        let mut changed = request("animal", 4);
        edit(&mut changed);
        changed
    };
    for (field, bad) in [
        ("items", change(&|request| request.items.clear())),
        (
            "items",
            GeneratePromptsRequest {
                slot_count: 0,
                ..request("animal", 4097)
            },
        ),
        (
            "items[1].sample_id",
            change(&|request| request.items[1].sample_id = "Z".repeat(32)),
        ),
        (
            "items[1].sample_id",
            change(&|request| request.items[1].sample_id = request.items[0].sample_id.clone()),
        ),
        (
            "items[2].slot",
            change(&|request| request.items[2].slot = 1_000_000_000),
        ),
        (
            "items[2].slot",
            change(&|request| request.items[2].slot = 1),
        ),
        (
            "style_weights",
            change(&|request| request.style_weights = [("oil".to_owned(), 1.0)].into()),
        ),
        (
            "style_weights",
            change(&|request| request.style_weights = [("neon".to_owned(), f32::NAN)].into()),
        ),
    ] {
        assert_eq!(field_of(&ask(&mut client, bad).await.unwrap_err()), field);
    }
}

#[tokio::test]
async fn abilities_are_listed_in_pages_and_described() {
    let (_handle, mut client) = serve(options()).await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .list_abilities(ListAbilitiesRequest {
                page_size: 5,
                page_token,
            })
            .await
            .unwrap()
            .into_inner();
        names.extend(page.abilities.into_iter().map(|ability| ability.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(names.len() == 13 && names.is_sorted(), "{names:?}");
    let bad = ListAbilitiesRequest {
        page_size: 0,
        page_token: "after:nothing".into(),
    };
    assert_eq!(
        field_of(&client.list_abilities(bad).await.unwrap_err()),
        "page_token"
    );
    let large = ListAbilitiesRequest {
        page_size: 101,
        page_token: String::new(),
    };
    assert_eq!(
        field_of(&client.list_abilities(large).await.unwrap_err()),
        "page_size"
    );

    let hair = client
        .get_ability(GetAbilityRequest {
            name: "hair".into(),
        })
        .await
        .unwrap()
        .into_inner()
        .ability
        .unwrap();
    assert!(
        hair.prompt_examples.len() >= 5
            && !hair.evaluation_questions.is_empty()
            && !hair.cautions.is_empty()
    );
    let status = client
        .get_ability(GetAbilityRequest {
            name: "hairs".into(),
        })
        .await
        .unwrap_err();
    assert!(
        status.code() == Code::NotFound && status.message().contains("hair"),
        "{status}"
    );
}

#[tokio::test]
async fn texts_are_not_embedded_without_a_model_and_a_missing_model_is_named() {
    let (handle, _client) = serve(options()).await;
    let mut client = TextEmbeddingServiceClient::connect(handle.endpoint())
        .await
        .unwrap();
    let request = EmbedTextsRequest {
        texts: vec!["a dog".into()],
        model: String::new(),
    };
    let status = client.embed_texts(request).await.unwrap_err();
    assert!(
        status.code() == Code::Unimplemented && status.message().contains("--embedding-model"),
        "{status}"
    );

    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let telemetry = Telemetry::silent("promptgen");
    let lost = Options {
        embedding_model: Some("/nowhere/clip".into()),
        ..options()
    };
    let error = start(lost, listener, &telemetry, CancellationToken::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nowhere/clip/config.json"), "{error}");
}

#[tokio::test]
async fn texts_are_embedded_as_transformers_does() {
    let fixtures = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../crates/models/tests/fixtures/sd"
    ));
    let model = fixtures.join("clip").display().to_string();
    let (handle, mut client) = serve(Options {
        embedding_model: Some(model.clone()),
        ..options()
    })
    .await;
    let offered = client
        .get_capabilities(GetCapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner()
        .capabilities
        .unwrap();
    assert!(
        offered.models[0].name == model && offered.features.contains(&"text_embedding".to_owned())
    );

    let mut client = TextEmbeddingServiceClient::connect(handle.endpoint())
        .await
        .unwrap();
    let request = |texts: &[&str], model: &str| EmbedTextsRequest {
        texts: texts.iter().map(|&text| text.to_owned()).collect(),
        model: model.to_owned(),
    };
    // What the script beside the fixture embedded with transformers.
    let texts = ["a red dog", "beach, night"];
    let answer = client
        .embed_texts(request(&texts, ""))
        .await
        .unwrap()
        .into_inner();
    let expected = models::weights::Weights::open(&fixtures.join("expected.safetensors")).unwrap();
    let expected = expected.values("clip_text", &[2, 24]).unwrap();
    let actual = answer
        .embeddings
        .iter()
        .flat_map(|embedding| &embedding.values);
    assert_eq!(answer.embeddings.len(), 2);
    assert!(
        actual
            .zip(&expected)
            .all(|(actual, expected)| (actual - expected).abs() < 1e-5)
    );
    assert_eq!(answer.model_sha256, offered.models[0].sha256);
    let again = client
        .embed_texts(request(&["beach, night"], &model))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        again.embeddings[0], answer.embeddings[1],
        "from the cache, or alone, it is the same"
    );

    assert_eq!(
        field_of(&client.embed_texts(request(&[], "")).await.unwrap_err()),
        "texts"
    );
    assert_eq!(
        field_of(
            &client
                .embed_texts(request(&["x"; 257], ""))
                .await
                .unwrap_err()
        ),
        "texts"
    );
    assert_eq!(
        field_of(
            &client
                .embed_texts(request(&["a", &"x".repeat(8193)], ""))
                .await
                .unwrap_err()
        ),
        "texts[1]"
    );
    let status = client
        .embed_texts(request(&["a"], "other"))
        .await
        .unwrap_err();
    assert!(
        status.code() == Code::NotFound && status.message().contains("clip"),
        "{status}"
    );
}

#[tokio::test]
async fn redis_keeps_prompts_for_others_and_its_death_changes_nothing() {
    let mut redis = Redis::start();
    let (_one, mut first) = serve(Options {
        cache: redis.cache(),
        ..options()
    })
    .await;
    let (_two, mut second) = serve(Options {
        cache: redis.cache(),
        ..options()
    })
    .await;
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
    let (_three, mut third) = serve(Options {
        cache: redis.cache(),
        ..options()
    })
    .await;
    assert_eq!(prompts(&mut third, request("food", 40)).await, written);
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

/// A Redis of this test's own, on a socket in its folder.
struct Redis {
    process: Child,
    folder: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"])
            .arg(folder.path());
        command.arg("--unixsocket").arg(Self::socket(folder.path()));
        let process = command
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian package redis-server)");
        while std::os::unix::net::UnixStream::connect(Self::socket(folder.path())).is_err() {
            std::thread::yield_now();
        }
        Self { process, folder }
    }

    fn socket(folder: &Path) -> PathBuf {
        folder.join("redis")
    }

    fn cache(&self) -> CacheOptions {
        let url = format!(
            "redis+unix://{}",
            Self::socket(self.folder.path()).display()
        );
        CacheOptions {
            redis_url: Some(url),
            ..CacheOptions::default()
        }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _already_dead = self.process.kill();
        let _reaped = self.process.wait();
    }
}
