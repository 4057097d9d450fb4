//! Requests as values that were checked: nothing optional that is always there, no zero that
//! means a default.

use std::collections::HashSet;

use proto::{
    dataset::v1 as dataset_pb,
    eval::v1::{self as pb, benchmark_ref::Location as PbLocation, candidate::Model as PbModel},
};
use serde::{Deserialize, Serialize};

use crate::error::Error;

const DEFAULT_NEW_TOKEN_COUNT: u32 = 32;
const MAX_NEW_TOKEN_COUNT: u32 = 1024;
const DEFAULT_RESAMPLE_COUNT: u32 = 10_000;
const MAX_RESAMPLE_COUNT: u32 = 1_000_000;
const DEFAULT_QUESTIONS_PER_ABILITY: u32 = 50;
const MAX_QUESTIONS_PER_ABILITY: u32 = 10_000;
const MAX_CANDIDATES: usize = 16;
const MAX_REPLICAS: usize = 16;
const MAX_BENCHMARKS: usize = 32;
const MAX_NAME_CHARS: usize = 64;

/// A checked evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EvaluationSpec {
    /// Models to compare, the baseline first.
    pub(crate) candidates: Vec<Candidate>,
    /// Benchmarks to answer.
    pub(crate) benchmarks: Vec<BenchmarkRef>,
    /// Most questions per ability and benchmark.
    pub(crate) question_limit_per_ability: Option<u32>,
    /// Longest answer in tokens.
    pub(crate) max_new_token_count: u32,
    /// Bootstrap resamples.
    pub(crate) resample_count: u32,
    /// Seed of the resampling and of the shuffle.
    pub(crate) seed: u64,
    /// Where answers and results go.
    pub(crate) output: Artefact,
    /// Whether the pictures are shuffled too.
    pub(crate) has_shuffled: bool,
}

/// A model under evaluation, with those trained alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    /// Name in the results.
    pub(crate) name: String,
    /// The model, then its replicas; at least one.
    pub(crate) models: Vec<ModelRef>,
}

/// A model by name or place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ModelRef {
    /// A model that the service serves.
    Served(String),
    /// A checkpoint folder.
    Checkpoint(Artefact),
}

/// A benchmark by name or place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BenchmarkRef {
    /// Name in the results.
    pub(crate) name: String,
    /// The benchmark.
    pub(crate) location: Location,
}

/// Where a benchmark is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Location {
    /// A benchmark that the service serves.
    Builtin(String),
    /// A benchmark folder.
    Folder(Artefact),
}

/// A checked request for a benchmark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BenchmarkSpec {
    /// The dataset with held-out prompts.
    pub(crate) source: Artefact,
    /// What must not overlap with it.
    pub(crate) training_data: Vec<Artefact>,
    /// Questions per ability.
    pub(crate) questions_per_ability: u32,
    /// Seed of the choice.
    pub(crate) seed: u64,
    /// Folder for the benchmark.
    pub(crate) output: Artefact,
}

/// A reference to something large, as it stands in job records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Artefact {
    /// Where it lies.
    pub(crate) uri: String,
    /// Its hash; empty when not stated.
    pub(crate) sha256: String,
    /// Its size; 0 when not stated.
    pub(crate) size_bytes: u64,
}

impl TryFrom<pb::EvaluationSpec> for EvaluationSpec {
    type Error = Error;

