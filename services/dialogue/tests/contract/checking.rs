//! What a conversation claims, held against the facts.

use std::collections::BTreeSet;

use proto::{
    dataset::v1::{Conversation, Facts, Prompt, QuestionKind, Role},
    dialogue::v1::{DialogueItem, WriteDialoguesRequest},
};

use crate::stage::{check, item, prompt_of, request, serve, shipped_prompts, write};

/// Turn and reason expected of what a change breaks.
type Broken<'a> = (u32, &'a str, &'a dyn Fn(&mut Conversation));

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
