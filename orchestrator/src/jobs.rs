//! Drives the suite's long jobs: create, follow to the end, come back when the connection breaks.
//!
//! A job's request id says what it does and with which files, so that asking again finds the job
//! and asking for something else does not. A job that failed before we asked, or whose outputs are
//! gone, is not taken up again: the next turn makes another one.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, bail};
use prost::Message;
use proto::{
    dataset::v1::Artefact,
    eval::v1::{
        BenchmarkJob, BenchmarkResult, BenchmarkSpec, CreateBenchmarkJobRequest,
        CreateEvaluationJobRequest, EvaluationJob, EvaluationProgress, EvaluationResult,
        EvaluationSpec, WatchBenchmarkJobRequest, WatchEvaluationJobRequest,
    },
    job::v1::{Job, JobState},
    trainer::v1::{
        CreateTrainingJobRequest, TrainingJob, TrainingProgress, TrainingResult, TrainingSpec,
        WatchTrainingJobRequest,
    },
};
use runtime::{explain, retry::Retry};
use sha2::{Digest as _, Sha256};
use tonic::{Code, Response, Status, Streaming};

use crate::{
    bad_input::{BadInput, complaint, is_complaint},
    suite::Suite,
};

/// Breaks of the watching stream in a row after which a job is given up on: two minutes.
const MAX_BREAKS: u32 = 240;
const BREAK_PAUSE: Duration = Duration::from_millis(500);
/// Jobs of one errand: one that failed is followed by another when the errand is run again.
const MAX_TURNS: u32 = 100;

/// What a job is for, and how to tell that its work is there.
#[derive(Debug, Clone)]
pub struct Errand {
    /// Name, for the request id.
    pub name: String,
    /// Files and folders of this machine that the job reads; the same request after one of them
    /// has changed is another job.
    pub inputs: Vec<PathBuf>,
    /// File that the job leaves when it ends well.
    pub leaves: PathBuf,
}

impl Errand {
    /// Request id of the `turn`-th job, from 1.
    fn request_id(&self, spec: &impl Message, turn: u32) -> String {
        let mut digest = Sha256::new().chain_update(spec.encode_to_vec());
        for input in &self.inputs {
            fingerprint(input, &mut digest);
        }
        let hex: String = digest.finalize()[..12]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let turn = if turn == 1 {
            String::new()
        } else {
            format!("-{turn}")
        };
        format!("{}-{hex}{turn}", self.name)
    }
}

/// Takes in name, size and time of change of a file, or of all files in a folder. What cannot be
/// read is left to the service to complain about.
fn fingerprint(path: &Path, digest: &mut Sha256) {
    let Ok(metadata) = path.metadata() else {
        return;
    };
    if metadata.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| fingerprint(entry, digest));
        return;
    }
    let changed = metadata.modified().ok();
    let changed = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    digest.update(path.as_os_str().as_encoded_bytes());
    digest.update(metadata.len().to_le_bytes());
    digest.update(changed.unwrap_or_default().as_nanos().to_le_bytes());
}

/// Trains and follows the run to its end.
///
/// # Errors
/// The job was refused or failed, with its own sentence.
pub async fn train(
    suite: &Suite,
    errand: &Errand,
    spec: TrainingSpec,
    on_progress: impl Fn(&TrainingProgress),
) -> Result<TrainingResult> {
    let request = |turn| CreateTrainingJobRequest {
        request_id: errand.request_id(&spec, turn),
        spec: Some(spec.clone()),
    };
    let trainer = || suite.trainer.clone();
    let create = async |turn| {
        let reply = trainer().create_training_job(request(turn)).await;
        reply.map(|reply| reply.into_inner().job)
    };
    let watch = async |id| {
        trainer()
            .watch_training_job(WatchTrainingJobRequest { id })
            .await
    };
    drive(errand, create, watch, |message| message.job, on_progress).await
}

/// Evaluates and follows the job to its end.
///
/// # Errors
/// The job was refused or failed, with its own sentence.
pub async fn evaluate(
    suite: &Suite,
    errand: &Errand,
    spec: EvaluationSpec,
    on_progress: impl Fn(&EvaluationProgress),
) -> Result<EvaluationResult> {
    let request = |turn| CreateEvaluationJobRequest {
        request_id: errand.request_id(&spec, turn),
        spec: Some(spec.clone()),
    };
    let eval = || suite.eval.clone();
    let create = async |turn| {
        let reply = eval().create_evaluation_job(request(turn)).await;
        reply.map(|reply| reply.into_inner().job)
    };
    let watch = async |id| {
        eval()
            .watch_evaluation_job(WatchEvaluationJobRequest { id })
            .await
    };
    drive(errand, create, watch, |message| message.job, on_progress).await
}

/// Makes a benchmark and follows the job to its end.
///
/// # Errors
/// The job was refused or failed, with its own sentence.
pub async fn make_benchmark(
    suite: &Suite,
    errand: &Errand,
    spec: BenchmarkSpec,
) -> Result<BenchmarkResult> {
    let request = |turn| CreateBenchmarkJobRequest {
        request_id: errand.request_id(&spec, turn),
        spec: Some(spec.clone()),
    };
    let eval = || suite.eval.clone();
    let create = async |turn| {
        let reply = eval().create_benchmark_job(request(turn)).await;
        reply.map(|reply| reply.into_inner().job)
    };
    let watch = async |id| {
        eval()
            .watch_benchmark_job(WatchBenchmarkJobRequest { id })
            .await
    };
    drive(errand, create, watch, |message| message.job, |()| {}).await
}

/// What a job's message says now. A job that tells no progress has `()` for it.
struct Snapshot<P, R> {
    job: Option<Job>,
    progress: Option<P>,
    result: Option<R>,
}