    fn try_from(spec: pb::EvaluationSpec) -> Result<Self, Error> {
        let candidates = many(
            "spec.candidates",
            spec.candidates,
            MAX_CANDIDATES,
            candidate,
        )?;
        let benchmarks = many(
            "spec.benchmarks",
            spec.benchmarks,
            MAX_BENCHMARKS,
            benchmark,
        )?;
        distinct(
            "spec.candidates",
            candidates.iter().map(|candidate| &candidate.name),
        )?;
        distinct(
            "spec.benchmarks",
            benchmarks.iter().map(|benchmark| &benchmark.name),
        )?;
        Ok(Self {
            candidates,
            benchmarks,
            question_limit_per_ability: (spec.question_limit_per_ability > 0)
                .then_some(spec.question_limit_per_ability),
            max_new_token_count: new_token_count(
                "spec.max_new_token_count",
                spec.max_new_token_count,
            )?,
            resample_count: bounded(
                "spec.resample_count",
                spec.resample_count,
                DEFAULT_RESAMPLE_COUNT,
                MAX_RESAMPLE_COUNT,
            )?,
            seed: spec.seed,
            output: artefact("spec.output", spec.output)?,
            has_shuffled: !spec.skip_shuffled,
        })
    }
}

impl TryFrom<pb::BenchmarkSpec> for BenchmarkSpec {
    type Error = Error;

    fn try_from(spec: pb::BenchmarkSpec) -> Result<Self, Error> {
        let field = "spec.questions_per_ability";
        let training = spec.training_data.into_iter().enumerate();
        Ok(Self {
            source: artefact("spec.source", spec.source)?,
            training_data: training
                .map(|(index, data)| artefact(&format!("spec.training_data[{index}]"), Some(data)))
                .collect::<Result<_, _>>()?,
            questions_per_ability: bounded(
                field,
                spec.questions_per_ability,
                DEFAULT_QUESTIONS_PER_ABILITY,
                MAX_QUESTIONS_PER_ABILITY,
            )?,
            seed: spec.seed,
            output: artefact("spec.output", spec.output)?,
        })
    }
}

/// A model given outside of an evaluation; its name plays no part.
pub(crate) fn single_model(
    field: &str,
    candidate: Option<pb::Candidate>,
) -> Result<ModelRef, Error> {
    model(field, candidate.and_then(|candidate| candidate.model))
}

/// The longest answer in tokens; 0 means the default.
pub(crate) fn new_token_count(field: &str, value: u32) -> Result<u32, Error> {
    bounded(field, value, DEFAULT_NEW_TOKEN_COUNT, MAX_NEW_TOKEN_COUNT)
}

fn candidate(field: &str, candidate: pb::Candidate) -> Result<Candidate, Error> {
    if candidate.replicas.len() > MAX_REPLICAS {
        return Err(Error::invalid(
            format!("{field}.replicas"),
            format!("at most {MAX_REPLICAS} are possible"),
        ));
    }
    let mut models = vec![model(field, candidate.model)?];
    for (index, replica) in candidate.replicas.into_iter().enumerate() {
        models.push(ModelRef::Checkpoint(artefact(
            &format!("{field}.replicas[{index}]"),
            Some(replica),
        )?));
    }
    Ok(Candidate {
        name: name(&format!("{field}.name"), candidate.name)?,
        models,
    })
}

fn model(field: &str, model: Option<PbModel>) -> Result<ModelRef, Error> {
    match model {
        Some(PbModel::ModelName(name)) if !name.is_empty() => Ok(ModelRef::Served(name)),
        Some(PbModel::Checkpoint(folder)) => Ok(ModelRef::Checkpoint(artefact(
            &format!("{field}.checkpoint"),
            Some(folder),
        )?)),
        _ => Err(Error::invalid(
            field,
            "say which model: model_name or checkpoint",
        )),
    }
}

fn benchmark(field: &str, benchmark: pb::BenchmarkRef) -> Result<BenchmarkRef, Error> {
    let location = match benchmark.location {
        Some(PbLocation::Builtin(name)) if !name.is_empty() => Location::Builtin(name),
        Some(PbLocation::Folder(folder)) => {
            Location::Folder(artefact(&format!("{field}.folder"), Some(folder))?)
        }
        _ => {
            return Err(Error::invalid(
                field,
                "say which benchmark: builtin or folder",
            ));
        }
    };
    Ok(BenchmarkRef {
        name: name(&format!("{field}.name"), benchmark.name)?,
        location,
    })
}

