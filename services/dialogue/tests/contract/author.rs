//! Conversations from a language model: what is asked of it, what is kept of its answers, and what
//! happens when it is wrong, slow or away.

use std::{collections::BTreeSet, path::Path};

use dialogue::{Backend, Options};
use proto::{
    dataset::v1::{Conversation, Image, Prompt, QuestionKind, image::Content},
    dialogue::v1::{
        CheckDialogueRequest, DialogueItem, GetCapabilitiesRequest, WriteDialoguesRequest,
    },
};
use runtime::error::retry_after;
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    model_server::{Asked, ModelServer, Reply, says},
    stage::{Client, ask, item, options, request, serve_with, shipped_prompts, write},
};

fn openai(server: &ModelServer) -> Options {
    Options {
        backend: Backend::Openai,
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

fn animals(count: usize) -> Vec<Prompt> {
    let mut prompts = shipped_prompts(count);
    prompts.retain(|prompt| prompt.ability == "animal");
    prompts
}

const NAMES: [&str; 4] = ["first", "second", "third", "fourth"];
const OTHERS: [&str; 5] = ["tiger", "frog", "penguin", "cow", "bear"];

/// The values of lines such as `- thing: fox, 1 of it`, one for each picture.
fn told<'a>(asked: &'a Asked, name: &str) -> Vec<&'a str> {
    let start = format!("- {name}: ");
    let lines = asked.text(1).lines();
    let values = lines.filter_map(|line| line.strip_prefix(start.as_str()));
    values
        .map(|value| value.split(',').next().unwrap())
        .collect()
}

/// The rounds of the plan, in its words.
fn plan(asked: &Asked) -> Vec<&str> {
    let (_, rounds) = asked.text(1).split_once("The plan:\n").unwrap();
    rounds
        .lines()
        .map(|line| line.split_once(". ").unwrap().1)
        .collect()
}

/// A model that keeps to plan and facts, for pictures of animals.
fn obedient(asked: &Asked) -> Reply {
    let turns = plan(asked).into_iter().enumerate();
    let turns: Vec<_> = turns
        .map(|(index, words)| turn(asked, index, words))
        .collect();
    says(&json!({ "turns": turns }))
}

fn turn(asked: &Asked, index: usize, words: &str) -> Value {
    let (things, scenes, styles) = (
        told(asked, "thing"),
        told(asked, "setting"),
        told(asked, "style"),
    );
    let picture = NAMES
        .iter()
        .position(|name| words.contains(&format!("the {name} picture")));
    let at = picture.unwrap_or(0);
    let (thing, scene, style) = (things[at], scenes[at], styles[at]);
    let other = OTHERS.iter().find(|other| !things.contains(other)).unwrap();
    let place = match things.len() {
        1 => "the picture".to_owned(),
        _ => format!("the {} picture", NAMES[at]),
    };
    let kind = words.split([',', ';']).next().unwrap();
    let mut options = Vec::new();
    let (question, answer, keywords) = match kind {
        "caption" => (
            format!("What does {place} show?"),
            format!("A {thing}, {scene}, {style}."),
            vec![],
        ),
        "yes_no" if words.ends_with("yes") => (
            format!("Is a {thing} in {place}?"),
            format!("Yes, it shows a {thing}."),
            vec!["yes"],
        ),
        "yes_no" => (
            format!("Is a {other} in {place}?"),
            format!("No, it shows a {thing}."),
            vec!["no"],
        ),
        "wh" => (
            format!("Which animal is in {place}?"),
            format!("It is a {thing}."),
            vec![thing],
        ),
        "either_or" => (
            format!("Is a {thing} or a {other} in {place}?"),
            format!("It is a {thing}."),
            vec![thing],
        ),
        "multiple_choice" => {
            options = vec![thing];
            options.extend(
                OTHERS
                    .iter()
                    .filter(|other| !things.contains(other))
                    .take(2),
            );
            (
                format!("Which animal is in {place}?"),
                thing.to_owned(),
                vec![thing],
            )
        }
        "negative" => (
            format!("Where is the {other} in {place}?"),
            format!("There is no {other}, but a {thing}."),
            vec![],
        ),
        "follow_up" => (
            "And where is it?".to_owned(),
            format!("The place is: {scene}."),
            vec![scene],
        ),
        "multi_image" => {
            let each = things.iter().zip(NAMES);
            let each: Vec<_> = each
                .map(|(thing, name)| format!("a {thing} in the {name}"))
                .collect();
            (
                format!("How do they compare, by {words}?"),
                format!("There is {}.", each.join(" and ")),
                vec![],
            )
        }
        other => panic!("no kind: {other}"),
    };
    // A conversation asks nothing twice.
    let question = format!("{} Turn {index} of {}.", question.trim_end(), asked.number);
    json!({"kind": kind, "question": question, "options": options, "answer": answer, "answer_keywords": keywords})
}

