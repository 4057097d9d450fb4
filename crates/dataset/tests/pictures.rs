//! Samples with several pictures: which go together, in which order, and what a wrong file is told.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the functions beside the tests are tests too; clippy knows only the latter"
)]

use dataset::ability::{Abilities, Ability, Combination, Draw, Split};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../abilities")
}

fn several() -> Vec<Ability> {
    let abilities = Abilities::load_folder(&shipped()).unwrap();
    let all = abilities.iter().cloned();
    all.filter(|ability| ability.images_per_sample() > 1)
        .collect()
}

fn sets(ability: &Ability, seed: u64, split: Split, count: usize) -> Vec<Vec<Combination>> {
    let draw = Draw {
        seed,
        split,
        style_weights: &BTreeMap::new(),
    };
    let sets = ability.picture_sets(&draw).unwrap().take(count);
    sets.map(|set| set.into_iter().cloned().collect()).collect()
}

fn texts(set: &[Combination]) -> BTreeSet<String> {
    set.iter().map(Combination::plain_text).collect()
}

#[test]
fn the_pictures_of_a_sample_share_and_differ_as_one_of_its_abilitys_rules_says() {
    for ability in several() {
        let value = |aspect: &String, found: &Combination| {
            let fact = &ability.aspects()[aspect].fact;
            fact.read(&found.facts).unwrap().to_owned()
        };
        let mut used = BTreeSet::new();
        for set in sets(&ability, 7, Split::Training, 60) {
            assert_eq!(set.len(), ability.images_per_sample());
            let values = |aspect| -> BTreeSet<String> {
                set.iter().map(|found| value(aspect, found)).collect()
            };
            let rule = ability.picture_rules().iter().position(|rule| {
                rule.shared.iter().all(|aspect| values(aspect).len() == 1)
                    && rule
                        .different
                        .iter()
                        .all(|aspect| values(aspect).len() == set.len())
            });
            used.insert(rule.unwrap_or_else(|| panic!("{}: {set:?}", ability.name())));
        }
        assert_eq!(used.len(), ability.picture_rules().len());
    }
}

#[test]
fn no_two_samples_show_the_same_pictures_and_what_is_held_out_stays_out() {
    for ability in several() {
        let (training, benchmark) = (
            sets(&ability, 7, Split::Training, 1000),
            sets(&ability, 7, Split::Benchmark, 100),
        );
        assert_eq!((training.len(), benchmark.len()), (1000, 100));
        let different: BTreeSet<_> = training.iter().map(|set| texts(set)).collect();
        assert_eq!(different.len(), 1000, "{}", ability.name());
        let pictures = |sets: &[Vec<Combination>]| -> BTreeSet<String> {
            sets.iter().flat_map(|set| texts(set)).collect()
        };
        assert!(pictures(&training).is_disjoint(&pictures(&benchmark)));
        // What comes first does not depend on how many are taken, nor the seed on nothing.
        assert_eq!(sets(&ability, 7, Split::Training, 10), training[..10]);
        assert_ne!(sets(&ability, 8, Split::Training, 10), training[..10]);
    }
}

#[test]
fn every_keyword_and_style_has_its_share_of_the_pictures() {
    for ability in several() {
        let pictures: Vec<_> = sets(&ability, 7, Split::Training, 102).concat();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for found in &pictures {
            *counts.entry(&found.keyword).or_default() += 1;
            *counts.entry(&found.facts.style).or_default() += 1;
        }
        for (names, what) in [
            (
                ability
                    .keywords()
                    .iter()
                    .map(|value| value.text.as_str())
                    .collect(),
                "keyword",
            ),
            (ability.styles(), "style"),
        ] {
            let share = pictures.len() / names.len();
            for name in &names {
                let count = counts.get(name).copied().unwrap_or(0);
                assert!(
                    count * 2 >= share && count <= share * 2,
                    "{} {what} {name}: {count}, not about {share}",
                    ability.name()
                );
            }
        }
    }
}

#[test]
fn what_makes_no_sense_of_several_pictures_is_refused_by_file_and_key() {
    let good = fs::read_to_string(shipped().join("difference.toml")).unwrap();
    let shared = fs::read_to_string(shipped().join("shared.toml")).unwrap();
    for (from, to, expected) in [
        (
            "images_per_sample = 2",
            "images_per_sample = 5",
            "`images_per_sample`",
        ),
        (
            "images_per_sample = 2",
            "images_per_sample = 1",
            "`pictures`",
        ),
        (
            "[[pictures]]\nshared = [\"scene\", \"style\"]",
            "[[pictures]]\nshared = [\"seen\"]",
            "`pictures[0].shared`",
        ),
        (
            "different = [\"subject\"]",
            "different = [\"subject\"]\nalike = []",
            "alike",
        ),
        (
            "shared = [\"scene\", \"style\"]",
            "shared = [\"scene\", \"subject\"]",
            "`pictures[0]`: no 2 pictures",
        ),
        ("{a 2.subject}", "{a 3.subject}", "`questions[0].answer`"),
        ("{a 2.subject}", "{a 2.truth}", "`questions[0].answer`"),
        (
            "different = [\"subject\"]\nsame = [\"scene\", \"style\"]",
            "same = [\"place\"]",
            "`questions[0].same`",
        ),
        (
            "What does the {ordinal} picture show?",
            "What is it?",
            "all wordings hold {ordinal}",
        ),
        (
            "kind = \"wh\"\nask",
            "kind = \"wh\"\nsame = [\"scene\"]\nask",
            "same",
        ),
        (
            "images_per_sample = 2",
            "images_per_sample = 2\nshown = \"sideways\"",
            "sideways",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from} is not in the file");
        fs::write(folder.path().join("shared.toml"), &shared).unwrap();
        fs::write(folder.path().join("difference.toml"), changed).unwrap();
        let message = Abilities::load_folder(folder.path())
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("difference.toml") && message.contains(expected),
            "{to}: {message}"
        );
    }
}
