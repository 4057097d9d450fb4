//! The gRPC edge: requests in, checked; results and errors out.

use std::{pin::Pin, sync::Arc};

use async_stream::try_stream;
use futures::{Stream, StreamExt as _};
use image::RgbImage;
use models::weights::Weights;
use proto::{
    dataset::v1::{Capabilities, Image, ModelInfo, image::Content},
    eval::v1::{
        self as pb, answer_questions_response as answered, eval_service_server::EvalService,
    },
    job::v1 as job_pb,
};
use runtime::{
    RequestContext, artefact, item_failure,
    jobs::{Jobs, Settings, Snapshot},
    respond,
};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    NAME,
    answering::{Answering, Ask, BATCH_SIZE, Model, Outcome, blocking},
    benchmark::{Benchmark, Picture, Question},
    error::Error,
    evaluation::{Evaluations, Progress},
    making::Making,
    options::Options,
    places::Places,
    scoring::judge,
    spec::{self, BenchmarkSpec, EvaluationSpec, ModelRef},
};

/// Pictures that one question may show.
const MAX_IMAGES_PER_ITEM: usize = 8;
/// Longest question, in bytes.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Eval {
    places: Arc<Places>,
    answering: Arc<Answering>,
    jobs: Option<(Jobs<Evaluations>, Jobs<Making>)>,
    streams: Arc<Semaphore>,
    max_streams: usize,
    max_items: u32,
    capabilities: Arc<OnceCell<Capabilities>>,
}

