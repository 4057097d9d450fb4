//! `diptych.trainer.v1.TrainerService` on top of the job store.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use proto::dataset::v1::{Artefact, Capabilities, ModelInfo};
use proto::trainer::v1 as pb;
use proto::trainer::v1::trainer_service_server::TrainerService;
use runtime::jobs::{Jobs, Snapshot};
use runtime::{RequestContext, respond};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::output::Written;
use crate::places::Places;
use crate::plan::Plan;
use crate::train::Progress;
use crate::work::Trainer;

/// The service.
#[derive(Debug)]
pub struct Service {
    jobs: Jobs<Trainer>,
    places: Arc<Places>,
    /// What is served, looked up once at the start.
    models: Vec<ModelInfo>,
}

impl Service {
    /// A service over a queue of jobs.
    pub fn new(jobs: Jobs<Trainer>, places: Places, models: Vec<ModelInfo>) -> Self {
        Self {
            jobs,
            places: Arc::new(places),
            models,
        }
    }

    /// Cancelled when the running job has saved itself, after the stop.
    pub(crate) fn jobs_ended(&self) -> CancellationToken {
        self.jobs.ended()
    }

    /// The job of `request_id`. One that is known is given as it stands, even where a folder that
    /// its specification names has gone since.
    async fn create(
        &self,
        request_id: &str,
        spec: Option<pb::TrainingSpec>,
    ) -> Result<Snapshot<Trainer>, Error> {
        let spec = spec.ok_or_else(|| Error::field("spec", "must be stated"))?;
        let same = |known: &Snapshot<Trainer>| known.job.spec.is_of(&spec);
        if let Some(known) = self.jobs.find(request_id).filter(same) {
            return Ok(known);
        }
        let places = Arc::clone(&self.places);
        // Hashes of artefacts are checked and folders made: work for a thread that may block.
        let check = move || Plan::parse(&spec, &places);
        let checked = tokio::task::spawn_blocking(check).await;
        let plan = checked.unwrap_or(Err(Error::DeviceLost))?;
        Ok(self.jobs.create(request_id, plan).await?)
    }
}

#[tonic::async_trait]
impl TrainerService for Service {
    async fn get_capabilities(
        &self,
        _request: Request<pb::GetCapabilitiesRequest>,
    ) -> Result<Response<pb::GetCapabilitiesResponse>, Status> {
        let capabilities = Capabilities {
            service: "diptych.trainer.v1.TrainerService".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            backend: "candle".into(),
            models: self.models.clone(),
            abilities: Vec::new(),
            features: [
                "alignment",
                "instruction",
                "multi_image",
                "accumulation",
                "resume",
            ]
            .map(String::from)
            .into(),
            max_items_per_request: 1,
            measuring_models: Vec::new(),
        };
        Ok(Response::new(pb::GetCapabilitiesResponse {
            capabilities: Some(capabilities),
        }))
    }

    async fn create_training_job(
        &self,
        request: Request<pb::CreateTrainingJobRequest>,
    ) -> Result<Response<pb::CreateTrainingJobResponse>, Status> {
        let pb::CreateTrainingJobRequest { request_id, spec } = request.into_inner();
        let created = self.create(&request_id, spec).await;
        let snapshot = created.map_err(|error| respond(&error))?;
        Ok(Response::new(pb::CreateTrainingJobResponse {
            job: Some(job(&snapshot)),
        }))
    }

    async fn get_training_job(
        &self,
        request: Request<pb::GetTrainingJobRequest>,
    ) -> Result<Response<pb::GetTrainingJobResponse>, Status> {
        let snapshot = self
            .jobs
            .get(&request.get_ref().id)
            .map_err(|error| respond(&error))?;
        Ok(Response::new(pb::GetTrainingJobResponse {
            job: Some(job(&snapshot)),
        }))
    }

    async fn list_training_jobs(
        &self,
        request: Request<pb::ListTrainingJobsRequest>,
    ) -> Result<Response<pb::ListTrainingJobsResponse>, Status> {
        let request = request.get_ref();
        let page = self
            .jobs
            .list(request.page_size, &request.page_token)
            .map_err(|error| respond(&error))?;
        let jobs = page.jobs.iter().map(job).collect();
        let next_page_token = page.next_page_token;
        Ok(Response::new(pb::ListTrainingJobsResponse {
            jobs,
            next_page_token,
        }))
    }

    async fn cancel_training_job(
        &self,
        request: Request<pb::CancelTrainingJobRequest>,
    ) -> Result<Response<pb::CancelTrainingJobResponse>, Status> {
        let snapshot = self
            .jobs
            .cancel(&request.get_ref().id)
            .await
            .map_err(|error| respond(&error))?;
        Ok(Response::new(pb::CancelTrainingJobResponse {
            job: Some(job(&snapshot)),
        }))
    }

    type WatchTrainingJobStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchTrainingJobResponse, Status>> + Send>>;

    async fn watch_training_job(
        &self,
        request: Request<pb::WatchTrainingJobRequest>,
    ) -> Result<Response<Self::WatchTrainingJobStream>, Status> {
        let draining = RequestContext::of(&request).draining();
        let changes = self
            .jobs
            .watch(&request.get_ref().id)
            .map_err(|error| respond(&error))?;
        let stream = changes.map(|snapshot| {
            Ok(pb::WatchTrainingJobResponse {
                job: Some(job(&snapshot)),
            })
        });
        Ok(Response::new(Box::pin(
            stream.take_until(draining.cancelled_owned()),
        )))
    }
}

fn job(snapshot: &Snapshot<Trainer>) -> pb::TrainingJob {
    let job = &snapshot.job;
    pb::TrainingJob {
        job: Some(snapshot.into()),
        spec: Some(job.spec.to_request()),
        progress: job.progress.as_ref().map(progress),
        result: job.result.as_ref().map(|outcome| pb::TrainingResult {
            model: Some(artefact(&outcome.model)),
            metrics: Some(artefact(&outcome.metrics)),
            skipped_sample_count: outcome.skipped_sample_count,
            final_loss: outcome.final_loss,
            supervised_token_count: outcome.supervised_token_count,
        }),
    }
}

fn progress(progress: &Progress) -> pb::TrainingProgress {
    pb::TrainingProgress {
        stage: progress.metric.stage.clone(),
        done_step_count: narrow(progress.metric.step),
        step_count: narrow(progress.step_count),
        loss: progress.metric.loss,
        learning_rate: progress.metric.lr,
        gradient_norm: progress.metric.grad_norm,
        tokens_per_second: progress.tokens_per_second,
        supervised_token_count: progress.metric.supervised,
        remaining_seconds: progress.remaining_seconds,
    }
}

/// The reference to what was written and hashed when the run ended.
fn artefact(written: &Written) -> Artefact {
    let url = match written.path.is_dir() {
        true => url::Url::from_directory_path(&written.path),
        false => url::Url::from_file_path(&written.path),
    };
    Artefact {
        uri: url.map(String::from).unwrap_or_default(),
        sha256: written.sha256.clone(),
        size_bytes: written.size_bytes,
    }
}

fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
