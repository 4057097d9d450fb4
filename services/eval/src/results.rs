//! From scored answers to the tables of an evaluation.

use std::collections::BTreeMap;

use proto::eval::v1 as pb;
use serde::{Deserialize, Serialize};

use crate::{
    benchmark::Question,
    scoring::Verdict,
    spec::{Artefact, EvaluationSpec},
    statistics::{self, Bootstrap, Key, Replicas, Scores},
};

/// Name of the row of all abilities together.
const ALL: &str = "all";

/// What one candidate said to the questions of one benchmark.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sitting {
    /// By replica, then by question.
    pub(crate) own: Vec<Vec<Verdict>>,
    /// The same with shuffled pictures; empty when left out.
    pub(crate) shuffled: Vec<Vec<Verdict>>,
}

/// A benchmark that all candidates have sat.
#[derive(Debug)]
pub(crate) struct Sat<'a> {
    /// Name in the results.
    pub(crate) name: &'a str,
    /// The questions.
    pub(crate) questions: &'a [Question],
    /// Each question's picture, by content.
    pub(crate) pictures: Vec<&'a str>,
    /// By candidate.
    pub(crate) sittings: Vec<Sitting>,
}

/// All tables.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tables {
    /// Per benchmark, ability and candidate.
    pub(crate) abilities: Vec<AbilityRow>,
    /// Per benchmark, pair and ability.
    pub(crate) comparisons: Vec<ComparisonRow>,
}

/// What an evaluation found, as it stands in job records.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The tables.
    #[serde(flatten)]
    pub(crate) tables: Tables,
    /// All answers.
    pub(crate) answers: Artefact,
}

/// Score of one candidate on one ability of one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AbilityRow {
    /// Benchmark by name.
    pub(crate) benchmark: String,
    /// Candidate by name.
    pub(crate) candidate: String,
    /// Ability, or `all`.
    pub(crate) ability: String,
    /// Questions answered.
    pub(crate) question_count: u32,
    /// Accuracy.
    pub(crate) accuracy: Interval,
    /// Accuracy with shuffled pictures.
    pub(crate) shuffled_accuracy: Option<Interval>,
    /// Questions of which some answer could not be read.
    pub(crate) unparsed_count: u32,
}

/// Difference of two candidates on one ability of one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ComparisonRow {
    /// Benchmark by name.
    pub(crate) benchmark: String,
    /// Ability, or `all`.
    pub(crate) ability: String,
    /// Candidate by name.
    pub(crate) candidate: String,
    /// What it is held against.
    pub(crate) reference: String,
    /// Accuracy of candidate minus reference.
    pub(crate) gain: Interval,
    /// Two-sided bootstrap p-value.
    pub(crate) p_value: f64,
    /// The same after Holm's correction over abilities.
    pub(crate) p_value_holm: f64,
}

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// The mean.
    pub(crate) mean: f64,
    /// Lower end.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
}

impl Tables {
    /// Adds a benchmark's rows.
    pub(crate) fn add(&mut self, spec: &EvaluationSpec, sat: &Sat<'_>) {
        let names: Vec<&str> = spec
            .candidates
            .iter()
            .map(|candidate| candidate.name.as_str())
            .collect();
        let pairs = pairs(&names, spec.has_shuffled);
        let mut comparisons: Vec<Vec<ComparisonRow>> = vec![Vec::new(); pairs.len()];
        for (ability, members) in rows(sat.questions) {
            let bootstrap = Bootstrap::draw(
                &clusters(sat, &members),
                &series(sat, &members),
                spec.resample_count,
                &Key {
                    seed: spec.seed,
                    benchmark: sat.name,
                    ability,
                },
            );
            for (index, candidate) in names.iter().enumerate() {
                self.abilities.push(ability_row(
                    sat, &members, ability, index, candidate, &bootstrap,
                ));
            }
            for (pair, rows) in pairs.iter().zip(&mut comparisons) {
                rows.push(pair.row(sat.name, ability, &bootstrap));
            }
        }
        for mut rows in comparisons {
            correct(&mut rows);
            self.comparisons.append(&mut rows);
        }
    }
}

/// `all` with every question, then each ability in the order of first appearance.
fn rows(questions: &[Question]) -> Vec<(&str, Vec<usize>)> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rows: Vec<(&str, Vec<usize>)> = vec![(ALL, (0..questions.len()).collect())];
    for (index, question) in questions.iter().enumerate() {
        let place = *places.entry(&question.ability).or_insert_with(|| {
            rows.push((&question.ability, Vec::new()));
            rows.len() - 1
        });
        rows[place].1.push(index);
    }
    rows
}

/// Questions on the same picture are one cluster.
fn clusters(sat: &Sat<'_>, members: &[usize]) -> Vec<usize> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let number = |&member: &usize| {
        let next = numbers.len();
        *numbers.entry(sat.pictures[member]).or_insert(next)
    };
    members.iter().map(number).collect()
}

