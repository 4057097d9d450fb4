//! Prompts: what they hold, that they repeat themselves, and what is refused.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    dataset::v1::{Prompt, PromptSyntax},
    promptgen::v1::{GeneratePromptsRequest, GetCapabilitiesRequest, PromptItem, PromptSplit},
};
use tonic::Code;

use crate::stage::{ask, field_of, items, options, prompts, request, serve};

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
        ("grammar", 20)
    );

    let mut texts = BTreeSet::new();
    // Samples of several pictures are asked for below.
    let several = ["difference", "one_per_turn", "relation", "similarity"];
    let abilities = offered.abilities.iter();
    for ability in abilities.filter(|ability| !several.contains(&ability.as_str())) {
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
async fn the_pictures_of_a_sample_are_items_that_share_its_slot_and_come_again_alone() {
    let (_handle, mut client) = serve(options()).await;
    let item = |slot: u64, attempt: u32, picture: u32| PromptItem {
        sample_id: format!(
            "{:032x}",
            (slot * 8 + u64::from(attempt)) * 8 + u64::from(picture)
        ),
        slot,
        attempt,
        picture,
    };
    let asked = |items: Vec<PromptItem>| GeneratePromptsRequest {
        items,
        slot_count: 20,
        ..request("difference", 1)
    };
    let all: Vec<_> = (0..20)
        .flat_map(|slot| [item(slot, 0, 0), item(slot, 0, 1)])
        .collect();
    let whole = prompts(&mut client, asked(all)).await;
    let (mut samples, mut differences) = (BTreeSet::new(), BTreeSet::new());
    for pair in whole.chunks(2) {
        let facts = |index: usize| pair[index].facts.clone().unwrap();
        let (one, other) = (facts(0), facts(1));
        let differ = (
            one.subjects != other.subjects,
            one.scene != other.scene,
            one.style != other.style,
        );
        differences.insert(differ);
        samples.insert((pair[0].text.clone(), pair[1].text.clone()));
    }
    assert_eq!(samples.len(), 20);
    let one_thing = [
        (true, false, false),
        (false, true, false),
        (false, false, true),
    ];
    assert_eq!(differences, BTreeSet::from(one_thing));

    let alone = prompts(&mut client, asked(vec![item(7, 0, 1)])).await;
    assert_eq!(alone[0], whole[15]);
    let next = prompts(&mut client, asked(vec![item(7, 1, 0), item(7, 1, 1)])).await;
    assert!(!samples.contains(&(next[0].text.clone(), next[1].text.clone())));
    let excluding = GeneratePromptsRequest {
        excluded_texts: vec![whole[14].text.clone()],
        ..asked(vec![item(7, 0, 0), item(7, 0, 1)])
    };
    let others = prompts(&mut client, excluding).await;
    assert!(others.iter().all(|prompt| prompt.text != whole[14].text));

    for (bad, field) in [
        (vec![item(0, 0, 2)], "items[0].picture"),
        (
            vec![
                item(0, 0, 1),
                PromptItem {
                    sample_id: "0".repeat(32),
                    ..item(0, 0, 1)
                },
            ],
            "items[1].slot",
        ),
    ] {
        let status = ask(&mut client, asked(bad)).await.unwrap_err();
        assert_eq!(field_of(&status), field);
    }
}