impl From<TrainingJob> for Snapshot<TrainingProgress, TrainingResult> {
    fn from(job: TrainingJob) -> Self {
        Self {
            job: job.job,
            progress: job.progress,
            result: job.result,
        }
    }
}

impl From<EvaluationJob> for Snapshot<EvaluationProgress, EvaluationResult> {
    fn from(job: EvaluationJob) -> Self {
        Self {
            job: job.job,
            progress: job.progress,
            result: job.result,
        }
    }
}

impl From<BenchmarkJob> for Snapshot<(), BenchmarkResult> {
    fn from(job: BenchmarkJob) -> Self {
        Self {
            job: job.job,
            progress: None,
            result: job.result,
        }
    }
}

/// Creates a job, or finds the one that its errand made before, and follows it to its end. `J` is
/// the kind's own message of a job, which `read` takes out of what `watch` streams.
async fn drive<J, M, P, R>(
    errand: &Errand,
    create: impl AsyncFn(u32) -> Result<Option<J>, Status>,
    watch: impl AsyncFn(String) -> Result<Response<Streaming<M>>, Status>,
    read: impl Fn(M) -> Option<J>,
    on_progress: impl Fn(&P),
) -> Result<R>
where
    J: Into<Snapshot<P, R>>,
{
    let id = begin(errand, create).await?;
    let watch = async || watch(id.clone()).await.map(Response::into_inner);
    follow(watch, |message| read(message).map(Into::into), on_progress).await
}

/// Id of the first of the errand's jobs that can still end well, or has and left its work.
async fn begin<J, P, R>(
    errand: &Errand,
    create: impl AsyncFn(u32) -> Result<Option<J>, Status>,
) -> Result<String>
where
    J: Into<Snapshot<P, R>>,
{
    let mut last = Job::default();
    for turn in 1..=MAX_TURNS {
        let created = Retry::default().call(|| create(turn)).await;
        let created = created.map_err(|status| complaint(&status))?;
        last = created
            .and_then(|job| job.into().job)
            .filter(|job| !job.id.is_empty())
            .context("the service accepted the job without giving its id")?;
        let is_spent = match last.state() {
            JobState::Failed | JobState::Cancelled => true,
            JobState::Succeeded => !errand.leaves.exists(),
            _ => false,
        };
        if !is_spent {
            return Ok(last.id);
        }
    }
    bail!(
        "{MAX_TURNS} jobs of this kind have failed{}",
        because(&last.error)
    )
}

/// Follows a job until it has ended; a stream that breaks is opened again.
async fn follow<M, P, R>(
    watch: impl AsyncFn() -> Result<Streaming<M>, Status>,
    read: impl Fn(M) -> Option<Snapshot<P, R>>,
    on_progress: impl Fn(&P),
) -> Result<R> {
    let breaks = Cell::new(0);
    // Whatever comes shows that the way is open again.
    let on_message = |progress: Option<&P>| {
        breaks.set(0);
        progress.into_iter().for_each(&on_progress);
    };
    loop {
        let broken = match next_end(watch().await, &read, &on_message).await {
            Ok(Some((job, result))) => return end(&job, result),
            Ok(None) => "the service ended its stream early".to_owned(),
            Err(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) => {
                explain(&status)
            }
            Err(status) => return Err(complaint(&status)),
        };
        breaks.set(breaks.get() + 1);
        if breaks.get() == MAX_BREAKS {
            bail!("cannot follow the job: {broken}");
        }
        tokio::time::sleep(BREAK_PAUSE).await;
    }
}

/// The job and its result once it has ended; `None` when the stream ended before it.
async fn next_end<M, P, R>(
    stream: Result<Streaming<M>, Status>,
    read: &impl Fn(M) -> Option<Snapshot<P, R>>,
    on_message: &impl Fn(Option<&P>),
) -> Result<Option<(Job, Option<R>)>, Status> {
    let mut stream = stream?;
    while let Some(message) = stream.message().await? {
        let Some(Snapshot {
            job: Some(job),
            progress,
            result,
        }) = read(message)
        else {
            continue;
        };
        on_message(progress.as_ref());
        if matches!(
            job.state(),
            JobState::Succeeded | JobState::Failed | JobState::Cancelled
        ) {
            return Ok(Some((job, result)));
        }
    }
    Ok(None)
}

fn end<R>(job: &Job, result: Option<R>) -> Result<R> {
    match job.state() {
        JobState::Succeeded => result.context("the job succeeded without a result"),
        JobState::Cancelled => bail!("the job was cancelled{}", because(&job.error)),
        _ => Err(failure(job)),
    }
}

/// A failed job as an error, marked where what the caller gave is to be corrected.
fn failure(job: &Job) -> anyhow::Error {
    let code = i32::try_from(job.error_code).map_or(Code::Unknown, Code::from_i32);
    let error = anyhow!("the job failed{}", because(&job.error));
    match is_complaint(code) {
        true => error.context(BadInput),
        false => error,
    }
}

fn because(error: &str) -> String {
    if error.is_empty() {
        String::new()
    } else {
        format!(": {error}")
    }
}

/// A reference to a file or folder of this machine; a folder's URI ends with a slash.
///
/// # Errors
/// The path cannot be made absolute or is not UTF-8.
pub fn artefact(path: &Path, is_folder: bool) -> Result<Artefact> {
    let absolute =
        std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))?;
    let url = if is_folder {
        url::Url::from_directory_path(&absolute)
    } else {
        url::Url::from_file_path(&absolute)
    };
    let url = url.map_err(|()| anyhow!("{} cannot be written as a URI", absolute.display()))?;
    Ok(Artefact {
        uri: url.into(),
        sha256: String::new(),
        size_bytes: 0,
    })
}
