//! From the folder of a run to its [`Report`]. Whatever is not there yet is left out.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Context as _, Result};
use dataset::store::{Reader, Root};
use futures::StreamExt as _;
use proto::dataset::v1::{GateResult, GateVerdict, Image, Role as Speaker, Sample, image::Content};
use serde::Deserialize;

use crate::{
    experiment::{RUNS, Record, RunFolder, run_name},
    files,
    recipe::Recipe,
    report::{
        Arm, Benchmark, Comparison, Exchange, Gate, GivenAnswer, Interval, LossPoint, Pair,
        Picture, Quota, Reason, RecordGroup, RejectedPair, Report, Role, Score, Timing,
        TrainingRun, Turn,
    },
    scores::{Estimate, Scores},
    synth::{Summary, gates},
};

/// Pairs shown per ability.
const PAIRS_PER_ABILITY: usize = 6;
/// Rejected samples shown per gate.
const REJECTED_PER_GATE: usize = 4;
/// Questions shown per benchmark and ability.
const EXCHANGES_PER_ABILITY: usize = 1;

/// Gathers the report of a run.
///
/// # Errors
/// The folder holds no run, or a file of it is damaged.
pub(crate) async fn gather(folder: &RunFolder, benchmarks: &BenchmarkFolders) -> Result<Report> {
    let record = files::read_json::<Record>(&folder.record())?.with_context(|| {
        format!(
            "{} holds no run: there is no run.json",
            folder.root().display()
        )
    })?;
    let recipe: Recipe =
        toml::from_str(&record.recipe).context("the recipe in run.json is damaged")?;
    let scores = files::read_json::<Scores>(&folder.scores())?.unwrap_or_default();
    let samples = Samples::read(folder, &recipe).await?;
    Ok(Report {
        title: record.name.clone(),
        summary: summary(&recipe, &record),
        arms: arms(&recipe),
        pairs: samples.pairs,
        quotas: samples.quotas,
        gates: gates_of(&record, &samples.verdicts),
        rejected_pairs: samples.rejected,
        training_runs: training_runs(folder, &recipe)?,
        benchmarks: benchmarks_of(&scores),
        exchanges: exchanges(folder, benchmarks)?,
        recipe: record.recipe.clone(),
        records: records(&record),
        timings: timings(&record),
    })
}

/// Where the benchmarks of a run lie, by name, so that their pictures can be shown.
pub(crate) type BenchmarkFolders = BTreeMap<String, std::path::PathBuf>;

struct Samples {
    pairs: Vec<Pair>,
    rejected: Vec<RejectedPair>,
    quotas: Vec<Quota>,
    /// Verdicts on the accepted samples, by gate.
    verdicts: BTreeMap<String, Verdicts>,
}

#[derive(Default)]
struct Verdicts {
    passed_count: u64,
    not_checked_count: u64,
}

impl Samples {
    async fn read(folder: &RunFolder, recipe: &Recipe) -> Result<Self> {
        let reader = Reader::open(Root::folder(&folder.dataset())?).await?;
        let mut shown: BTreeMap<String, usize> = BTreeMap::new();
        let mut verdicts: BTreeMap<String, Verdicts> = BTreeMap::new();
        let mut pairs = Vec::new();
        let mut samples = std::pin::pin!(reader.samples());
        while let Some(sample) = samples.next().await {
            let sample = sample?;
            let count = shown.entry(sample.ability.clone()).or_default();
            *count += 1;
            if *count <= PAIRS_PER_ABILITY {
                pairs.push(pair(&sample));
            }
            for gate in &sample.gates {
                let verdicts = verdicts.entry(gate.gate.clone()).or_default();
                match gate.verdict() {
                    GateVerdict::Passed => verdicts.passed_count += 1,
                    GateVerdict::NotChecked => verdicts.not_checked_count += 1,
                    GateVerdict::Rejected | GateVerdict::Unspecified => {}
                }
            }
        }
        let statistics = reader.statistics();
        let quotas = recipe
            .synth
            .abilities
            .iter()
            .map(|(ability, &wanted_count)| Quota {
                ability: ability.clone(),
                accepted_count: statistics
                    .get(ability)
                    .map_or(0, |counts| counts.accepted_count),
                wanted_count,
                attempt_count: statistics
                    .get(ability)
                    .map_or(0, |counts| counts.tally.attempt_count),
            });
        Ok(Self {
            rejected: rejected(&reader).await?,
            pairs,
            quotas: quotas.collect(),
            verdicts,
        })
    }
}

