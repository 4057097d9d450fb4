//! The abilities that ship, held against the world that the nano models know, and
//! what a wrong file is told.
#![allow(
    clippy::unwrap_used,
    reason = "the functions beside the tests are tests too; clippy knows only the latter"
)]

use dataset::{
    ability::{Abilities, Ability, Combination, Draw, Draws, QuestionTemplate, Split},
    question::{Claim, Question, mentions},
};
use proto::dataset::v1::QuestionKind;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../abilities")
}

fn load() -> Abilities {
    Abilities::load_folder(&shipped()).unwrap()
}

fn ordered(ability: &Ability, seed: u64, split: Split) -> Vec<String> {
    let draw = Draw {
        seed,
        split,
        style_weights: &BTreeMap::new(),
    };
    ability
        .ordered(&draw)
        .unwrap()
        .into_iter()
        .map(|found| found.webui_text())
        .collect()
}

#[test]
fn every_shipped_prompt_is_one_that_the_nano_world_can_draw() {
    let world = fs::read_to_string(shipped().join("../models/nano/world.toml")).unwrap();
    let world: toml::Table = toml::from_str(&world).unwrap();
    let rows = |list: &str| world[list].as_array().unwrap().clone();
    let names = |list: &str, key: &str| -> BTreeSet<String> {
        rows(list)
            .iter()
            .map(|row| row[key].as_str().unwrap().to_owned())
            .collect()
    };
    let scenes = names("scene", "name");
    let styles = names("style", "name");
    let mut phrases = names("subject", "phrase");
    for color in names("color", "name") {
        phrases.extend(
            names("color_object", "keyword")
                .iter()
                .map(|thing| format!("{color} {thing}")),
        );
    }
    for thing in world["abnormal"]["upside_down"].as_array().unwrap() {
        phrases.insert(format!("upside-down {}", thing.as_str().unwrap()));
    }
    for pair in world["abnormal"]["wrong_color"].as_array().unwrap() {
        phrases.insert(format!(
            "{} {}",
            pair["color"].as_str().unwrap(),
            pair["keyword"].as_str().unwrap()
        ));
    }
    let mut all = BTreeSet::new();
    // What needs another model says so.
    for ability in load().iter().filter(|ability| ability.needs().is_empty()) {
        for found in ability.combinations() {
            let text = found.plain_text();
            assert!(
                phrases.contains(&found.phrase),
                "{}: phrase of `{text}`",
                ability.name()
            );
            assert!(
                scenes.contains(&found.facts.scene),
                "{}: scene of `{text}`",
                ability.name()
            );
            assert!(
                styles.contains(&found.facts.style),
                "{}: style of `{text}`",
                ability.name()
            );
            // Pictures that belong together show what others show alone.
            let is_alone = ability.images_per_sample() == 1;
            assert!(
                !is_alone || all.insert(text.clone()),
                "`{text}` stands in two abilities"
            );
        }
    }
    assert!(all.len() > 4000, "{} prompts", all.len());
}

#[test]
fn the_abilities_of_the_paper_and_ours_are_there() {
    let abilities = load();
    let names = |is_there: &dyn Fn(&&Ability) -> bool| -> Vec<String> {
        let found = abilities.iter().filter(|ability| is_there(ability));
        found.map(|ability| ability.name().to_owned()).collect()
    };
    let several = names(&|ability| ability.images_per_sample() > 1);
    assert_eq!(
        several,
        ["difference", "one_per_turn", "relation", "similarity"]
    );
    let demanding = names(&|ability| !ability.needs().is_empty());
    assert_eq!(demanding, ["counting", "position", "text"]);
    let names = names(&|ability| ability.images_per_sample() == 1 && ability.needs().is_empty());
    let expected = [
        "abnormal",
        "action",
        "animal",
        "clothes",
        "color",
        "food",
        "furniture",
        "hair",
        "plant",
        "profession",
        "scene",
        "style",
        "vehicle",
    ];
    assert_eq!(names, expected);
}

