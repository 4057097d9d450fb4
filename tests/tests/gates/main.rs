//! Each gate against a hundred planted defects and a hundred clean samples, at the thresholds of
//! `recipes/strict.toml`: 95 or more are caught, 5 or fewer clean ones refused.
//!
//! The clean samples are what the built-in models make with all gates off.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends at its first surprise, and this one prints a table"
)]

mod bench;
mod checker;
mod defects;
mod made;

use std::fs;

use dataset::store::{Location, Reader};
use diptych::{
    recipe::Recipe,
    synth::{Makers, check_makers, gates},
};
use proto::dataset::v1::{GateVerdict, Sample};
use tests::checkout;

use self::{
    bench::{Bench, Row},
    checker::checker_against,
    made::{made, picture_of, samples},
};

/// Samples of each kind.
const COUNT: usize = 100;

#[tokio::test]
async fn planted_defects_are_caught_and_clean_samples_pass() {
    let rules = Recipe::read(&checkout().join("recipes/strict.toml"))
        .unwrap()
        .synth
        .gates;
    let mut samples = samples().await;
    samples.truncate(COUNT);
    assert_eq!(samples.len(), COUNT);
    let bench = Bench::new(samples, rules);
    let rows = [
        bench.prompt_form(),
        bench.prompt_repetition(),
        bench.prompt_meaning(),
        bench.blank(),
        bench.alignment(),
        bench.duplicate(),
        bench.content(),
        bench.safety(),
        bench.picture_leak(),
        bench.dialogue_repetition(),
        bench.text_leak(),
    ];
    println!("{:<28} {:>8} {:>14}", "gate", "caught", "clean refused");
    for Row {
        gate,
        caught,
        refused,
    } in &rows
    {
        println!("{gate:<28} {caught:>4}/{COUNT} {refused:>10}/{COUNT}");
    }
    for Row {
        gate,
        caught,
        refused,
    } in rows
    {
        assert!(caught >= 95, "{gate} caught {caught}");
        assert!(refused <= 5, "{gate} refused {refused} clean ones");
    }
}

/// A run whose checker objects to the picture of its first sample, and one that has no checker.
#[tokio::test]
async fn a_run_refuses_what_the_safety_model_of_its_recipe_objects_to_and_without_one_says_so() {
    let place = tempfile::tempdir().unwrap();
    let base = "seed = 5\n[synth]\nmax_attempts = 1\nabilities = { animal = 6 }\n\
                [synth.image]\nsteps = 4\n[synth.gates]\nrefuse_unsafe = true\n";
    let unchecked = made(base, &place.path().join("unchecked")).await;
    assert_eq!(unchecked.len(), 6);
    let verdict = |sample: &Sample| {
        let mut results = sample.gates.iter();
        results
            .find(|result| result.gate == gates::SAFETY)
            .unwrap()
            .verdict()
    };
    let all = |samples: &[Sample], expected| samples.iter().all(|s| verdict(s) == expected);
    assert!(all(&unchecked, GateVerdict::NotChecked));

    let model = place.path().join("checker");
    fs::create_dir(&model).unwrap();
    checker_against(&[picture_of(&unchecked[0])], &model);
    let named = format!("{base}[synth.measure]\nsafety_model = {model:?}\n");
    let checked = made(&named, &place.path().join("checked")).await;
    assert!(checked.len() < 6 && !checked.is_empty());
    assert!(all(&checked, GateVerdict::Passed));
    let picture = |sample: &Sample| sample.images[0].sha256.clone();
    assert!(
        checked
            .iter()
            .all(|sample| picture(sample) != picture(&unchecked[0]))
    );
    let out = Location::Folder(place.path().join("checked/dataset"));
    let reader = Reader::open(out.open().unwrap()).await.unwrap();
    let tallies = reader
        .partitions()
        .values()
        .map(|made| &made.tally.rejected_counts);
    let refused: u64 = tallies.filter_map(|counts| counts.get(gates::SAFETY)).sum();
    assert_eq!(refused, 6 - checked.len() as u64);

    let makers = |run: &str| {
        let makers = place.path().join(run).join("dataset/makers.json");
        let makers: Makers = serde_json::from_slice(&fs::read(makers).unwrap()).unwrap();
        makers
    };
    let (checked, unchecked) = (makers("checked"), makers("unchecked"));
    assert_eq!(unchecked["safety"], "none");
    assert!(checked["safety"].contains("checker"), "{checked:?}");
    let mut other = checked.clone();
    other.insert("safety".to_owned(), "another".to_owned());
    let refused = check_makers(&checked, &other, &"runs/x").unwrap_err();
    assert!(format!("{refused:#}").contains("another safety"));
}
