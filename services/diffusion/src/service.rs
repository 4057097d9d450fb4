//! The gRPC edge of `DiffusionService`.

use std::pin::Pin;
use std::sync::Arc;

use models::stable_diffusion::Pipeline;
use proto::dataset::v1 as dataset;
use proto::diffusion::v1 as pb;
use proto::diffusion::v1::diffusion_service_server::DiffusionService;
use runtime::{RequestContext, item_failure, respond};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::engine::{Engine, Event, Events, Ticket};
use crate::error::Error;
use crate::models_served::Served;
use crate::request::{Wanted, scheduler_value, wanted};

/// Progress messages of one call that may wait for a slow reader; more are left out.
const PROGRESS_ROOM: usize = 64;
/// Models per page when the request says 0, and at most.
const PAGE_SIZES: (usize, usize) = (50, 100);
/// What this version can do beyond rendering.
const FEATURES: [&str; 4] = ["webui_prompts", "negative_prompts", "progress", "sizes"];

/// The service.
pub(crate) struct Diffusion {
    served: Arc<Served>,
    engine: Engine,
    max_items: usize,
}

impl Diffusion {
    pub(crate) fn new(served: Arc<Served>, engine: Engine, max_items: usize) -> Self {
        Self {
            served,
            engine,
            max_items,
        }
    }

    fn generate(
        &self,
        request: pb::GenerateImagesRequest,
        context: &RequestContext,
    ) -> Result<mpsc::Receiver<(String, Event)>, Error> {
        let pipeline = self.served.pipeline(&request.model)?;
        let report_progress = request.report_progress;
        let wanted = wanted(request, &pipeline, self.max_items)?;
        let (sender, receiver) = mpsc::channel(wanted.len() + PROGRESS_ROOM);
        let mut tickets = Vec::new();
        let reserved = wanted.len();
        for Wanted { sample_id, request } in wanted {
            match request {
                Ok(request) => tickets.push(Ticket {
                    pipeline: pipeline.clone(),
                    request,
                    context: context.clone(),
                    events: Events::new(sample_id, sender.clone(), reserved, report_progress),
                }),
                Err(error) => {
                    // The channel is empty and has a place for every end.
                    let _fits = sender.try_send((sample_id, Event::End(Box::new(Err(error)))));
                }
            }
        }
        self.engine.submit(tickets)?;
        Ok(receiver)
    }
}

#[tonic::async_trait]
impl DiffusionService for Diffusion {
    type GenerateImagesStream =
        Pin<Box<dyn Stream<Item = Result<pb::GenerateImagesResponse, Status>> + Send>>;

    async fn get_capabilities(
        &self,
        _: Request<pb::GetCapabilitiesRequest>,
    ) -> Result<Response<pb::GetCapabilitiesResponse>, Status> {
        let has_scorer = !self.served.scorers().is_empty();
        let scoring = ["alignment", "image_embedding"]
            .iter()
            .filter(|_| has_scorer);
        let safety = self.served.safety().map(|_| &"safety");
        let capabilities = dataset::Capabilities {
            service: "diptych.diffusion.v1.DiffusionService".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: "candle".to_owned(),
            models: self.served.pipelines().iter().map(|p| info(p)).collect(),
            abilities: Vec::new(),
            features: FEATURES
                .iter()
                .chain(scoring)
                .chain(safety)
                .map(|f| (*f).to_owned())
                .collect(),
            max_items_per_request: u32::try_from(self.max_items).unwrap_or(u32::MAX),
            measuring_models: measuring_models(&self.served),
        };
        Ok(Response::new(pb::GetCapabilitiesResponse {
            capabilities: Some(capabilities),
        }))
    }

    async fn list_models(
        &self,
        request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let pb::ListModelsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let page =
            page(self.served.pipelines(), page_size, &page_token).map_err(|e| respond(&e))?;
        Ok(Response::new(page))
    }

    async fn generate_images(
        &self,
        request: Request<pb::GenerateImagesRequest>,
    ) -> Result<Response<Self::GenerateImagesStream>, Status> {
        let context = RequestContext::of(&request);
        let events = self
            .generate(request.into_inner(), &context)
            .map_err(|e| respond(&e))?;
        let replies =
            ReceiverStream::new(events).map(|(sample_id, event)| Ok(reply(sample_id, event)));
        Ok(Response::new(Box::pin(replies)))
    }
}

fn reply(sample_id: String, event: Event) -> pb::GenerateImagesResponse {
    use pb::generate_images_response::Result as Outcome;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let result = match event {
        Event::Progress {
            done,
            total,
            queue_position,
        } => Outcome::Progress(pb::StepProgress {
            done_step_count: count(done),
            step_count: count(total),
            queue_position: count(queue_position),
        }),
        Event::End(ended) => match *ended {
            Ok(rendered) => Outcome::Image(pb::GeneratedImage {
                prompt_truncated: rendered.prompt_truncated,
                image: Some(rendered.into_image(sample_id.clone())),
                safety: pb::SafetyVerdict::NotChecked.into(),
            }),
            Err(error) => Outcome::Failure(item_failure(&error)),
        },
    };
    pb::GenerateImagesResponse {
        sample_id,
        result: Some(result),
    }
}

fn info(pipeline: &Pipeline) -> dataset::ModelInfo {
    dataset::ModelInfo {
        name: pipeline.name().to_owned(),
        sha256: pipeline.sha256().to_owned(),
        architecture: "StableDiffusionPipeline".to_owned(),
        parameter_count: pipeline.parameter_count(),
    }
}

fn measuring_models(served: &Served) -> Vec<dataset::ModelInfo> {
    let scorers = served.scorers().iter().map(|scorer| dataset::ModelInfo {
        name: scorer.name.clone(),
        sha256: scorer.model.sha256().to_owned(),
        architecture: scorer.model.architecture().to_owned(),
        parameter_count: scorer.model.parameter_count(),
    });
    let safety = served.safety().map(|safety| dataset::ModelInfo {
        name: safety.name.clone(),
        sha256: safety.model.sha256().to_owned(),
        architecture: safety.model.architecture().to_owned(),
        parameter_count: safety.model.parameter_count(),
    });
    scorers.chain(safety).collect()
}

fn model(pipeline: &Pipeline) -> pb::DiffusionModel {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let scheduler = pipeline
        .scheduler_name(None)
        .map_or(pb::Scheduler::Unspecified, scheduler_value);
    pb::DiffusionModel {
        info: Some(info(pipeline)),
        default_width_px: count(pipeline.default_side_px()),
        default_height_px: count(pipeline.default_side_px()),
        size_multiple_px: count(pipeline.size_multiple_px()),
        default_scheduler: scheduler.into(),
    }
}

/// A page token is the place of the page's first model.
fn page(all: &[Arc<Pipeline>], size: u32, token: &str) -> Result<pb::ListModelsResponse, Error> {
    let (usual, most) = PAGE_SIZES;
    let size = if size == 0 { usual } else { size as usize };
    if size > most {
        return Err(Error::invalid(
            "page_size",
            format!("{size} is not within 1 to {most}"),
        ));
    }
    let first = if token.is_empty() {
        Some(0)
    } else {
        token.parse().ok().filter(|n| *n > 0 && *n < all.len())
    };
    let Some(first) = first else {
        return Err(Error::invalid("page_token", "was not given by this call"));
    };
    let end = (first + size).min(all.len());
    let next_page_token = if end < all.len() {
        end.to_string()
    } else {
        String::new()
    };
    let models = all[first..end].iter().map(|p| model(p)).collect();
    Ok(pb::ListModelsResponse {
        models,
        next_page_token,
    })
}
