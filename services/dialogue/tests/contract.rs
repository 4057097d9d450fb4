//! The contract of dialogue, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions beside the tests are tests too; clippy knows only the latter"
)]

use dataset::ability::{Abilities, Draw, Split};
use dialogue::{Options, start};
use proto::{
    dataset::v1::{Conversation, Facts, Prompt, QuestionKind, Role},
    dialogue::v1::{
        CheckDialogueRequest, DialogueItem, Disagreement, GetCapabilitiesRequest,
        WriteDialoguesRequest, dialogue_service_client::DialogueServiceClient,
        write_dialogues_response::Result as Outcome,
    },
};
use runtime::{Handle, Listener, Telemetry, options::ListenOptions};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

type Client = DialogueServiceClient<Channel>;
/// Turn and reason expected of what a change breaks.
type Broken<'a> = (u32, &'a str, &'a dyn Fn(&mut Conversation));

fn assets() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

async fn serve() -> (Handle, Client) {
    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let telemetry = Telemetry::silent("dialogue");
    let mut handle = start(
        Options::for_assets(assets()),
        listener,
        &telemetry,
        CancellationToken::new(),
    )
    .await
    .unwrap();
    handle.ready().await.unwrap();
    let client = Client::connect(handle.endpoint()).await.unwrap();
    (handle, client)
}