async fn disagreements(
    client: &mut Client,
    conversation: &Conversation,
    prompts: &[Prompt],
) -> Vec<String> {
    let request = CheckDialogueRequest {
        conversation: Some(conversation.clone()),
        prompts: prompts.to_vec(),
    };
    let found = client.check_dialogue(request).await.unwrap().into_inner();
    found
        .disagreements
        .into_iter()
        .map(|found| found.reason)
        .collect()
}

#[tokio::test]
async fn conversations_have_the_kinds_asked_for_right_choices_anywhere_and_no_shared_answer() {
    let server = ModelServer::start(|asked| {
        let rules = asked.text(0);
        assert!(
            rules.contains("Never invent.") && !rules.contains("{{"),
            "{rules}"
        );
        assert!(rules.contains("Does the picture show a cat?"), "{rules}");
        obedient(asked)
    })
    .await;
    let (_handle, mut client) = serve_with(openai(&server)).await;
    let offered = client.get_capabilities(GetCapabilitiesRequest {}).await;
    let offered = offered.unwrap().into_inner().capabilities.unwrap();
    assert_eq!(
        (offered.backend.as_str(), offered.models[0].name.as_str()),
        ("openai", "toy")
    );
    assert!(offered.features.contains(&"multi_image".to_owned()));

    let prompts = animals(40);
    let long = WriteDialoguesRequest {
        round_count: 7,
        ..request(&prompts)
    };
    let written = write(&mut client, long).await;
    assert_eq!((written.len(), server.asked()), (40, 40));
    let openings: BTreeSet<_> = written.iter().map(|one| &one.turns[0].text).collect();
    assert_eq!(openings.len(), 40, "an answer was used twice");
    let (mut letters, mut yes) = (BTreeSet::new(), 0);
    for (conversation, prompt) in written.iter().zip(&prompts) {
        assert_eq!(
            disagreements(&mut client, conversation, std::slice::from_ref(prompt)).await,
            [""; 0]
        );
        assert_eq!(conversation.turns[0].image_index, [0]);
        let answers = conversation.turns.iter().skip(1).step_by(2);
        let kinds: BTreeSet<_> = answers.clone().map(|turn| turn.kind).collect();
        assert_eq!(kinds.len(), 7, "{conversation:?}");
        for answer in answers {
            match answer.kind() {
                QuestionKind::MultipleChoice => {
                    letters.insert(answer.text[..3].to_owned());
                }
                QuestionKind::YesNo => yes += u32::from(answer.answer_keywords == ["yes"]),
                _ => {}
            }
        }
        let origin = conversation.provenance.as_ref().unwrap();
        assert_eq!(
            (origin.producer.as_str(), origin.seeded),
            ("dialogue/openai", false)
        );
        assert_eq!(origin.parameters["completion_tokens"], "20");
    }
    assert!(
        letters.len() >= 3 && (10..=30).contains(&yes),
        "{letters:?} {yes}"
    );
}

