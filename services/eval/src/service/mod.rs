//! The gRPC edge: requests in, checked; results and errors out.
//!
//! * `answers`, `scores`, `capabilities`: the calls that are answered at once.
//! * `jobs`: the calls about jobs; `evaluation_jobs` and `benchmark_jobs` are their two kinds.

mod answers;
mod benchmark_jobs;
mod capabilities;
mod evaluation_jobs;
mod jobs;
mod scores;

use std::sync::Arc;

use futures::{StreamExt as _, stream::BoxStream};
use image::RgbImage;
use proto::{
    dataset::v1::Capabilities,
    eval::v1::{self as pb, eval_service_server::EvalService},
};
use runtime::{RequestContext, jobs::Settings, respond};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::{answers::Questions, jobs::Desk};
use crate::{
    NAME,
    answering::{Answering, Ask, Model, blocking},
    benchmark::Picture,
    error::Error,
    evaluation::Evaluations,
    making::Making,
    options::Options,
    places::Places,
    spec::ModelRef,
};

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Eval {
    places: Arc<Places>,
    answering: Arc<Answering>,
    evaluations: Arc<Desk<Evaluations>>,
    making: Arc<Desk<Making>>,
    streams: Arc<Semaphore>,
    max_streams: usize,
    max_items: u32,
    capabilities: Arc<OnceCell<Capabilities>>,
}

type Reply<T> = Result<Response<T>, Status>;
type Messages<T> = BoxStream<'static, Result<T, Status>>;

fn reply<T>(result: Result<T, Error>) -> Reply<T> {
    result.map(Response::new).map_err(|error| respond(&error))
}

impl Eval {
    /// Takes up the jobs that an earlier process left.
    pub(crate) fn open(
        options: &Options,
        places: Arc<Places>,
        answering: Arc<Answering>,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let folder = match options.artefacts.artefact_roots.is_empty() {
            true => None,
            false => Some(places.roots().place("jobs")?),
        };
        let settings = |job_kind| {
            folder.clone().map(|folder| Settings {
                service_name: NAME.into(),
                job_kind,
                folder,
                queue_capacity: options.queue_capacity,
                kept_jobs: options.kept_jobs,
            })
        };
        let evaluations = Evaluations {
            answering: Arc::clone(&answering),
            places: Arc::clone(&places),
        };
        let evaluations = Desk::open(
            evaluations,
            settings("evaluation"),
            Arc::clone(&places),
            stop.clone(),
        )?;
        let making = Making {
            places: Arc::clone(&places),
        };
        let making = Desk::open(making, settings("benchmark"), Arc::clone(&places), stop)?;
        Ok(Self {
            places,
            answering,
            evaluations: Arc::new(evaluations),
            making: Arc::new(making),
            streams: Arc::new(Semaphore::new(options.max_streams)),
            max_streams: options.max_streams,
            max_items: options.max_items,
            capabilities: Arc::default(),
        })
    }

    /// The ends of what goes on after the last call, after the stop.
    pub(crate) fn background(&self) -> impl Iterator<Item = CancellationToken> {
        let ends = [self.evaluations.ended(), self.making.ended()];
        ends.into_iter().flatten()
    }

    /// Lets the first served model answer once, so that what does not work is known before anyone
    /// asks. A service without models of its own still scores and evaluates checkpoints.
    pub(crate) async fn warm_up(self) -> Result<(), Error> {
        self.capabilities().await?;
        let Some(name) = self.places.models().keys().next() else {
            tracing::info!("no model is served by name; requests bring their checkpoints");
            return Ok(());
        };
        let model = self.load(&ModelRef::Served(name.clone())).await?;
        let blank = Picture {
            sha256: "blank".into(),
            pixels: RgbImage::new(32, 32),
        };
        let ask = Ask {
            pictures: vec![Arc::new(blank)],
            text: "What is in the picture?".into(),
        };
        for outcome in self
            .answering
            .answer(&model, vec![ask], 1, &CancellationToken::new())
            .await?
        {
            outcome.map_err(|error| Error::Internal(runtime::error::chain(error.as_ref())))?;
        }
        Ok(())
    }

    async fn load(&self, reference: &ModelRef) -> Result<Arc<Model>, Error> {
        let (places, reference) = (Arc::clone(&self.places), reference.clone());
        let name = match &reference {
            ModelRef::Served(name) => name.clone(),
            ModelRef::Checkpoint(folder) => folder.uri.clone(),
        };
        let folder = blocking(move || places.model(&reference)).await??;
        self.answering.load(name, folder).await
    }

    async fn capabilities(&self) -> Result<&Capabilities, Error> {
        let places = Arc::clone(&self.places);
        let max_items = self.max_items;
        let look = || async move {
            blocking(move || capabilities::capabilities(&places, max_items)).await?
        };
        self.capabilities.get_or_try_init(look).await
    }

    /// A place for one more stream of answers.
    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| Error::Busy(self.max_streams))
    }
}

#[tonic::async_trait]
impl EvalService for Eval {
    type AnswerQuestionsStream = Messages<pb::AnswerQuestionsResponse>;
    type WatchEvaluationJobStream = Messages<pb::WatchEvaluationJobResponse>;
    type WatchBenchmarkJobStream = Messages<pb::WatchBenchmarkJobResponse>;

