//! From the folder of a run to its [`Report`]. Whatever is not there yet is left out.

mod benchmarks;
mod curves;
mod exchanges;
mod gates;
mod samples;

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result};

use self::samples::Samples;
use crate::{
    experiment::{Record, RunFolder},
    files,
    recipe::Recipe,
    report::{Arm, RecordGroup, Report, Role, Timing},
    scores::Scores,
};

/// Pairs of each ability in the report of a run.
pub(crate) const PAIRS_PER_ABILITY: usize = 6;

/// Gathers the report of a run, with that many pairs of each ability.
///
/// # Errors
/// The folder holds no run, or a file of it is damaged.
pub(crate) async fn gather(
    folder: &RunFolder,
    benchmarks: &BenchmarkFolders,
    pairs_per_ability: usize,
) -> Result<Report> {
    let record = files::read_json::<Record>(&folder.record())?.with_context(|| {
        format!(
            "{} holds no run: there is no run.json",
            folder.root().display()
        )
    })?;
    let recipe: Recipe =
        toml::from_str(&record.recipe).context("the recipe in run.json is damaged")?;
    let scores = files::read_json::<Scores>(&folder.scores())?.unwrap_or_default();
    let samples = Samples::read(folder, &recipe, pairs_per_ability).await?;
    Ok(Report {
        title: record.name.clone(),
        summary: summary(&recipe, &record),
        arms: arms(&recipe),
        pairs: samples.pairs,
        quotas: samples.quotas,
        gates: gates::results(&record, &samples.verdicts),
        rejected_pairs: samples.rejected,
        training_runs: curves::training_runs(folder, &recipe)?,
        benchmarks: benchmarks::results(&scores),
        exchanges: exchanges::first_ones(folder, benchmarks)?,
        recipe: record.recipe.clone(),
        records: records(&record),
        timings: timings(&record),
    })
}

/// Where the benchmarks of a run lie, by name, so that their pictures can be shown.
pub(crate) type BenchmarkFolders = BTreeMap<String, PathBuf>;

fn summary(recipe: &Recipe, record: &Record) -> String {
    let pairs = format!(
        "{} image–dialogue pairs for {} abilities, made from prompts that were checked against their pictures",
        record.synthesis.accepted,
        recipe.synth.abilities.len()
    );
    match &recipe.train {
        None => format!("{pairs}."),
        Some(train) => format!(
            "{pairs}; {} trained with them (synthetic) and without (control), from the same start and for the same {} steps.",
            train.model, train.instruct.steps
        ),
    }
}

fn arms(recipe: &Recipe) -> Vec<Arm> {
    let Some(train) = &recipe.train else {
        return Vec::new();
    };
    let arm = |name: &str, role, description: String| Arm {
        name: name.to_owned(),
        role,
        description,
    };
    vec![
        arm(
            "baseline",
            Role::Baseline,
            format!("base data only, {} steps", train.baseline_steps),
        ),
        arm(
            "control",
            Role::Control,
            format!("base data only, {} steps", train.instruct.steps),
        ),
        arm(
            "synthetic",
            Role::Synthetic,
            format!(
                "base data and the synthesized pairs, {} steps",
                train.instruct.steps
            ),
        ),
    ]
}

fn records(record: &Record) -> Vec<RecordGroup> {
    let group = |title: &str, entries| RecordGroup {
        title: title.to_owned(),
        entries,
    };
    let models = record
        .models
        .iter()
        .map(|(name, sha256)| (name.clone(), sha256.clone()))
        .collect();
    let unchecked = record.overlap_not_checked.iter();
    let unchecked = unchecked
        .map(|data| {
            (
                data.clone(),
                "of a layout or place that cannot be read here".to_owned(),
            )
        })
        .collect::<Vec<_>>();
    let mut groups = vec![
        group(
            "Versions",
            vec![("diptych".to_owned(), record.version.clone())],
        ),
        group("Made by", models),
        group(
            "Hashes",
            vec![
                ("recipe".to_owned(), record.recipe_sha256.clone()),
                (
                    "dataset manifest".to_owned(),
                    record.manifest_sha256.clone(),
                ),
            ],
        ),
    ];
    if !unchecked.is_empty() {
        groups.push(group(
            "Not held against the benchmark's pictures",
            unchecked,
        ));
    }
    groups
}

fn timings(record: &Record) -> Vec<Timing> {
    let of = |(stage, &seconds): (&String, &f64)| Timing {
        stage: stage.clone(),
        seconds,
        note: String::new(),
    };
    record.seconds.iter().map(of).collect()
}