/// Series 2c is candidate c, series 2c + 1 the same with shuffled pictures.
fn series(sat: &Sat<'_>, members: &[usize]) -> Vec<Replicas> {
    let scores = |verdicts: &Vec<Verdict>| -> Scores {
        members
            .iter()
            .map(|&member| verdicts[member].score())
            .collect()
    };
    let of = |replicas: &[Vec<Verdict>]| -> Replicas { replicas.iter().map(scores).collect() };
    sat.sittings
        .iter()
        .flat_map(|sitting| [of(&sitting.own), of(&sitting.shuffled)])
        .collect()
}

fn ability_row(
    sat: &Sat<'_>,
    members: &[usize],
    ability: &str,
    index: usize,
    candidate: &str,
    bootstrap: &Bootstrap,
) -> AbilityRow {
    let sitting = &sat.sittings[index];
    let is_unparsed = |&&member: &&usize| {
        sitting
            .own
            .iter()
            .any(|verdicts| verdicts[member] == Verdict::Unreadable)
    };
    AbilityRow {
        benchmark: sat.name.to_owned(),
        candidate: candidate.to_owned(),
        ability: ability.to_owned(),
        question_count: count(members.len()),
        accuracy: bootstrap.interval(2 * index).into(),
        shuffled_accuracy: (!sitting.shuffled.is_empty())
            .then(|| bootstrap.interval(2 * index + 1).into()),
        unparsed_count: count(members.iter().filter(is_unparsed).count()),
    }
}

/// Two series that are compared.
struct Pair<'a> {
    candidate: &'a str,
    series: usize,
    reference: String,
    other: usize,
}

/// Every candidate against each before it, then against itself with shuffled pictures.
fn pairs<'a>(names: &[&'a str], has_shuffled: bool) -> Vec<Pair<'a>> {
    let mut pairs = Vec::new();
    for (index, candidate) in names.iter().enumerate() {
        for (other, reference) in names[..index].iter().enumerate() {
            pairs.push(Pair {
                candidate,
                series: 2 * index,
                reference: (*reference).to_owned(),
                other: 2 * other,
            });
        }
    }
    if has_shuffled {
        for (index, candidate) in names.iter().enumerate() {
            let reference = format!("{candidate} (shuffled)");
            pairs.push(Pair {
                candidate,
                series: 2 * index,
                reference,
                other: 2 * index + 1,
            });
        }
    }
    pairs
}

impl Pair<'_> {
    fn row(&self, benchmark: &str, ability: &str, bootstrap: &Bootstrap) -> ComparisonRow {
        let (gain, p_value) = bootstrap.difference(self.series, self.other);
        ComparisonRow {
            benchmark: benchmark.to_owned(),
            ability: ability.to_owned(),
            candidate: self.candidate.to_owned(),
            reference: self.reference.clone(),
            gain: gain.into(),
            p_value,
            p_value_holm: p_value,
        }
    }
}

