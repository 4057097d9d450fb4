//! Conversations about several pictures by the grammar.

use std::collections::{BTreeMap, BTreeSet};

use dataset::ability::{Abilities, Ability, Draw, Shown, Split};
use dialogue::{Backend, Options};
use proto::{
    dataset::v1::{Prompt, QuestionKind, Turn},
    dialogue::v1::{CheckDialogueRequest, DialogueItem, WriteDialoguesRequest},
};

use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    model_server::ModelServer,
    stage::{Client, ask, options, serve, serve_with, write},
};

/// Samples of every ability with several pictures.
fn samples(count_per_ability: usize) -> Vec<(Ability, DialogueItem)> {
    let abilities = Abilities::load_folder(&options().abilities).unwrap();
    let mut samples = Vec::new();
    for ability in abilities.iter() {
        let draw = Draw {
            seed: 3,
            split: Split::Training,
            style_weights: &BTreeMap::new(),
        };
        let sets = ability.picture_sets(&draw).unwrap();
        for set in sets.take(count_per_ability) {
            let sample_id = format!("{:032x}", samples.len());
            let prompt = |found: &dataset::ability::Combination| Prompt {
                sample_id: sample_id.clone(),
                ability: ability.name().to_owned(),
                keyword: found.keyword.clone(),
                text: found.webui_text(),
                facts: Some(found.facts.clone()),
                ..Prompt::default()
            };
            let prompts = set.into_iter().map(prompt).collect();
            let item = DialogueItem {
                sample_id: sample_id.clone(),
                prompts,
                images: Vec::new(),
            };
            samples.push((ability.clone(), item));
        }
    }
    samples
}

fn request(samples: &[(Ability, DialogueItem)], round_count: u32) -> WriteDialoguesRequest {
    WriteDialoguesRequest {
        items: samples.iter().map(|(_, item)| item.clone()).collect(),
        seed: 7,
        round_count,
        ..Default::default()
    }
}

#[tokio::test]
async fn every_picture_is_shown_in_its_turn_and_answers_agree_with_the_facts_of_all() {
    let (_handle, mut client) = serve().await;
    let samples = samples(60);
    assert_eq!(samples.len(), 240);
    let written = write(&mut client, request(&samples, 5)).await;
    assert_eq!(write(&mut client, request(&samples, 5)).await, written);
    let (mut kinds, mut compared) = (BTreeMap::new(), BTreeMap::new());
    for ((ability, item), conversation) in samples.iter().zip(&written) {
        let questions: Vec<&Turn> = conversation.turns.iter().step_by(2).collect();
        let shown: Vec<_> = questions
            .iter()
            .map(|turn| turn.image_index.clone())
            .collect();
        let expected: [&[u32]; 5] = match ability.shown() {
            Shown::Together => [&[0, 1], &[], &[], &[], &[]],
            Shown::OnePerTurn => [&[0], &[1], &[2], &[], &[]],
        };
        assert_eq!(shown, expected, "{conversation:?}");
        for (number, turn) in questions.iter().enumerate() {
            *kinds.entry((ability.name(), turn.kind())).or_insert(0) += 1;
            let is_named = ["first", "second", "third"]
                .iter()
                .any(|name| turn.text.contains(name));
            match (ability.shown(), turn.kind()) {
                (_, QuestionKind::MultiImage) => assert!(shown[number].len() != 1),
                (Shown::OnePerTurn, _) if number < 3 => assert!(!is_named, "{turn:?}"),
                _ => assert!(is_named, "{turn:?}"),
            }
        }
        let answers = conversation.turns.iter().skip(1).step_by(2);
        for turn in answers.filter(|turn| turn.kind() == QuestionKind::MultiImage) {
            let said = turn.answer_keywords.first().cloned().unwrap_or_default();
            let said = if ["yes", "no"].contains(&said.as_str()) {
                said
            } else {
                "else".into()
            };
            *compared.entry(said).or_insert(0_u32) += 1;
        }
        let texts: BTreeSet<_> = questions
            .iter()
            .map(|turn| (&turn.text, &turn.image_index))
            .collect();
        assert_eq!(texts.len(), 5, "a question came twice: {questions:?}");
        assert_eq!(check(&mut client, conversation, item).await, [""; 0]);
    }
    assert!(kinds.values().all(|&count| count >= 5), "{kinds:?}");
    let of_all = kinds
        .iter()
        .filter(|((_, kind), _)| *kind == QuestionKind::MultiImage);
    assert_eq!(of_all.count(), 4);
    let share = f64::from(compared["yes"]) / f64::from(compared["yes"] + compared["no"]);
    assert!((0.38..0.62).contains(&share), "{compared:?}");
    assert!(
        compared["else"] > compared["yes"] + compared["no"],
        "{compared:?}"
    );
}

#[tokio::test]
async fn a_false_answer_about_one_of_several_pictures_is_found() {
    let (_handle, mut client) = serve().await;
    let samples = samples(3);
    let (_, item) = &samples[0];
    let facts = item.prompts[1].facts.clone().unwrap();
    let only = ["desert", "city", "beach"].into_iter().find(|scene| {
        item.prompts
            .iter()
            .all(|prompt| prompt.facts.as_ref().unwrap().scene != *scene)
    });
    let mut conversation = write(&mut client, request(&samples[..1], 3))
        .await
        .remove(0);
    conversation.turns[2].text = "What does the second picture show?".to_owned();
    conversation.turns[2].kind = QuestionKind::Wh.into();
    conversation.turns[3].text = format!("A {} in a {}.", facts.subjects[0].name, only.unwrap());
    conversation.turns[3].answer_keywords.clear();
    assert_ne!(check(&mut client, &conversation, item).await, [""; 0]);
}

#[tokio::test]
async fn too_few_pictures_fail_their_item_alone() {
    let (_handle, mut client) = serve().await;
    let mut samples = samples(1);
    samples[0].1.prompts.pop();
    let outcomes = ask(&mut client, request(&samples, 3)).await.unwrap();
    let reasons: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            outcome
                .as_ref()
                .err()
                .map(|error| error.split(':').next().unwrap())
        })
        .collect();
    assert_eq!(reasons, [Some("SEVERAL_IMAGES"), None, None, None]);
}

#[tokio::test]
async fn fewer_rounds_than_pictures_shown_one_by_one_are_refused_by_field_before_anything_is_written()
 {
    let server = ModelServer::start(|_| panic!("nothing is to be asked")).await;
    let author = Options {
        backend: Backend::Openai,
        llm: server.options(),
        ..options()
    };
    let samples = samples(1);
    for options in [options(), author] {
        let (_handle, mut client) = serve_with(options).await;
        let refused = ask(&mut client, request(&samples, 2)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        let details = refused.get_error_details();
        let fields = &details.bad_request().unwrap().field_violations;
        assert_eq!(fields[0].field, "round_count");
        assert!(refused.message().contains("`one_per_turn`"), "{refused}");
    }
}

async fn check(
    client: &mut Client,
    conversation: &proto::dataset::v1::Conversation,
    item: &DialogueItem,
) -> Vec<String> {
    let request = CheckDialogueRequest {
        conversation: Some(conversation.clone()),
        prompts: item.prompts.clone(),
    };
    let found = client.check_dialogue(request).await.unwrap().into_inner();
    let found = found.disagreements.into_iter();
    found
        .map(|found| format!("turn {}: {}", found.turn_index, found.reason))
        .collect()
}