#[test]
fn every_prefix_of_the_order_gives_each_keyword_and_style_its_share() {
    for ability in load().iter() {
        let draw = Draw {
            seed: 7,
            split: Split::Training,
            style_weights: &BTreeMap::new(),
        };
        let order = ability.ordered(&draw).unwrap();
        assert!(
            order.len() >= 100,
            "{} has only {} prompts",
            ability.name(),
            order.len()
        );
        let mut left = BTreeMap::new();
        for found in &order {
            *left.entry(&found.keyword).or_insert(0_usize) += 1;
        }
        // Until the first keyword runs out.
        let kept = left.values().min().unwrap() * left.len();
        assert!(kept >= 64, "{}: {left:?}", ability.name());
        let keyword_count = ability.keywords().len();
        let style_count = ability.styles().len();
        let (mut keywords, mut styles) = (BTreeMap::new(), BTreeMap::new());
        for (index, found) in order.iter().take(kept.min(128)).enumerate() {
            let keyword = keywords.entry(&found.keyword).or_insert(0);
            *keyword += 1;
            assert!(
                *keyword <= (index + 1).div_ceil(keyword_count) + 1,
                "{} {} at {index}",
                ability.name(),
                found.keyword
            );
            let style = styles.entry(&found.facts.style).or_insert(0);
            *style += 1;
            assert!(
                *style <= (index + 1).div_ceil(style_count) + 1,
                "{} {} at {index}",
                ability.name(),
                found.facts.style
            );
        }
    }
}

#[test]
fn the_order_is_decided_by_the_seed_and_the_splits_share_no_picture() {
    let abilities = load();
    let animal = abilities.get("animal").unwrap();
    assert_eq!(
        ordered(animal, 1, Split::Training),
        ordered(animal, 1, Split::Training)
    );
    assert_ne!(
        ordered(animal, 1, Split::Training),
        ordered(animal, 2, Split::Training)
    );
    let content = |split| -> BTreeSet<_> {
        let all = abilities
            .iter()
            .flat_map(|ability| ability.combinations())
            .filter(|found| found.split() == split);
        all.map(|found| {
            (
                found.phrase.clone(),
                found.facts.scene.clone(),
                found.facts.style.clone(),
            )
        })
        .collect()
    };
    let (training, benchmark) = (content(Split::Training), content(Split::Benchmark));
    assert!(training.is_disjoint(&benchmark));
    let share = benchmark.len() as f64 / (benchmark.len() + training.len()) as f64;
    assert!((0.17..0.23).contains(&share), "{share}");
    for ability in abilities.iter() {
        assert!(
            ordered(ability, 1, Split::Benchmark).len() >= 50,
            "{}",
            ability.name()
        );
    }
}

#[test]
fn style_weights_are_kept_and_bad_ones_refused() {
    let abilities = load();
    let animal = abilities.get("animal").unwrap();
    let order = |weights: &[(&str, f64)]| {
        let weights = weights
            .iter()
            .map(|&(name, weight)| (name.to_owned(), weight))
            .collect();
        let draw = Draw {
            seed: 7,
            split: Split::Training,
            style_weights: &weights,
        };
        animal.ordered(&draw).map(|order| {
            order
                .iter()
                .map(|found| found.facts.style.clone())
                .collect::<Vec<_>>()
        })
    };
    let styles = order(&[("cartoon", 3.0), ("sketch", 1.0), ("neon", 0.0)]).unwrap();
    let count = |name| styles[..40].iter().filter(|style| *style == name).count();
    assert_eq!(
        (count("cartoon"), count("sketch"), count("neon")),
        (30, 10, 0)
    );
    assert!(
        order(&[("watercolor", 1.0)])
            .unwrap_err()
            .to_string()
            .contains("black and white, cartoon, neon")
    );
    assert!(order(&[("cartoon", -1.0)]).is_err() && order(&[("cartoon", 0.0)]).is_err());
}