type Reply<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Eval {
    /// Takes up the jobs that an earlier process left.
    pub(crate) fn open(
        options: &Options,
        places: Arc<Places>,
        answering: Arc<Answering>,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let settings = |job_kind, folder| Settings {
            service_name: NAME.into(),
            job_kind,
            folder,
            queue_capacity: options.queue_capacity,
            kept_jobs: options.kept_jobs,
        };
        let jobs = match options.artefacts.artefact_roots.is_empty() {
            true => None,
            false => {
                let folder = places.roots().place("jobs")?;
                let evaluations = Evaluations {
                    answering: Arc::clone(&answering),
                    places: Arc::clone(&places),
                };
                let making = Making {
                    places: Arc::clone(&places),
                };
                Some((
                    Jobs::open(
                        evaluations,
                        settings("evaluation", folder.clone()),
                        stop.clone(),
                    )?,
                    Jobs::open(making, settings("benchmark", folder), stop)?,
                ))
            }
        };
        let streams = Arc::new(Semaphore::new(options.max_streams));
        let (max_streams, max_items) = (options.max_streams, options.max_items);
        Ok(Self {
            places,
            answering,
            jobs,
            streams,
            max_streams,
            max_items,
            capabilities: Arc::default(),
        })
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

    fn evaluations(&self) -> Result<&Jobs<Evaluations>, Error> {
        self.jobs
            .as_ref()
            .map(|(evaluations, _)| evaluations)
            .ok_or_else(|| artefact::Error::NoRoot.into())
    }

    fn making(&self) -> Result<&Jobs<Making>, Error> {
        self.jobs
            .as_ref()
            .map(|(_, making)| making)
            .ok_or_else(|| artefact::Error::NoRoot.into())
    }

    async fn capabilities(&self) -> Result<&Capabilities, Error> {
        let places = Arc::clone(&self.places);
        let max_items = self.max_items;
        let look = || async move { blocking(move || capabilities(&places, max_items)).await? };
        self.capabilities.get_or_try_init(look).await
    }

    /// A place for one more stream of answers.
    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| Error::Busy(self.max_streams))
    }

    async fn check(&self, spec: &EvaluationSpec) -> Result<(), Error> {
        let (places, spec) = (Arc::clone(&self.places), spec.clone());
        blocking(move || {
            for model in spec
                .candidates
                .iter()
                .flat_map(|candidate| &candidate.models)
            {
                places.find_model(model)?;
            }
            spec.benchmarks
                .iter()
                .try_for_each(|reference| places.benchmark(reference).map(|_: Benchmark| ()))?;
            places.output(&spec.output).map(drop)
        })
        .await?
    }

    async fn check_sources(&self, spec: &BenchmarkSpec) -> Result<(), Error> {
        let (places, spec) = (Arc::clone(&self.places), spec.clone());
        blocking(move || {
            places.abilities()?;
            for data in std::iter::once(&spec.source).chain(&spec.training_data) {
                places.roots().locate(&data.uri)?;
            }
            places.output(&spec.output).map(drop)
        })
        .await?
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
        let capabilities = self
            .capabilities()
            .await
            .map_err(|error| respond(&error))?
            .clone();
        Ok(Response::new(pb::GetCapabilitiesResponse {
            capabilities: Some(capabilities),
        }))
    }

    async fn answer_questions(
        &self,
        request: Request<pb::AnswerQuestionsRequest>,
    ) -> Reply<Self::AnswerQuestionsStream> {
        let context = RequestContext::of(&request);
        let questions = Questions::try_from((request.into_inner(), self.max_items))
            .map_err(|error| respond(&error))?;
        let permit = self.stream_permit().map_err(|error| respond(&error))?;
        let model = self
            .load(&questions.model)
            .await
            .map_err(|error| respond(&error))?;
        Ok(Response::new(Box::pin(self.clone().stream(
            questions,
            model,
            context.cancelled(),
            permit,
        ))))
    }

    async fn score_answers(
        &self,
        request: Request<pb::ScoreAnswersRequest>,
    ) -> Reply<pb::ScoreAnswersResponse> {
        let answers = score(request.into_inner()).map_err(|error| respond(&error))?;
        Ok(Response::new(pb::ScoreAnswersResponse { answers }))
    }

    async fn create_evaluation_job(
        &self,
        request: Request<pb::CreateEvaluationJobRequest>,
    ) -> Reply<pb::CreateEvaluationJobResponse> {
        let pb::CreateEvaluationJobRequest { request_id, spec } = request.into_inner();
        let create = async {
            let spec = EvaluationSpec::try_from(
                spec.ok_or_else(|| Error::invalid("spec", "must be given"))?,
            )?;
            let jobs = self.evaluations()?;
            self.check(&spec).await?;
            Ok::<_, Error>(jobs.create(&request_id, spec).await?)
        };
        let job = create.await.map_err(|error| respond(&error))?;
        Ok(Response::new(pb::CreateEvaluationJobResponse {
            job: Some(evaluation_job(&job)),
        }))
    }

    async fn get_evaluation_job(
        &self,
        request: Request<pb::GetEvaluationJobRequest>,
    ) -> Reply<pb::GetEvaluationJobResponse> {
        let get = || Ok::<_, Error>(self.evaluations()?.get(&request.get_ref().id)?);
        let job = get().map_err(|error| respond(&error))?;
        Ok(Response::new(pb::GetEvaluationJobResponse {
            job: Some(evaluation_job(&job)),
        }))
    }

    async fn list_evaluation_jobs(
        &self,
        request: Request<pb::ListEvaluationJobsRequest>,
    ) -> Reply<pb::ListEvaluationJobsResponse> {
        let pb::ListEvaluationJobsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let list = || Ok::<_, Error>(self.evaluations()?.list(page_size, &page_token)?);
        let page = list().map_err(|error| respond(&error))?;
        let jobs = page.jobs.iter().map(evaluation_job).collect();
        Ok(Response::new(pb::ListEvaluationJobsResponse {
            jobs,
            next_page_token: page.next_page_token,
        }))
    }

    async fn cancel_evaluation_job(
        &self,
        request: Request<pb::CancelEvaluationJobRequest>,
    ) -> Reply<pb::CancelEvaluationJobResponse> {
        let cancel =
            async { Ok::<_, Error>(self.evaluations()?.cancel(&request.get_ref().id).await?) };
        let job = cancel.await.map_err(|error| respond(&error))?;
        Ok(Response::new(pb::CancelEvaluationJobResponse {
            job: Some(evaluation_job(&job)),
        }))
    }

    async fn watch_evaluation_job(
        &self,
        request: Request<pb::WatchEvaluationJobRequest>,
    ) -> Reply<Self::WatchEvaluationJobStream> {
        let draining = RequestContext::of(&request).draining();
        let watch = || Ok::<_, Error>(self.evaluations()?.watch(&request.get_ref().id)?);
        let jobs = watch().map_err(|error| respond(&error))?;
        let messages = jobs.map(|job| {
            Ok(pb::WatchEvaluationJobResponse {
                job: Some(evaluation_job(&job)),
            })
        });
        Ok(Response::new(Box::pin(
            messages.take_until(draining.cancelled_owned()),
        )))
    }

    async fn create_benchmark_job(
        &self,
        request: Request<pb::CreateBenchmarkJobRequest>,
    ) -> Reply<pb::CreateBenchmarkJobResponse> {
        let pb::CreateBenchmarkJobRequest { request_id, spec } = request.into_inner();
        let create = async {
            let spec = BenchmarkSpec::try_from(
                spec.ok_or_else(|| Error::invalid("spec", "must be given"))?,
            )?;
            let jobs = self.making()?;
            self.check_sources(&spec).await?;
            Ok::<_, Error>(jobs.create(&request_id, spec).await?)
        };
        let job = create.await.map_err(|error| respond(&error))?;
        Ok(Response::new(pb::CreateBenchmarkJobResponse {
            job: Some(benchmark_job(&job)),
        }))
    }

    async fn get_benchmark_job(
        &self,
        request: Request<pb::GetBenchmarkJobRequest>,
    ) -> Reply<pb::GetBenchmarkJobResponse> {
        let get = || Ok::<_, Error>(self.making()?.get(&request.get_ref().id)?);
        let job = get().map_err(|error| respond(&error))?;
        Ok(Response::new(pb::GetBenchmarkJobResponse {
            job: Some(benchmark_job(&job)),
        }))
    }

    async fn list_benchmark_jobs(
        &self,
        request: Request<pb::ListBenchmarkJobsRequest>,
    ) -> Reply<pb::ListBenchmarkJobsResponse> {
        let pb::ListBenchmarkJobsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let list = || Ok::<_, Error>(self.making()?.list(page_size, &page_token)?);
        let page = list().map_err(|error| respond(&error))?;
        let jobs = page.jobs.iter().map(benchmark_job).collect();
        Ok(Response::new(pb::ListBenchmarkJobsResponse {
            jobs,
            next_page_token: page.next_page_token,
        }))
    }

    async fn cancel_benchmark_job(
        &self,
        request: Request<pb::CancelBenchmarkJobRequest>,
    ) -> Reply<pb::CancelBenchmarkJobResponse> {
        let cancel = async { Ok::<_, Error>(self.making()?.cancel(&request.get_ref().id).await?) };
        let job = cancel.await.map_err(|error| respond(&error))?;
        Ok(Response::new(pb::CancelBenchmarkJobResponse {
            job: Some(benchmark_job(&job)),
        }))
    }

    async fn watch_benchmark_job(
        &self,
        request: Request<pb::WatchBenchmarkJobRequest>,
    ) -> Reply<Self::WatchBenchmarkJobStream> {
        let draining = RequestContext::of(&request).draining();
        let watch = || Ok::<_, Error>(self.making()?.watch(&request.get_ref().id)?);
        let jobs = watch().map_err(|error| respond(&error))?;
        let messages = jobs.map(|job| {
            Ok(pb::WatchBenchmarkJobResponse {
                job: Some(benchmark_job(&job)),
            })
        });
        Ok(Response::new(Box::pin(
            messages.take_until(draining.cancelled_owned()),
        )))
    }
}