#[tokio::test]
async fn several_pictures_are_told_apart_and_shown_where_they_are_needed() {
    let server = ModelServer::start(obedient).await;
    let (_handle, mut client) = serve_with(openai(&server)).await;
    let prompts = animals(60);
    let several: Vec<_> = (0..20)
        .map(|index| DialogueItem {
            sample_id: format!("{index:032x}"),
            prompts: prompts[index * 3..][..2 + index % 2].to_vec(),
            images: Vec::new(),
        })
        .collect();
    let wanted = WriteDialoguesRequest {
        items: several.clone(),
        round_count: 5,
        ..request(&[])
    };
    let written = write(&mut client, wanted).await;
    let mut openings = BTreeSet::new();
    for (conversation, item) in written.iter().zip(&several) {
        let found = disagreements(&mut client, conversation, &item.prompts).await;
        assert_eq!(found, [""; 0], "{conversation:?}");
        let shown = conversation
            .turns
            .iter()
            .flat_map(|turn| turn.image_index.clone());
        assert_eq!(
            shown.collect::<Vec<_>>(),
            (0..item.prompts.len() as u32).collect::<Vec<_>>()
        );
        openings.insert(conversation.turns[0].image_index.len() > 1);
        let mut turns = conversation.turns.iter();
        assert!(turns.any(|turn| turn.kind() == QuestionKind::MultiImage));

        // What is true of one picture is false of another.
        let mut swapped = conversation.clone();
        let about_second = swapped.turns.iter().position(|turn| {
            turn.text.contains("second picture") && turn.kind() == QuestionKind::Wh
        });
        let subject = |index: usize| {
            item.prompts[index].facts.as_ref().unwrap().subjects[0]
                .name
                .clone()
        };
        if let Some(index) = about_second.filter(|_| subject(0) != subject(1)) {
            swapped.turns[index + 1].text = format!("It is a {}.", subject(0));
            assert_ne!(
                disagreements(&mut client, &swapped, &item.prompts).await,
                [""; 0]
            );
        }
    }
    assert_eq!(openings.len(), 2, "one shape of two never came");

    let mut five = several[0].clone();
    five.prompts = prompts[..5].to_vec();
    let failure = ask(
        &mut client,
        WriteDialoguesRequest {
            items: vec![five],
            ..request(&[])
        },
    )
    .await;
    assert!(
        failure
            .unwrap()
            .remove(0)
            .unwrap_err()
            .starts_with("SEVERAL_IMAGES")
    );
}

#[tokio::test]
async fn a_disagreement_is_fed_back_once_and_wrong_json_is_repaired() {
    let server = ModelServer::start(|asked| {
        let thing = told(asked, "thing")[0];
        let good = obedient(asked).1;
        let turn = asked.messages().len();
        let right = format!("It is a {thing}.");
        let invented = || good.replace(&right, &format!("It is a {thing} by a whale."));
        match (thing, turn) {
            ("dog", _) => (200, invented()),
            ("cat", 2) => (200, invented()),
            ("cat", _) => {
                assert!(asked.text(3).contains("whale"), "{}", asked.text(3));
                (200, good)
            }
            ("fox", 2) => (200, good.replace("\"options\"", "\"choices\"")),
            ("owl", 2) => (
                200,
                good.replace("It is a owl.", "The facts say that it is a owl."),
            ),
            ("owl", _) => {
                assert!(asked.text(3).contains("the facts"), "{}", asked.text(3));
                (200, good)
            }
            _ => (200, good),
        }
    })
    .await;
    let (_handle, mut client) = serve_with(openai(&server)).await;
    let mut prompts = animals(60);
    let thing = |prompt: &Prompt| prompt.facts.as_ref().unwrap().subjects[0].name.clone();
    let mut seen = BTreeSet::new();
    prompts.retain(|prompt| seen.insert(thing(prompt)));
    let wh = WriteDialoguesRequest {
        kinds: vec![QuestionKind::Wh.into()],
        round_count: 2,
        ..request(&prompts)
    };
    let found = ask(&mut client, wh).await.unwrap();
    for (found, prompt) in found.into_iter().zip(&prompts) {
        let corrections =
            |found: Conversation| found.provenance.unwrap().parameters["corrections"].clone();
        match (thing(prompt).as_str(), found) {
            ("dog", found) => {
                let failure = found.unwrap_err();
                assert!(failure.starts_with("DISAGREES_WITH_FACTS"), "{failure}");
            }
            ("cat" | "owl", found) => assert_eq!(corrections(found.unwrap()), "1"),
            ("fox", found) => {
                assert_eq!(
                    found.unwrap().provenance.unwrap().parameters["schema_repairs"],
                    "1"
                );
            }
            (_, found) => assert_eq!(corrections(found.unwrap()), "0"),
        }
    }
}

