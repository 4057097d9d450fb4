//! Drives the suite's long jobs: create, follow to the end, come back when the connection breaks.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
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
use tonic::{Code, Response, Status, Streaming};

use crate::{bad_input::complaint, suite::Suite};

/// Breaks of the watching stream after which a job is given up on.
const MAX_BREAKS: u32 = 20;
const BREAK_PAUSE: Duration = Duration::from_millis(500);

/// Trains and follows the run to its end.
///
/// # Errors
/// The job was refused or failed, with its own sentence.
pub async fn train(
    suite: &Suite,
    request_id: &str,
    spec: TrainingSpec,
    on_progress: impl Fn(&TrainingProgress),
) -> Result<TrainingResult> {
    let request = CreateTrainingJobRequest {
        request_id: request_id.to_owned(),
        spec: Some(spec),
    };
    let trainer = || suite.trainer.clone();
    let create = async || trainer().create_training_job(request.clone()).await;
    let watch = async |id| {
        trainer()
            .watch_training_job(WatchTrainingJobRequest { id })
            .await
    };
    let created = async || create().await.map(|reply| reply.into_inner().job);
    drive(created, watch, |message| message.job, on_progress).await
}

/// Evaluates and follows the job to its end.
///
/// # Errors
/// The job was refused or failed, with its own sentence.
pub async fn evaluate(
    suite: &Suite,
    request_id: &str,
    spec: EvaluationSpec,
    on_progress: impl Fn(&EvaluationProgress),
) -> Result<EvaluationResult> {
    let request = CreateEvaluationJobRequest {
        request_id: request_id.to_owned(),
        spec: Some(spec),
    };
    let eval = || suite.eval.clone();
    let create = async || eval().create_evaluation_job(request.clone()).await;
    let watch = async |id| {
        eval()
            .watch_evaluation_job(WatchEvaluationJobRequest { id })
            .await
    };
    let created = async || create().await.map(|reply| reply.into_inner().job);
    drive(created, watch, |message| message.job, on_progress).await
}

/// Makes a benchmark and follows the job to its end.
///
/// # Errors
/// The job was refused or failed, with its own sentence.
pub async fn make_benchmark(
    suite: &Suite,
    request_id: &str,
    spec: BenchmarkSpec,
) -> Result<BenchmarkResult> {
    let request = CreateBenchmarkJobRequest {
        request_id: request_id.to_owned(),
        spec: Some(spec),
    };
    let eval = || suite.eval.clone();
    let create = async || eval().create_benchmark_job(request.clone()).await;
    let watch = async |id| {
        eval()
            .watch_benchmark_job(WatchBenchmarkJobRequest { id })
            .await
    };
    let created = async || create().await.map(|reply| reply.into_inner().job);
    drive(created, watch, |message| message.job, |()| {}).await
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

/// Creates a job, or finds the one that its request id made before, and follows it to its end.
/// `J` is the kind's own message of a job, which `read` takes out of what `watch` streams.
async fn drive<J, M, P, R>(
    create: impl AsyncFn() -> Result<Option<J>, Status>,
    watch: impl AsyncFn(String) -> Result<Response<Streaming<M>>, Status>,
    read: impl Fn(M) -> Option<J>,
    on_progress: impl Fn(&P),
) -> Result<R>
where
    J: Into<Snapshot<P, R>>,
{
    let created = Retry::default().call(|| create()).await;
    let created = created.map_err(|status| complaint(&status))?;
    let id = created
        .and_then(|job| job.into().job)
        .map(|job| job.id)
        .filter(|id| !id.is_empty())
        .context("the service accepted the job without giving its id")?;
    let watch = async || watch(id.clone()).await.map(Response::into_inner);
    follow(watch, |message| read(message).map(Into::into), on_progress).await
}

/// Follows a job until it has ended; a stream that breaks is opened again.
async fn follow<M, P, R>(
    watch: impl AsyncFn() -> Result<Streaming<M>, Status>,
    read: impl Fn(M) -> Option<Snapshot<P, R>>,
    on_progress: impl Fn(&P),
) -> Result<R> {
    let mut breaks = 0;
    loop {
        let broken = match next_end(watch().await, &read, &on_progress).await {
            Ok(Some((job, result))) => return end(&job, result),
            Ok(None) => "the service ended its stream early".to_owned(),
            Err(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) => {
                explain(&status)
            }
            Err(status) => return Err(complaint(&status)),
        };
        breaks += 1;
        if breaks == MAX_BREAKS {
            bail!("cannot follow the job: {broken}");
        }
        tokio::time::sleep(BREAK_PAUSE).await;
    }
}

/// The job and its result once it has ended; `None` when the stream ended before it.
async fn next_end<M, P, R>(
    stream: Result<Streaming<M>, Status>,
    read: &impl Fn(M) -> Option<Snapshot<P, R>>,
    on_progress: &impl Fn(&P),
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
        if let Some(progress) = &progress {
            on_progress(progress);
        }
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
        _ => bail!("the job failed{}", because(&job.error)),
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