/// A checked request for answers.
struct Questions {
    model: ModelRef,
    items: Vec<pb::QuestionItem>,
    max_new_token_count: u32,
}

impl TryFrom<(pb::AnswerQuestionsRequest, u32)> for Questions {
    type Error = Error;

    fn try_from((request, max_items): (pb::AnswerQuestionsRequest, u32)) -> Result<Self, Error> {
        let pb::AnswerQuestionsRequest {
            model,
            items,
            max_new_token_count,
        } = request;
        if items.is_empty() || items.len() > max_items as usize {
            return Err(Error::invalid(
                "items",
                format!("there must be 1 to {max_items}"),
            ));
        }
        Ok(Self {
            model: spec::single_model("model", model)?,
            items,
            max_new_token_count: spec::new_token_count("max_new_token_count", max_new_token_count)?,
        })
    }
}

impl Eval {
    fn stream(
        self,
        questions: Questions,
        model: Arc<Model>,
        cancelled: CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> impl Stream<Item = Result<pb::AnswerQuestionsResponse, Status>> {
        try_stream! {
            let _permit = permit;
            for batch in questions.items.chunks(BATCH_SIZE) {
                let (places, items) = (Arc::clone(&self.places), batch.to_vec());
                let asks = blocking(move || items.iter().map(|item| ask(&places, item)).collect::<Vec<_>>())
                    .await
                    .map_err(|error| respond(&error))?;
                let good = asks.iter().filter_map(|ask| ask.as_ref().ok().cloned()).collect();
                let outcomes = self.answering.answer(&model, good, questions.max_new_token_count, &cancelled).await;
                let mut outcomes = outcomes.map_err(|error| respond(&error))?.into_iter();
                for (item, ask) in batch.iter().zip(asks) {
                    let outcome = match ask {
                        Ok(_) => outcomes.next().unwrap_or_else(|| Err(Arc::new(Error::Cancelled))),
                        Err(error) => Err(Arc::new(error)),
                    };
                    yield response(&item.question_id, outcome);
                }
            }
        }
    }
}

/// An item with its pictures read.
fn ask(places: &Places, item: &pb::QuestionItem) -> Result<Ask, Error> {
    let pb::QuestionItem { images, text, .. } = item;
    if text.trim().is_empty() || text.len() > MAX_TEXT_BYTES {
        return Err(Error::invalid(
            "text",
            format!("must have 1 to {MAX_TEXT_BYTES} bytes"),
        ));
    }
    if images.len() > MAX_IMAGES_PER_ITEM {
        return Err(Error::invalid(
            "images",
            format!("there may be at most {MAX_IMAGES_PER_ITEM}"),
        ));
    }
    let pictures = images
        .iter()
        .enumerate()
        .map(|(index, image)| picture(places, index, image));
    Ok(Ask {
        pictures: pictures.collect::<Result<_, _>>()?,
        text: text.clone(),
    })
}

fn picture(places: &Places, index: usize, image: &Image) -> Result<Arc<Picture>, Error> {
    let field = format!("images[{index}]");
    let decoded = match &image.content {
        Some(Content::Data(bytes)) => Picture::decode(bytes),
        Some(Content::Artefact(artefact)) => {
            let path = places.roots().resolve(artefact)?;
            Picture::decode(&std::fs::read(&path).map_err(Error::io("read", &path))?)
        }
        None => Err("it has no content".into()),
    };
    Ok(Arc::new(
        decoded.map_err(|reason| Error::invalid(field, reason))?,
    ))
}

fn response(question_id: &str, outcome: Outcome) -> pb::AnswerQuestionsResponse {
    let result = match outcome {
        Ok(answer) => answered::Result::Answer(pb::Answer {
            text: answer.text,
            rendered_prompt: answer.rendered_prompt,
            token_count: answer.token_count,
        }),
        Err(error) => answered::Result::Failure(item_failure(error.as_ref())),
    };
    pb::AnswerQuestionsResponse {
        question_id: question_id.to_owned(),
        result: Some(result),
    }
}

fn score(request: pb::ScoreAnswersRequest) -> Result<Vec<pb::ScoredAnswer>, Error> {
    let pb::ScoreAnswersRequest { questions, answers } = request;
    let mut known = std::collections::HashMap::new();
    for (index, question) in questions.into_iter().enumerate() {
        let field = format!("questions[{index}]");
        let question =
            Question::try_from(question).map_err(|reason| Error::invalid(&field, reason))?;
        if let Some(earlier) = known.insert(question.question_id.clone(), question) {
            return Err(Error::invalid(
                field,
                format!("question_id {:?} was given before", earlier.question_id),
            ));
        }
    }
    let judged = answers.into_iter().enumerate().map(|(index, answer)| {
        let question = known.get(&answer.question_id).ok_or_else(|| {
            Error::invalid(
                format!("answers[{index}]"),
                format!("there is no question {:?}", answer.question_id),
            )
        })?;
        Ok(pb::ScoredAnswer {
            score: judge(question, &answer.text).score(),
            ..answer
        })
    });
    judged.collect()
}

impl TryFrom<pb::BenchmarkQuestion> for Question {
    type Error = String;