#[tokio::test]
async fn a_model_that_looks_is_shown_each_picture_and_no_other_is() {
    const PNG: [u8; 8] = [0x89, b'P', b'N', b'G', 13, 10, 26, 10];
    let server = ModelServer::start(|asked| {
        let parts = asked.messages()[1]["content"].as_array().unwrap();
        let urls: Vec<_> = parts[1..]
            .iter()
            .map(|part| part["image_url"]["url"].as_str().unwrap())
            .collect();
        assert_eq!(urls.len(), 2);
        assert!(urls[0].starts_with("data:image/png;base64,") && urls[0] != urls[1]);
        assert!(asked.text(0).contains("You see the pictures too"));
        obedient(asked)
    })
    .await;
    let looking = Options {
        vision: true,
        ..openai(&server)
    };
    let (_handle, mut client) = serve_with(looking).await;
    let prompts = animals(8);
    let image = |number: u8| Image {
        content: Some(Content::Data([&PNG[..], &[number]].concat().into())),
        ..Image::default()
    };
    let shown = DialogueItem {
        sample_id: format!("{:032x}", 1),
        prompts: prompts[..2].to_vec(),
        images: vec![image(1), image(2)],
    };
    let blind = item(&prompts[3]);
    let wanted = WriteDialoguesRequest {
        items: vec![shown, blind],
        ..request(&[])
    };
    let found = ask(&mut client, wanted).await.unwrap();
    assert!(found[0].is_ok(), "{found:?}");
    assert!(found[1].as_ref().unwrap_err().starts_with("NO_PICTURE"));
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_second_start_with_the_journal_asks_nothing() {
    let server = ModelServer::start(obedient).await;
    let folder = tempfile::tempdir().unwrap();
    let prompts = animals(8);
    let (handle, mut client) = serve_with(with_journal(&server, folder.path())).await;
    let first = write(&mut client, request(&prompts)).await;
    handle.stop();
    handle.wait().await.unwrap();
    let (_handle, mut client) = serve_with(with_journal(&server, folder.path())).await;
    assert_eq!(write(&mut client, request(&prompts)).await, first);
    assert_eq!(server.asked(), 8);
}

#[tokio::test]
async fn what_fails_one_item_fails_it_alone_and_what_fails_all_ends_the_request() {
    let prompts = animals(16);
    for (status, code) in [
        (401, Code::FailedPrecondition),
        (429, Code::ResourceExhausted),
    ] {
        let server = ModelServer::start(move |_| (status, "no".to_owned())).await;
        let (_handle, mut client) = serve_with(openai(&server)).await;
        let error = ask(&mut client, request(&prompts)).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(
            retry_after(&error).is_some(),
            code == Code::ResourceExhausted
        );
    }
    let server = ModelServer::start(|asked| match told(asked, "thing")[0] {
        "owl" => (500, "out of memory".to_owned()),
        _ => obedient(asked),
    })
    .await;
    let (_handle, mut client) = serve_with(openai(&server)).await;
    for (found, prompt) in ask(&mut client, request(&prompts))
        .await
        .unwrap()
        .iter()
        .zip(&prompts)
    {
        let is_owl = prompt.facts.as_ref().unwrap().subjects[0].name == "owl";
        let has_failed = found
            .as_ref()
            .is_err_and(|failure| failure.starts_with("LANGUAGE_MODEL_FAILED"));
        assert_eq!(has_failed, is_owl, "{found:?}");
    }
}

#[tokio::test]
async fn the_service_waits_until_its_model_is_there() {
    let server = ModelServer::late(3, obedient).await;
    let (_handle, mut client) = serve_with(openai(&server)).await;
    assert_eq!(server.looked(), 4);
    assert_eq!(write(&mut client, request(&animals(1))).await.len(), 1);
}