fn many<P, T>(
    field: &str,
    items: Vec<P>,
    most: usize,
    parse: impl Fn(&str, P) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    if items.is_empty() || items.len() > most {
        return Err(Error::invalid(field, format!("there must be 1 to {most}")));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| parse(&format!("{field}[{index}]"), item))
        .collect()
}

fn name(field: &str, name: String) -> Result<String, Error> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || !name.chars().all(is_plain) {
        let rule = format!("must be 1 to {MAX_NAME_CHARS} letters, digits, `_`, `-` or `.`");
        return Err(Error::invalid(field, rule));
    }
    Ok(name)
}

fn distinct<'a>(field: &str, names: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::invalid(
                field,
                format!("the name {name:?} is given twice"),
            ));
        }
    }
    Ok(())
}

fn bounded(field: &str, value: u32, default: u32, most: u32) -> Result<u32, Error> {
    match value {
        0 => Ok(default),
        value if value <= most => Ok(value),
        _ => Err(Error::invalid(field, format!("must be at most {most}"))),
    }
}

fn artefact(field: &str, artefact: Option<dataset_pb::Artefact>) -> Result<Artefact, Error> {
    match artefact {
        Some(artefact) if !artefact.uri.is_empty() => Ok(artefact.into()),
        _ => Err(Error::invalid(field, "must be given")),
    }
}

impl From<dataset_pb::Artefact> for Artefact {
    fn from(artefact: dataset_pb::Artefact) -> Self {
        let dataset_pb::Artefact {
            uri,
            sha256,
            size_bytes,
        } = artefact;
        Self {
            uri,
            sha256,
            size_bytes,
        }
    }
}

impl From<Artefact> for dataset_pb::Artefact {
    fn from(artefact: Artefact) -> Self {
        let Artefact {
            uri,
            sha256,
            size_bytes,
        } = artefact;
        Self {
            uri,
            sha256,
            size_bytes,
        }
    }
}

impl From<EvaluationSpec> for pb::EvaluationSpec {
    fn from(spec: EvaluationSpec) -> Self {
        Self {
            candidates: spec.candidates.into_iter().map(Into::into).collect(),
            benchmarks: spec.benchmarks.into_iter().map(Into::into).collect(),
            question_limit_per_ability: spec.question_limit_per_ability.unwrap_or(0),
            max_new_token_count: spec.max_new_token_count,
            resample_count: spec.resample_count,
            seed: spec.seed,
            output: Some(spec.output.into()),
            skip_shuffled: !spec.has_shuffled,
        }
    }
}

impl From<Candidate> for pb::Candidate {
    fn from(candidate: Candidate) -> Self {
        let mut models = candidate.models.into_iter();
        let model = models.next().map(|model| match model {
            ModelRef::Served(name) => PbModel::ModelName(name),
            ModelRef::Checkpoint(folder) => PbModel::Checkpoint(folder.into()),
        });
        let replicas = models.filter_map(|model| match model {
            ModelRef::Checkpoint(folder) => Some(folder.into()),
            ModelRef::Served(_) => None,
        });
        Self {
            name: candidate.name,
            model,
            replicas: replicas.collect(),
        }
    }
}

impl From<BenchmarkRef> for pb::BenchmarkRef {
    fn from(benchmark: BenchmarkRef) -> Self {
        let location = match benchmark.location {
            Location::Builtin(name) => PbLocation::Builtin(name),
            Location::Folder(folder) => PbLocation::Folder(folder.into()),
        };
        Self {
            name: benchmark.name,
            location: Some(location),
        }
    }
}

impl From<BenchmarkSpec> for pb::BenchmarkSpec {
    fn from(spec: BenchmarkSpec) -> Self {
        Self {
            source: Some(spec.source.into()),
            training_data: spec.training_data.into_iter().map(Into::into).collect(),
            questions_per_ability: spec.questions_per_ability,
            seed: spec.seed,
            output: Some(spec.output.into()),
        }
    }
}