    fn try_from(question: pb::BenchmarkQuestion) -> Result<Self, String> {
        let kind = question.kind();
        let pb::BenchmarkQuestion {
            question_id,
            ability,
            image,
            text,
            answers,
            ..
        } = question;
        if question_id.is_empty() {
            return Err("question_id is empty".into());
        }
        if answers.iter().all(|answer| answer.trim().is_empty()) {
            return Err("answers is empty: no answer could be right".into());
        }
        Ok(Self {
            question_id,
            ability,
            kind,
            image,
            text,
            answers,
        })
    }
}

fn capabilities(places: &Places, max_items: u32) -> Result<Capabilities, Error> {
    let models = places.models().iter().map(|(name, folder)| {
        let (sha256, _) = artefact::digest(folder)?;
        let weights =
            Weights::open_in(folder, &["model"]).map_err(|source| Error::model(name, source))?;
        let sizes = weights
            .keys()
            .filter_map(|key| weights.shape(key))
            .map(|shape| shape.iter().product::<usize>() as u64);
        Ok(ModelInfo {
            name: name.clone(),
            sha256,
            architecture: "LlavaForConditionalGeneration".into(),
            parameter_count: sizes.sum(),
        })
    });
    let served = [
        "keyword_scoring",
        "shuffled_pictures",
        "paired_bootstrap",
        "multi_image",
    ];
    let benchmarks = places
        .benchmark_names()
        .map(|name| format!("benchmark={name}"));
    Ok(Capabilities {
        service: "diptych.eval.v1.EvalService".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        backend: "candle".into(),
        models: models.collect::<Result<_, Error>>()?,
        abilities: Vec::new(),
        features: served
            .into_iter()
            .map(str::to_owned)
            .chain(benchmarks)
            .collect(),
        max_items_per_request: max_items,
    })
}

fn evaluation_job(snapshot: &Snapshot<Evaluations>) -> pb::EvaluationJob {
    let job = &snapshot.job;
    pb::EvaluationJob {
        job: Some(job_pb::Job::from(snapshot)),
        spec: Some(job.spec.clone().into()),
        progress: job.progress.map(Into::into),
        result: job.result.clone().map(Into::into),
    }
}

fn benchmark_job(snapshot: &Snapshot<Making>) -> pb::BenchmarkJob {
    let job = &snapshot.job;
    pb::BenchmarkJob {
        job: Some(job_pb::Job::from(snapshot)),
        spec: Some(job.spec.clone().into()),
        result: job.result.clone().map(Into::into),
    }
}

impl From<Progress> for pb::EvaluationProgress {
    fn from(progress: Progress) -> Self {
        let Progress {
            done_question_count,
            question_count,
            remaining_seconds,
        } = progress;
        Self {
            done_question_count,
            question_count,
            remaining_seconds,
        }
    }
}