    async fn get_capabilities(
        &self,
        _: Request<pb::GetCapabilitiesRequest>,
    ) -> Reply<pb::GetCapabilitiesResponse> {
        let capabilities = self.capabilities().await.cloned().map(Some);
        reply(capabilities.map(|capabilities| pb::GetCapabilitiesResponse { capabilities }))
    }

    async fn answer_questions(
        &self,
        request: Request<pb::AnswerQuestionsRequest>,
    ) -> Reply<Self::AnswerQuestionsStream> {
        let cancelled = RequestContext::of(&request).cancelled();
        let begin = async {
            let questions = Questions::try_from((request.into_inner(), self.max_items))?;
            let permit = self.stream_permit()?;
            let model = self.load(&questions.model).await?;
            Ok(self
                .clone()
                .stream(questions, model, cancelled, permit)
                .boxed())
        };
        reply(begin.await)
    }

    async fn score_answers(
        &self,
        request: Request<pb::ScoreAnswersRequest>,
    ) -> Reply<pb::ScoreAnswersResponse> {
        let answers = scores::score(request.into_inner());
        reply(answers.map(|answers| pb::ScoreAnswersResponse { answers }))
    }

    async fn create_evaluation_job(
        &self,
        request: Request<pb::CreateEvaluationJobRequest>,
    ) -> Reply<pb::CreateEvaluationJobResponse> {
        let pb::CreateEvaluationJobRequest { request_id, spec } = request.into_inner();
        let job = self.evaluations.create(&request_id, spec).await.map(Some);
        reply(job.map(|job| pb::CreateEvaluationJobResponse { job }))
    }

    async fn get_evaluation_job(
        &self,
        request: Request<pb::GetEvaluationJobRequest>,
    ) -> Reply<pb::GetEvaluationJobResponse> {
        let job = self.evaluations.get(&request.get_ref().id).map(Some);
        reply(job.map(|job| pb::GetEvaluationJobResponse { job }))
    }

    async fn list_evaluation_jobs(
        &self,
        request: Request<pb::ListEvaluationJobsRequest>,
    ) -> Reply<pb::ListEvaluationJobsResponse> {
        let request = request.get_ref();
        let page = self
            .evaluations
            .list(request.page_size, &request.page_token);
        reply(
            page.map(|(jobs, next_page_token)| pb::ListEvaluationJobsResponse {
                jobs,
                next_page_token,
            }),
        )
    }

    async fn cancel_evaluation_job(
        &self,
        request: Request<pb::CancelEvaluationJobRequest>,
    ) -> Reply<pb::CancelEvaluationJobResponse> {
        let job = self
            .evaluations
            .cancel(&request.get_ref().id)
            .await
            .map(Some);
        reply(job.map(|job| pb::CancelEvaluationJobResponse { job }))
    }

    async fn watch_evaluation_job(
        &self,
        request: Request<pb::WatchEvaluationJobRequest>,
    ) -> Reply<Self::WatchEvaluationJobStream> {
        let draining = RequestContext::of(&request).draining();
        let jobs = self.evaluations.watch(&request.get_ref().id, draining);
        let message = |job| Ok(pb::WatchEvaluationJobResponse { job: Some(job) });
        reply(jobs.map(|jobs| jobs.map(message).boxed()))
    }

    async fn create_benchmark_job(
        &self,
        request: Request<pb::CreateBenchmarkJobRequest>,
    ) -> Reply<pb::CreateBenchmarkJobResponse> {
        let pb::CreateBenchmarkJobRequest { request_id, spec } = request.into_inner();
        let job = self.making.create(&request_id, spec).await.map(Some);
        reply(job.map(|job| pb::CreateBenchmarkJobResponse { job }))
    }

    async fn get_benchmark_job(
        &self,
        request: Request<pb::GetBenchmarkJobRequest>,
    ) -> Reply<pb::GetBenchmarkJobResponse> {
        let job = self.making.get(&request.get_ref().id).map(Some);
        reply(job.map(|job| pb::GetBenchmarkJobResponse { job }))
    }

    async fn list_benchmark_jobs(
        &self,
        request: Request<pb::ListBenchmarkJobsRequest>,
    ) -> Reply<pb::ListBenchmarkJobsResponse> {
        let request = request.get_ref();
        let page = self.making.list(request.page_size, &request.page_token);
        reply(
            page.map(|(jobs, next_page_token)| pb::ListBenchmarkJobsResponse {
                jobs,
                next_page_token,
            }),
        )
    }

    async fn cancel_benchmark_job(
        &self,
        request: Request<pb::CancelBenchmarkJobRequest>,
    ) -> Reply<pb::CancelBenchmarkJobResponse> {
        let job = self.making.cancel(&request.get_ref().id).await.map(Some);
        reply(job.map(|job| pb::CancelBenchmarkJobResponse { job }))
    }

    async fn watch_benchmark_job(
        &self,
        request: Request<pb::WatchBenchmarkJobRequest>,
    ) -> Reply<Self::WatchBenchmarkJobStream> {
        let draining = RequestContext::of(&request).draining();
        let jobs = self.making.watch(&request.get_ref().id, draining);
        let message = |job| Ok(pb::WatchBenchmarkJobResponse { job: Some(job) });
        reply(jobs.map(|jobs| jobs.map(message).boxed()))
    }
}
