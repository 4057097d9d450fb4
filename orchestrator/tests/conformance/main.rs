//! A stage that keeps its contract is found to keep it; one that breaks a rule is found out by that
//! rule and no other. The stage draws squares by arithmetic, so that nothing here waits for a model.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod square_stage;

use std::{collections::BTreeSet, time::Duration};

use diptych::conformance::{Case, Finding, Report, Severity, Subject, Verdict, judge};
use futures::{StreamExt as _, stream};
use runtime::{Telemetry, options::TelemetryOptions};

use square_stage::{Fault, serve, serve_bare};

/// Each fault with the rules that it breaks.
const FAULTS: [(Fault, &[&str]); 23] = [
    (Fault::TellsNoBound, &["capabilities"]),
    (Fault::ListsNothing, &["models_listed"]),
    (Fault::TakesAnyToken, &["foreign_page_token_of_models"]),
    (Fault::TakesNoItem, &["no_item"]),
    (Fault::TakesTooMany, &["too_many_items"]),
    (Fault::TakesRepeatedIds, &["repeated_id"]),
    (Fault::TakesAnyId, &["malformed_id"]),
    (Fault::TakesAnyModel, &["unknown_model"]),
    (Fault::TakesAnyWidth, &["size_bound", "size_multiple"]),
    (Fault::NamesNoField, &["refusals_name_the_field"]),
    (Fault::EndsTwice, &["one_end_per_item"]),
    (Fault::StatesFalseSize, &["picture_decodes"]),
    (Fault::StatesFalseHash, &["picture_hash"]),
    (Fault::NamesNoSample, &["picture_id"]),
    (Fault::TellsNoSeed, &["provenance"]),
    (Fault::SaysNothingOfSafety, &["safety_is_told"]),
    (
        Fault::DrawsByTheClock,
        &["alone_or_in_company", "same_seed_same_picture"],
    ),
    (Fault::DrawsByThePlace, &["alone_or_in_company"]),
    (Fault::DrawsWithoutSeed, &["other_seed_other_picture"]),
    (Fault::ForgetsTheNegative, &["negative_prompt"]),
    (Fault::KeepsItsSize, &["size_as_asked"]),
    (Fault::TakesTwentySteps, &["default_step_count"]),
    (Fault::IgnoresThePicture, &["image_to_image_is_refused"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_keeps_every_rule_is_found_to_keep_it() {
    let stage = serve(Fault::None).await;
    let report = report(&stage.endpoint()).await;
    assert_eq!(broken(&report), BTreeSet::new(), "{}", report.table());
    assert_eq!((report.broken, report.advised), (0, 0));
    let unseen = |found: &&Finding| found.verdict == Verdict::NotJudged;
    let unseen: Vec<&str> = report
        .findings
        .iter()
        .filter(unseen)
        .map(|found| found.rule.as_str())
        .collect();
    assert_eq!(unseen, ["image_scoring"], "{}", report.table());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_rule_is_found_by_its_name_and_by_no_other() {
    // A few at a time: each of them waits for one deadline to pass.
    let looks = stream::iter(FAULTS).map(async |(fault, rules)| {
        let stage = serve(fault).await;
        (fault, rules, report(&stage.endpoint()).await)
    });
    let reports: Vec<_> = looks.buffered(4).collect().await;
    for (fault, rules, report) in reports {
        let expected = rules.iter().map(|&rule| rule.to_owned()).collect();
        assert_eq!(broken(&report), expected, "{fault:?}\n{}", report.table());
        for rule in rules {
            let found = report.finding(rule).unwrap();
            assert!(!found.remedy.is_empty(), "{rule} says nothing to do");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_manners_is_told_what_it_lacks() {
    let endpoint = serve_bare().await;
    let report = report(&endpoint).await;
    let found = broken(&report);
    for rule in [
        "health_serving",
        "health_of_the_whole",
        "reflection_v1",
        "deadline",
    ] {
        assert!(
            found.contains(rule),
            "{rule} was not found\n{}",
            report.table()
        );
    }
    assert_eq!(
        report.finding("reflection_v1").unwrap().severity,
        Severity::Should
    );
    assert_eq!(
        report.finding("health_serving").unwrap().severity,
        Severity::Must
    );
}

#[tokio::test]
async fn where_nobody_listens_nothing_is_judged() {
    let telemetry = telemetry();
    assert!(
        judge(&case("http://127.0.0.1:9"), &telemetry)
            .await
            .is_err()
    );
}

fn case(endpoint: &str) -> Case {
    Case {
        subject: Subject::Diffusion,
        endpoint: endpoint.to_owned(),
        limit: Duration::from_secs(20),
        folder: None,
        client: Default::default(),
    }
}

fn telemetry() -> Telemetry {
    Telemetry::start(&TelemetryOptions::default(), "conformance").unwrap()
}

async fn report(endpoint: &str) -> Report {
    judge(&case(endpoint), &telemetry()).await.unwrap()
}

fn broken(report: &Report) -> BTreeSet<String> {
    let broken = report
        .findings
        .iter()
        .filter(|found| found.verdict == Verdict::Broken);
    broken.map(|found| found.rule.clone()).collect()
}