/// Examples of rejected samples, [`REJECTED_PER_GATE`] of each gate.
async fn rejected(reader: &Reader) -> Result<Vec<RejectedPair>> {
    let mut shown: BTreeMap<String, usize> = BTreeMap::new();
    let mut pairs = Vec::new();
    for manifest in reader.partitions().values() {
        for sample in reader.rejected_of(manifest).await? {
            let Some(gate) = gates::rejection(&sample.gates) else {
                continue;
            };
            let count = shown.entry(gate.gate.clone()).or_default();
            *count += 1;
            if *count <= REJECTED_PER_GATE {
                pairs.push(rejected_pair(&sample, gate));
            }
        }
    }
    pairs.sort_by(|one, other| one.gate.cmp(&other.gate));
    Ok(pairs)
}

fn rejected_pair(sample: &Sample, gate: &GateResult) -> RejectedPair {
    let prompt = prompt_text(sample);
    RejectedPair {
        ability: sample.ability.clone(),
        gate: gate.gate.clone(),
        reason: gate.reason.clone(),
        picture: sample
            .images
            .first()
            .and_then(|image| picture(image, &prompt)),
        prompt,
    }
}

fn prompt_text(sample: &Sample) -> String {
    let prompt = sample.prompts.first();
    prompt.map(|prompt| prompt.text.clone()).unwrap_or_default()
}

fn pair(sample: &Sample) -> Pair {
    let prompt = prompt_text(sample);
    let pictures = sample
        .images
        .iter()
        .filter_map(|image| picture(image, &prompt))
        .collect();
    let turns = sample
        .conversation
        .as_ref()
        .map(|conversation| conversation.turns.as_slice())
        .unwrap_or_default();
    let turns = turns.chunks(2).filter_map(|round| match round {
        [question, answer] if question.role() == Speaker::User => Some(Turn {
            question: question.text.clone(),
            answer: answer.text.clone(),
        }),
        _ => None,
    });
    Pair {
        ability: sample.ability.clone(),
        prompt: prompt.clone(),
        pictures,
        turns: turns.collect(),
    }
}

fn picture(image: &Image, alt: &str) -> Option<Picture> {
    match &image.content {
        Some(Content::Data(data)) => Some(Picture {
            media_type: image.media_type.clone(),
            data: data.to_vec(),
            width_px: image.width_px,
            alt: alt.to_owned(),
        }),
        Some(Content::Artefact(_)) | None => None,
    }
}

