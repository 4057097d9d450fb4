//! Conversations: what they hold, that they repeat themselves, and what is refused.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    dataset::v1::{Conversation, QuestionKind},
    dialogue::v1::{CheckDialogueRequest, GetCapabilitiesRequest, WriteDialoguesRequest},
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::stage::{ask, check, request, serve, shipped_prompts, write};

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
        ("grammar", 20)
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