/// Prompts of every ability, with ids.
fn shipped_prompts(count_per_ability: usize) -> Vec<Prompt> {
    let abilities = Abilities::load_folder(&assets().join("abilities")).unwrap();
    let mut prompts = Vec::new();
    for ability in abilities.iter() {
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

fn prompt_of(ability: &str, text: &str) -> Prompt {
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

fn item(prompt: &Prompt) -> DialogueItem {
    DialogueItem {
        sample_id: prompt.sample_id.clone(),
        prompts: vec![prompt.clone()],
        images: Vec::new(),
    }
}

fn request(prompts: &[Prompt]) -> WriteDialoguesRequest {
    WriteDialoguesRequest {
        items: prompts.iter().map(item).collect(),
        seed: 7,
        ..Default::default()
    }
}

async fn ask(
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

async fn write(client: &mut Client, request: WriteDialoguesRequest) -> Vec<Conversation> {
    ask(client, request)
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

async fn check(
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

#[tokio::test]
async fn conversations_of_every_ability_agree_with_the_facts_and_balance_yes_and_no() {
    let (_handle, mut client) = serve().await;
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

    let prompts = shipped_prompts(60);
    let written = write(&mut client, request(&prompts)).await;
    assert_eq!(written.len(), prompts.len());
    let (mut yes, mut no, mut kinds) = (0, 0, BTreeMap::new());
    for (conversation, prompt) in written.iter().zip(&prompts) {
        assert_eq!(
            (conversation.turns.len(), &conversation.sample_id),
            (6, &prompt.sample_id)
        );
        assert_eq!(conversation.turns[0].image_index, [0]);
        let questions: BTreeSet<_> = conversation
            .turns
            .iter()
            .step_by(2)
            .map(|turn| &turn.text)
            .collect();
        assert_eq!(questions.len(), 3, "a question came twice: {questions:?}");
        for turn in conversation.turns.iter().skip(1).step_by(2) {
            *kinds.entry(turn.kind()).or_insert(0) += 1;
            match turn
                .answer_keywords
                .first()
                .filter(|_| turn.kind() == QuestionKind::YesNo)
                .map(String::as_str)
            {
                Some("yes") => yes += 1,
                Some("no") => no += 1,
                _ => {}
            }
        }
        assert_eq!(
            check(&mut client, conversation, prompt).await,
            [],
            "{conversation:?}"
        );
    }
    assert!(
        kinds.len() == 7 && kinds.values().all(|&count| count > 100),
        "{kinds:?}"
    );
    let share = f64::from(yes) / f64::from(yes + no);
    assert!((0.42..0.58).contains(&share), "{yes} yes, {no} no");
}

#[tokio::test]
async fn the_same_sample_has_the_same_conversation_whole_in_parts_and_after_a_restart() {
    let (_handle, mut client) = serve().await;
    let prompts = shipped_prompts(5);
    let whole = write(&mut client, request(&prompts)).await;
    let (_other, mut restarted) = serve().await;
    let missing: Vec<_> = prompts.iter().rev().step_by(4).cloned().collect();
    for conversation in write(&mut restarted, request(&missing)).await {
        assert!(whole.contains(&conversation));
    }
    let other_seed = WriteDialoguesRequest {
        seed: 8,
        ..request(&prompts)
    };
    assert_ne!(write(&mut client, other_seed).await, whole);
}

#[tokio::test]
async fn kinds_and_rounds_are_as_asked() {
    let (_handle, mut client) = serve().await;
    let prompts = shipped_prompts(4);
    let long = WriteDialoguesRequest {
        round_count: 8,
        ..request(&prompts)
    };
    assert!(
        write(&mut client, long)
            .await
            .iter()
            .all(|conversation| conversation.turns.len() == 16)
    );
    let kinds = vec![QuestionKind::Wh.into(), QuestionKind::EitherOr.into()];
    let narrow = WriteDialoguesRequest {
        kinds: kinds.clone(),
        round_count: 2,
        ..request(&prompts)
    };
    let written = write(&mut client, narrow).await;
    assert!(
        written
            .iter()
            .flat_map(|conversation| &conversation.turns)
            .all(|turn| kinds.contains(&turn.kind))
    );
}

#[tokio::test]
async fn bad_requests_are_refused_by_field_and_bad_items_fail_alone() {
    let (_handle, mut client) = serve().await;
    let prompts = shipped_prompts(1);
    let change = |edit: &dyn Fn(&mut WriteDialoguesRequest)| {
        let mut changed = request(&prompts[..2]);
        edit(&mut changed);
        changed
    };
    for (field, bad) in [
        ("items", change(&|request| request.items.clear())),
        (
            "items[1].sample_id",
            change(&|request| request.items[1].sample_id = request.items[0].sample_id.clone()),
        ),
        (
            "items[0].sample_id",
            change(&|request| request.items[0].sample_id = "12".into()),
        ),
        (
            "items[1].prompts",
            change(&|request| request.items[1].prompts.clear()),
        ),
        ("round_count", change(&|request| request.round_count = 17)),
        ("kinds[0]", change(&|request| request.kinds = vec![99])),
    ] {
        let status = ask(&mut client, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(
            status.get_details_bad_request().unwrap().field_violations[0].field,
            field
        );
    }
    let unknown = change(&|request| request.items[0].prompts[0].ability = "weather".into());
    let status = ask(&mut client, unknown).await.unwrap_err();
    assert!(
        status.code() == Code::NotFound && status.message().contains("vehicle"),
        "{status}"
    );

    let mut mixed = request(&prompts[..3]);
    mixed.items[0].prompts[0].facts = None;
    let second = mixed.items[1].prompts[0].clone();
    mixed.items[1].prompts.push(second);
    let outcomes = ask(&mut client, mixed).await.unwrap();
    assert!(outcomes[0].as_ref().unwrap_err().starts_with("NO_FACTS"));
    assert!(
        outcomes[1]
            .as_ref()
            .unwrap_err()
            .starts_with("SEVERAL_IMAGES")
    );
    assert!(outcomes[2].is_ok());

    for (conversation, prompts) in [
        (None, prompts.clone()),
        (Some(Conversation::default()), Vec::new()),
    ] {
        let status = client
            .check_dialogue(CheckDialogueRequest {
                conversation,
                prompts,
            })
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}

/// Exchanges every answer for one about another picture: nearly all of those are false.
#[tokio::test]
async fn nearly_every_answer_about_another_picture_is_caught() {
    let (_handle, mut client) = serve().await;
    let prompts = shipped_prompts(40);
    let written = write(&mut client, request(&prompts)).await;
    let (mut planted, mut caught) = (0, 0);
    for (index, (conversation, prompt)) in written.iter().zip(&prompts).enumerate() {
        let Some(other) = prompts[index + 1..]
            .iter()
            .position(|other| shares_nothing(other, prompt))
        else {
            continue;
        };
        let mut swapped = conversation.clone();
        let foreign = WriteDialoguesRequest {
            items: vec![DialogueItem {
                sample_id: prompt.sample_id.clone(),
                ..item(&prompts[index + 1 + other])
            }],
            ..request(&[])
        };
        let foreign = write(&mut client, foreign).await.remove(0);
        swapped.turns[1].text.clone_from(&foreign.turns[1].text);
        planted += 1;
        caught += usize::from(
            check(&mut client, &swapped, prompt)
                .await
                .iter()
                .any(|found| found.turn_index == 1),
        );
    }
    assert!(
        planted > 400 && caught * 100 >= planted * 97,
        "{caught} of {planted}"
    );
}

/// Of the same ability, with no fact in common.
fn shares_nothing(one: &Prompt, other: &Prompt) -> bool {
    let words = |facts: &Facts| -> BTreeSet<String> {
        let attributes = facts.subjects[0]
            .attributes
            .iter()
            .map(|attribute| attribute.value.clone());
        let own = [
            facts.scene.clone(),
            facts.style.clone(),
            facts.subjects[0].name.clone(),
        ];
        attributes
            .chain(own.into_iter().filter(|name| name != "person"))
            .collect()
    };
    let words = |prompt: &Prompt| words(prompt.facts.as_ref().unwrap());
    one.ability == other.ability && words(one).is_disjoint(&words(other))
}

#[tokio::test]
async fn planted_defects_are_named_with_their_turn() {
    let (_handle, mut client) = serve().await;
    let car = prompt_of("color", "red car, city, cartoon");
    let fox = prompt_of("animal", "fox, snow, sketch");
    let bus = prompt_of("abnormal", "upside-down bus, city, cartoon");
    let clean = [
        (
            &car,
            QuestionKind::Wh,
            "What color is the car?",
            "The car is red.",
            &["red"][..],
        ),
        (
            &car,
            QuestionKind::YesNo,
            "Is the car blue?",
            "No, the car is red.",
            &["no"],
        ),
        (
            &fox,
            QuestionKind::Caption,
            "Describe the picture.",
            "A fox in the snow, drawn as a sketch.",
            &[],
        ),
        (
            &fox,
            QuestionKind::Negative,
            "Where is the owl?",
            "There is no owl in the picture, but a fox.",
            &["no"],
        ),
        (
            &fox,
            QuestionKind::MultipleChoice,
            "Which animal is it? A. owl, B. fox",
            "B. fox",
            &["fox"],
        ),
        (
            &bus,
            QuestionKind::Wh,
            "What is unusual in the picture?",
            "The bus is upside down.",
            &["upside down"],
        ),
    ];
    let defects = [
        (
            &car,
            QuestionKind::Wh,
            "What color is the car?",
            "The car is blue.",
            &["red"][..],
            "`blue`",
        ),
        (
            &car,
            QuestionKind::Wh,
            "What color is the car?",
            "The car is turquoise.",
            &["red"],
            "none of its keywords",
        ),
        (
            &car,
            QuestionKind::Wh,
            "What color is the {subject}?",
            "The car is blue.",
            &["blue"],
            "`blue`",
        ),
        (
            &car,
            QuestionKind::YesNo,
            "Is the car blue?",
            "Yes, it is.",
            &["yes"],
            "says yes where the facts say no",
        ),
        (
            &car,
            QuestionKind::YesNo,
            "Is the car red?",
            "No, it is not.",
            &["no"],
            "says no where the facts say yes",
        ),
        (
            &car,
            QuestionKind::YesNo,
            "Is the car red?",
            "Yes, the car is red.",
            &["no"],
            "keywords",
        ),
        (
            &car,
            QuestionKind::YesNo,
            "Is the car red?",
            "The car is red.",
            &["yes"],
            "neither yes nor no",
        ),
        (
            &fox,
            QuestionKind::Caption,
            "Describe the picture.",
            "A cat in the snow, drawn as a sketch.",
            &[],
            "`cat`",
        ),
        (
            &fox,
            QuestionKind::Caption,
            "Describe the picture.",
            "A fox in a desert, drawn as a sketch.",
            &[],
            "desert",
        ),
        (
            &fox,
            QuestionKind::Caption,
            "Describe the picture.",
            "A red fox in the snow.",
            &[],
            "do not state",
        ),
        (
            &fox,
            QuestionKind::Caption,
            "Describe the picture.",
            "A giraffe in the snow.",
            &[],
            "what the picture is about",
        ),
        (
            &fox,
            QuestionKind::Negative,
            "Where is the owl?",
            "The owl sits on the left.",
            &["no"],
            "`owl`",
        ),
        (
            &fox,
            QuestionKind::Negative,
            "Where is the fox?",
            "There is no fox in the picture.",
            &["no"],
            "denies `fox`",
        ),
        (
            &fox,
            QuestionKind::MultipleChoice,
            "Which animal is it? A. owl, B. fox",
            "A. fox",
            &["fox"],
            "choice A",
        ),
        (
            &fox,
            QuestionKind::Wh,
            "Where is this?",
            "It is a fox.",
            &[],
            "scene",
        ),
        (
            &bus,
            QuestionKind::Wh,
            "What is unusual in the picture?",
            "The bus is purple.",
            &["purple"],
            "purple",
        ),
    ];
    for (prompt, kind, question, answer, keywords) in clean {
        let found = check(
            &mut client,
            &round(kind, question, answer, keywords),
            prompt,
        )
        .await;
        assert_eq!(found, [], "{question} {answer}");
    }
    for (prompt, kind, question, answer, keywords, expected) in defects {
        let found = check(
            &mut client,
            &round(kind, question, answer, keywords),
            prompt,
        )
        .await;
        assert!(
            found
                .iter()
                .any(|found| found.turn_index == 1 && found.reason.contains(expected)),
            "{question} {answer}: {found:?}"
        );
    }
}

#[tokio::test]
async fn broken_conversations_are_named_with_their_turn() {
    let (_handle, mut client) = serve().await;
    let prompt = prompt_of("animal", "fox, snow, sketch");
    let whole = write(&mut client, request(std::slice::from_ref(&prompt)))
        .await
        .remove(0);
    let broken: [Broken; 6] = [
        (3, "no words", &|conversation| {
            conversation.turns[3].text = "  ".into()
        }),
        (2, "alternate", &|conversation| {
            conversation.turns[2].role = Role::Assistant.into()
        }),
        (0, "alternate", &|conversation| {
            drop(conversation.turns.remove(0))
        }),
        (4, "pairs", &|conversation| drop(conversation.turns.pop())),
        (0, "show image 0", &|conversation| {
            conversation.turns[0].image_index.clear()
        }),
        (2, "image 3", &|conversation| {
            conversation.turns[2].image_index = vec![3]
        }),
    ];
    for (turn_index, reason, break_it) in broken {
        let mut conversation = whole.clone();
        break_it(&mut conversation);
        let found = check(&mut client, &conversation, &prompt).await;
        assert!(
            found
                .iter()
                .any(|found| found.turn_index == turn_index && found.reason.contains(reason)),
            "{reason}: {found:?}"
        );
    }
}

fn round(kind: QuestionKind, question: &str, answer: &str, keywords: &[&str]) -> Conversation {
    let turn =
        |role: Role, text: &str, image_index: &[u32], keywords: &[&str]| proto::dataset::v1::Turn {
            role: role.into(),
            text: text.to_owned(),
            image_index: image_index.to_vec(),
            kind: kind.into(),
            answer_keywords: keywords.iter().map(|&word| word.to_owned()).collect(),
        };
    Conversation {
        sample_id: "0".repeat(32),
        turns: vec![
            turn(Role::User, question, &[0], &[]),
            turn(Role::Assistant, answer, &[], keywords),
        ],
        provenance: None,
    }
}