fn summary(recipe: &Recipe, record: &Record) -> String {
    let pairs = format!(
        "{} image–dialogue pairs for {} abilities, made from prompts that were checked against their pictures",
        record.synthesis.accepted,
        recipe.synth.abilities.len()
    );
    match &recipe.train {
        None => format!("{pairs}."),
        Some(train) => format!(
            "{pairs}; {} trained with and without them, from the same start and for the same number of steps.",
            train.model
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

/// Name and one sentence of each gate, in the order in which they run.
const GATES: [(&str, &str); 8] = [
    (gates::NOT_MADE, "A stage could not make the item."),
    (gates::BLANK, "The picture is not one colour."),
    (
        gates::ALIGNMENT,
        "Picture and prompt have a high enough cosine.",
    ),
    (
        gates::ALIGNMENT_LEAD,
        "The picture fits its own prompt better than any of the partition's other prompts.",
    ),
    (
        gates::DUPLICATE,
        "No accepted picture of the partition is nearly the same.",
    ),
    (
        gates::LEAK,
        "No picture of an evaluation set is nearly the same.",
    ),
    (
        gates::SAFETY,
        "The checkpoint's own safety checker has no objection.",
    ),
    (gates::DIALOGUE, "Every answer agrees with the facts."),
];

fn gates_of(record: &Record, verdicts: &BTreeMap<String, Verdicts>) -> Vec<Gate> {
    GATES
        .iter()
        .map(|&(name, description)| gate(name, description, &record.synthesis, verdicts.get(name)))
        .filter(|gate| gate.passed_count + gate.rejected_count + gate.not_checked_count > 0)
        .collect()
}

fn gate(name: &str, description: &str, summary: &Summary, verdicts: Option<&Verdicts>) -> Gate {
    let reason_of = |key: &str| {
        key.strip_prefix(name)
            .map(|rest| rest.trim_start_matches(':').to_owned())
    };
    let is_its = |key: &&String| key.as_str() == name || key.starts_with(&format!("{name}:"));
    let rejected = || summary.rejected.iter().filter(|(key, _)| is_its(key));
    let reasons = rejected().filter_map(|(key, &count)| {
        Some(Reason {
            text: reason_of(key)?,
            count,
        })
    });
    Gate {
        name: name.to_owned(),
        description: description.to_owned(),
        passed_count: verdicts.map_or(0, |verdicts| verdicts.passed_count),
        rejected_count: rejected().map(|(_, count)| count).sum(),
        not_checked_count: verdicts.map_or(0, |verdicts| verdicts.not_checked_count),
        reasons: reasons.filter(|reason| !reason.text.is_empty()).collect(),
    }
}

/// One line of the trainer's `metrics.jsonl`, as far as a curve needs it.
#[derive(Deserialize)]
struct Metric {
    step: u64,
    loss: f64,
}

fn training_runs(folder: &RunFolder, recipe: &Recipe) -> Result<Vec<TrainingRun>> {
    let Some(train) = &recipe.train else {
        return Ok(Vec::new());
    };
    let mut runs = Vec::new();
    for run in RUNS {
        for &seed in &train.seeds {
            let path = folder
                .training(&run_name(run, &train.seeds, seed))
                .join("metrics.jsonl");
            let points: Vec<LossPoint> = read_lines::<Metric>(&path)?
                .into_iter()
                .map(|metric| LossPoint {
                    step: metric.step,
                    loss: metric.loss,
                })
                .collect();
            if !points.is_empty() {
                let label = if train.seeds.len() > 1 {
                    format!("seed {seed}")
                } else {
                    String::new()
                };
                runs.push(TrainingRun {
                    arm: run.to_owned(),
                    label,
                    points,
                });
            }
        }
    }
    Ok(runs)
}

fn benchmarks_of(scores: &Scores) -> Vec<Benchmark> {
    let described = [
        (
            "ai_generated",
            "AI-generated pictures",
            "Rendered by the same diffusion model from held-out prompts and seeds.",
        ),
        (
            "real",
            "another artist's pictures",
            "Drawn by people, in a style that no training picture has.",
        ),
    ];
    let of = |(name, title, description): (&str, &str, &str)| {
        let scores_of = scores
            .accuracy
            .iter()
            .filter(|row| row.benchmark == name)
            .map(|row| Score {
                arm: row.candidate.clone(),
                ability: row.ability.clone(),
                question_count: row.questions,
                accuracy: row.accuracy.into(),
                shuffled_accuracy: row.shuffled.map(Interval::from),
                unparsed_count: row.unparsed,
            });
        let comparisons = scores
            .gains
            .iter()
            .filter(|gain| gain.benchmark == name)
            .map(|gain| Comparison {
                ability: gain.ability.clone(),
                arm: gain.candidate.clone(),
                reference: gain.reference.clone(),
                gain: gain.gain.into(),
                p_value: gain.p_holm,
            });
        Benchmark {
            name: name.to_owned(),
            title: title.to_owned(),
            description: description.to_owned(),
            scores: scores_of.collect(),
            comparisons: comparisons.collect(),
        }
    };
    described
        .map(of)
        .into_iter()
        .filter(|benchmark| !benchmark.scores.is_empty())
        .collect()
}

impl From<Estimate> for Interval {
    fn from(estimate: Estimate) -> Self {
        Self {
            mean: estimate.mean,
            low: estimate.low,
            high: estimate.high,
        }
    }
}

/// One line of a benchmark's `questions.jsonl`.
#[derive(Deserialize)]
struct Question {
    question_id: String,
    ability: String,
    image: String,
    text: String,
    answers: Vec<String>,
}

/// One line of the evaluation's `answers.jsonl`.
#[derive(Deserialize)]
struct Answer {
    benchmark: String,
    question_id: String,
    candidate: String,
    text: String,
    score: f64,
    shuffled: bool,
    #[serde(default)]
    replica: u32,
}

/// Questions with everybody's answer, those first on which the arms differ.
fn exchanges(folder: &RunFolder, benchmarks: &BenchmarkFolders) -> Result<Vec<Exchange>> {
    let mut given: BTreeMap<(String, String), Vec<GivenAnswer>> = BTreeMap::new();
    for answer in read_lines::<Answer>(&folder.evaluation().join("answers.jsonl"))? {
        if !answer.shuffled && answer.replica == 0 {
            let right = answer.score > 0.5;
            let given = given
                .entry((answer.benchmark, answer.question_id))
                .or_default();
            given.push(GivenAnswer {
                arm: answer.candidate,
                text: answer.text,
                right,
            });
        }
    }
    let mut shown = Vec::new();
    for (benchmark, place) in benchmarks {
        let mut questions = read_lines::<Question>(&place.join("questions.jsonl"))?;
        questions.retain(|question| {
            given.contains_key(&(benchmark.clone(), question.question_id.clone()))
        });
        let differ = |question: &Question| {
            let answers = &given[&(benchmark.clone(), question.question_id.clone())];
            answers.iter().any(|answer| answer.right) && answers.iter().any(|answer| !answer.right)
        };
        // Stable: those on which the arms differ come first, else the file's order stays.
        questions.sort_by_key(|question| !differ(question));
        let mut per_ability: BTreeMap<String, usize> = BTreeMap::new();
        for question in questions {
            let count = per_ability.entry(question.ability.clone()).or_default();
            if *count < EXCHANGES_PER_ABILITY {
                *count += 1;
                let answers = given[&(benchmark.clone(), question.question_id.clone())].clone();
                shown.push(exchange(benchmark, place, question, answers)?);
            }
        }
    }
    Ok(shown)
}

fn exchange(
    benchmark: &str,
    place: &Path,
    question: Question,
    answers: Vec<GivenAnswer>,
) -> Result<Exchange> {
    let path = place.join(&question.image);
    let data = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let format =
        image::guess_format(&data).with_context(|| format!("{} is no picture", path.display()))?;
    let picture = Picture {
        media_type: format.to_mime_type().to_owned(),
        data,
        width_px: 0,
        alt: format!("picture to the question “{}”", question.text),
    };
    Ok(Exchange {
        benchmark: benchmark.to_owned(),
        ability: question.ability,
        picture,
        question: question.text,
        accepted_answers: question.answers,
        answers,
    })
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
    vec![
        group(
            "Versions",
            vec![("diptych".to_owned(), record.version.clone())],
        ),
        group("Models", models),
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
    ]
}

fn timings(record: &Record) -> Vec<Timing> {
    let of = |(stage, &seconds): (&String, &f64)| Timing {
        stage: stage.clone(),
        seconds,
        note: String::new(),
    };
    record.seconds.iter().map(of).collect()
}

/// Reads a file of one JSON object per line; an absent file has no lines.
fn read_lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut values = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if !line.trim().is_empty() {
            let value = serde_json::from_str(&line);
            values.push(
                value.with_context(|| format!("{}:{} is damaged", path.display(), number + 1))?,
            );
        }
    }
    Ok(values)
}