#[test]
fn every_question_of_every_ability_can_be_asked_and_its_answer_names_the_truth() {
    for ability in load().iter() {
        for (list, templates) in [
            ("questions", ability.questions()),
            ("evaluation", ability.evaluation()),
        ] {
            for (index, template) in templates.iter().enumerate() {
                let asked = asked(ability, template);
                assert!(
                    !asked.is_empty(),
                    "{} {list}[{index}] is never asked",
                    ability.name()
                );
                for question in asked {
                    let named = question
                        .accepted
                        .iter()
                        .any(|word| mentions(&question.answer, word));
                    let free = list == "evaluation" || question.kind == QuestionKind::Caption;
                    assert!(
                        free || named || question.answer.contains("strange"),
                        "{question:?}"
                    );
                    assert!(!question.text.contains(['{', '}']), "{question:?}");
                }
            }
        }
    }
}

/// A question about every prompt, or every set of pictures, that carries it.
fn asked(ability: &Ability, template: &QuestionTemplate) -> Vec<Question> {
    let draws = |text: &str| Draws::new(&[text]);
    if template.kind == QuestionKind::MultiImage {
        let sets = sets(ability).take(200);
        let question = |set: Vec<&Combination>| {
            let facts: Vec<_> = set.iter().map(|found| &found.facts).collect();
            ability.question_of_all(template, &facts, &mut draws(&set[0].plain_text()))
        };
        return sets.filter_map(question).collect();
    }
    let question = |found: &Combination, claim| {
        let about = (1, &found.facts);
        let mut draws = draws(&found.plain_text());
        match ability.images_per_sample() {
            1 => ability.question(template, &found.facts, claim, &mut draws),
            _ => ability.question_of_one(template, about, claim, &mut draws),
        }
    };
    let all = ability.combinations().iter();
    let claims = |found| [(found, Claim::True), (found, Claim::False)];
    all.flat_map(claims)
        .filter_map(|(found, claim)| question(found, claim))
        .collect()
}

fn sets(ability: &Ability) -> impl Iterator<Item = Vec<&Combination>> {
    let draw = Draw {
        seed: 7,
        split: Split::Training,
        style_weights: &BTreeMap::new(),
    };
    ability.picture_sets(&draw).unwrap()
}

#[test]
fn evaluation_and_training_ask_in_different_words() {
    for ability in load().iter() {
        let training: BTreeSet<_> = ability
            .questions()
            .iter()
            .flat_map(|question| &question.ask)
            .map(|ask| ask.source())
            .collect();
        for ask in ability
            .evaluation()
            .iter()
            .flat_map(|question| &question.ask)
        {
            assert!(
                !training.contains(ask.source()),
                "{}: `{}`",
                ability.name(),
                ask.source()
            );
        }
    }
}

#[test]
fn a_wrong_file_is_refused_by_file_and_key() {
    let good = fs::read_to_string(shipped().join("animal.toml")).unwrap();
    let shared = fs::read_to_string(shipped().join("shared.toml")).unwrap();
    for (from, to, expected) in [
        ("main_aspect", "main_aspekt", "main_aspekt"),
        ("name = \"animal\"", "name = \"beasts\"", "`name`"),
        ("kind = \"wh\"", "kind = \"why\"", "why"),
        (
            "phrase = \"{keyword}\"",
            "phrase = \"{keywort}\"",
            "forms[0].phrase",
        ),
        ("{a truth}", "{a thruth}", "questions[0].answer"),
        (
            "keyword = [\"whale\"]",
            "keyword = [\"wale\"]",
            "forms[0].deny.keyword",
        ),
        ("\"fox\",\n", "\"fox\",\n\"fox\",\n", "keywords.fox"),
        ("axis = \"keyword\"", "axis = \"beast\"", "aspects.subject"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from} is not in the file");
        fs::write(folder.path().join("shared.toml"), &shared).unwrap();
        fs::write(folder.path().join("animal.toml"), changed).unwrap();
        let message = Abilities::load_folder(folder.path())
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("animal.toml") && message.contains(expected),
            "{message}"
        );
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(
        Abilities::load_folder(empty.path())
            .unwrap_err()
            .to_string()
            .contains("no ability file")
    );
}