/// Holm over the abilities of one comparison; `all`, the first row, is one hypothesis by itself.
fn correct(rows: &mut [ComparisonRow]) {
    let Some((_all, abilities)) = rows.split_first_mut() else {
        return;
    };
    let corrected = statistics::holm(&abilities.iter().map(|row| row.p_value).collect::<Vec<_>>());
    for (row, p_value) in abilities.iter_mut().zip(corrected) {
        row.p_value_holm = p_value;
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl From<statistics::Interval> for Interval {
    fn from(interval: statistics::Interval) -> Self {
        let statistics::Interval { mean, low, high } = interval;
        Self { mean, low, high }
    }
}

impl From<Interval> for pb::Interval {
    fn from(interval: Interval) -> Self {
        let Interval { mean, low, high } = interval;
        Self { mean, low, high }
    }
}

impl From<Outcome> for pb::EvaluationResult {
    fn from(outcome: Outcome) -> Self {
        Self {
            abilities: outcome
                .tables
                .abilities
                .into_iter()
                .map(Into::into)
                .collect(),
            comparisons: outcome
                .tables
                .comparisons
                .into_iter()
                .map(Into::into)
                .collect(),
            answers: Some(outcome.answers.into()),
        }
    }
}

impl From<AbilityRow> for pb::AbilityResult {
    fn from(row: AbilityRow) -> Self {
        Self {
            benchmark: row.benchmark,
            candidate: row.candidate,
            ability: row.ability,
            question_count: row.question_count,
            accuracy: Some(row.accuracy.into()),
            shuffled_accuracy: row.shuffled_accuracy.map(Into::into),
            unparsed_count: row.unparsed_count,
        }
    }
}

impl From<ComparisonRow> for pb::Comparison {
    fn from(row: ComparisonRow) -> Self {
        Self {
            benchmark: row.benchmark,
            ability: row.ability,
            candidate: row.candidate,
            reference: row.reference,
            gain: Some(row.gain.into()),
            p_value: row.p_value,
            p_value_holm: row.p_value_holm,
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::dataset::v1::QuestionKind;

    use super::*;
    use crate::scoring::Verdict::{Right, Unreadable, Wrong};
    use crate::spec::{BenchmarkRef, Candidate, Location};

    fn spec(names: &[&str], has_shuffled: bool) -> EvaluationSpec {
        let output = Artefact {
            uri: "file:///out/".into(),
            sha256: String::new(),
            size_bytes: 0,
        };
        let candidate = |name: &&str| Candidate {
            name: (*name).into(),
            models: Vec::new(),
        };
        EvaluationSpec {
            candidates: names.iter().map(candidate).collect(),
            benchmarks: vec![BenchmarkRef {
                name: "b".into(),
                location: Location::Builtin("b".into()),
            }],
            question_limit_per_ability: None,
            max_new_token_count: 8,
            resample_count: 2_000,
            seed: 3,
            output,
            has_shuffled,
        }
    }

    fn question(ability: &str, index: usize) -> Question {
        Question {
            question_id: format!("{ability}-{index}"),
            ability: ability.into(),
            kind: QuestionKind::Wh,
            image: format!("{ability}-{index}.png"),
            text: "?".into(),
            answers: vec!["x".into()],
        }
    }

    #[test]
    fn every_pair_is_compared_on_every_ability_and_corrected_over_them() {
        let questions: Vec<Question> = (0..40)
            .map(|i| question(if i % 2 == 0 { "color" } else { "animal" }, i))
            .collect();
        let pictures: Vec<&str> = questions.iter().map(|q| q.image.as_str()).collect();
        let verdicts = |right: usize| {
            (0..40)
                .map(|i| if i < right { Right } else { Wrong })
                .collect::<Vec<_>>()
        };
        let sitting = |right: usize| Sitting {
            own: vec![verdicts(right)],
            shuffled: vec![verdicts(8)],
        };
        let sat = Sat {
            name: "b",
            questions: &questions,
            pictures,
            sittings: vec![sitting(10), sitting(12), sitting(30)],
        };
        let mut tables = Tables::default();
        tables.add(&spec(&["baseline", "control", "synthetic"], true), &sat);

        assert_eq!(tables.abilities.len(), 3 * 3);
        let row = tables
            .abilities
            .iter()
            .find(|r| r.ability == "all" && r.candidate == "synthetic")
            .expect("a row");
        assert_eq!((row.question_count, row.accuracy.mean), (40, 0.75));
        assert_eq!(row.shuffled_accuracy.expect("shuffled").mean, 0.2);
        let pairs: Vec<(&str, &str)> = tables
            .comparisons
            .iter()
            .filter(|c| c.ability == "color")
            .map(|c| (c.candidate.as_str(), c.reference.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("control", "baseline"),
                ("synthetic", "baseline"),
                ("synthetic", "control"),
                ("baseline", "baseline (shuffled)"),
                ("control", "control (shuffled)"),
                ("synthetic", "synthetic (shuffled)"),
            ]
        );
        for row in tables
            .comparisons
            .iter()
            .filter(|c| c.candidate == "synthetic" && c.reference == "control")
        {
            assert!(row.gain.low > 0.0, "{row:?}");
            let factor = if row.ability == "all" { 1.0 } else { 2.0 };
            assert!(
                row.p_value_holm >= row.p_value && row.p_value_holm <= factor * row.p_value + 1e-12,
                "{row:?}"
            );
        }
    }

    #[test]
    fn replicas_and_pictures_are_both_drawn_and_replicas_are_paired() {
        let questions = [question("color", 0), question("color", 1)];
        let sitting = |own: [[Verdict; 2]; 3]| Sitting {
            own: own.map(Vec::from).to_vec(),
            shuffled: Vec::new(),
        };
        let sat = Sat {
            name: "b",
            questions: &questions,
            pictures: vec!["same", "same"],
            sittings: vec![
                sitting([[Wrong, Wrong], [Right, Unreadable], [Wrong, Wrong]]),
                sitting([[Right, Wrong], [Right, Right], [Right, Wrong]]),
            ],
        };
        let mut tables = Tables::default();
        tables.add(&spec(&["control", "synthetic"], false), &sat);
        let row = &tables.abilities[0];
        // There is one picture to draw; of the 27 draws of replicas with 0, 1/2 and 0, one has the
        // mean 1/2, which is more than 2.5 % of all.
        close(row.accuracy, [1.0 / 6.0, 0.0, 0.5]);
        assert_eq!((row.unparsed_count, row.shuffled_accuracy), (1, None));
        // Each replica gains 1/2 on the one of its seed.
        assert_eq!(tables.comparisons.len(), 2);
        close(tables.comparisons[0].gain, [0.5; 3]);
    }

    fn close(actual: Interval, expected: [f64; 3]) {
        let Interval { mean, low, high } = actual;
        for (actual, expected) in [mean, low, high].into_iter().zip(expected) {
            assert!((actual - expected).abs() < 1e-12, "{actual} {expected}");
        }
    }
}
