//! Drives the suite's long jobs: create, follow to the end, come back when the connection breaks.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use proto::{
    dataset::v1::Artefact,
    eval::v1::{
        BenchmarkResult, BenchmarkSpec, CreateBenchmarkJobRequest, CreateEvaluationJobRequest,
        EvaluationProgress, EvaluationResult, EvaluationSpec, WatchBenchmarkJobRequest,
        WatchEvaluationJobRequest,
    },
    job::v1::{Job, JobState},
    trainer::v1::{
        CreateTrainingJobRequest, TrainingProgress, TrainingResult, TrainingSpec,
        WatchTrainingJobRequest,
    },
};
use runtime::{explain, retry::Retry};
use tonic::{Code, Status, Streaming};

use crate::{bad_input::complaint, suite::Suite};

/// What a job's message says now.
struct Snapshot<P, R> {
    job: Job,
    progress: Option<P>,
    result: Option<R>,
}

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
    let created = Retry::default()
        .call(|| {
            let (mut client, request) = (suite.trainer.clone(), request.clone());
            async move { client.create_training_job(request).await }
        })
        .await
        .map_err(|status| complaint(&status))?;
    let id = job_id(created.into_inner().job.and_then(|job| job.job))?;
    follow(
        || {
            let (mut client, id) = (suite.trainer.clone(), id.clone());
            async move {
                client
                    .watch_training_job(WatchTrainingJobRequest { id })
                    .await
                    .map(tonic::Response::into_inner)
            }
        },
        |message| {
            let job = message.job?;
            Some(Snapshot {
                job: job.job?,
                progress: job.progress,
                result: job.result,
            })
        },
        on_progress,
    )
    .await
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
    let created = Retry::default()
        .call(|| {
            let (mut client, request) = (suite.eval.clone(), request.clone());
            async move { client.create_evaluation_job(request).await }
        })
        .await
        .map_err(|status| complaint(&status))?;
    let id = job_id(created.into_inner().job.and_then(|job| job.job))?;
    follow(
        || {
            let (mut client, id) = (suite.eval.clone(), id.clone());
            async move {
                client
                    .watch_evaluation_job(WatchEvaluationJobRequest { id })
                    .await
                    .map(tonic::Response::into_inner)
            }
        },
        |message| {
            let job = message.job?;
            Some(Snapshot {
                job: job.job?,
                progress: job.progress,
                result: job.result,
            })
        },
        on_progress,
    )
    .await
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
    let created = Retry::default()
        .call(|| {
            let (mut client, request) = (suite.eval.clone(), request.clone());
            async move { client.create_benchmark_job(request).await }
        })
        .await
        .map_err(|status| complaint(&status))?;
    let id = job_id(created.into_inner().job.and_then(|job| job.job))?;
    follow(
        || {
            let (mut client, id) = (suite.eval.clone(), id.clone());
            async move {
                client
                    .watch_benchmark_job(WatchBenchmarkJobRequest { id })
                    .await
                    .map(tonic::Response::into_inner)
            }
        },
        |message| {
            let job = message.job?;
            Some(Snapshot {
                job: job.job?,
                progress: None::<()>,
                result: job.result,
            })
        },
        |()| {},
    )
    .await
}

/// Follows a job until it has ended; a stream that breaks is opened again.
async fn follow<M, P, R, Reply>(
    watch: impl Fn() -> Reply,
    read: impl Fn(M) -> Option<Snapshot<P, R>>,
    on_progress: impl Fn(&P),
) -> Result<R>
where
    Reply: Future<Output = Result<Streaming<M>, Status>>,
{
    let mut breaks = 0;
    loop {
        let broken = match next_end(watch().await, &read, &on_progress).await {
            Ok(Some(snapshot)) => return end(snapshot),
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

async fn next_end<M, P, R>(
    stream: Result<Streaming<M>, Status>,
    read: &impl Fn(M) -> Option<Snapshot<P, R>>,
    on_progress: &impl Fn(&P),
) -> Result<Option<Snapshot<P, R>>, Status> {
    let mut stream = stream?;
    while let Some(message) = stream.message().await? {
        let Some(snapshot) = read(message) else {
            continue;
        };
        if let Some(progress) = &snapshot.progress {
            on_progress(progress);
        }
        if matches!(
            snapshot.job.state(),
            JobState::Succeeded | JobState::Failed | JobState::Cancelled
        ) {
            return Ok(Some(snapshot));
        }
    }
    Ok(None)
}

fn end<P, R>(snapshot: Snapshot<P, R>) -> Result<R> {
    match snapshot.job.state() {
        JobState::Succeeded => snapshot
            .result
            .context("the job succeeded without a result"),
        JobState::Cancelled => bail!("the job was cancelled{}", because(&snapshot.job.error)),
        _ => bail!("the job failed{}", because(&snapshot.job.error)),
    }
}

fn because(error: &str) -> String {
    if error.is_empty() {
        String::new()
    } else {
        format!(": {error}")
    }
}

fn job_id(job: Option<Job>) -> Result<String> {
    job.map(|job| job.id)
        .filter(|id| !id.is_empty())
        .context("the service accepted the job without giving its id")
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
