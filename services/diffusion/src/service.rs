//! The gRPC edge of `DiffusionService`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use models::stable_diffusion::Pipeline;
use proto::dataset::v1 as dataset;
use proto::diffusion::v1 as pb;
use proto::diffusion::v1::diffusion_service_server::DiffusionService;
use runtime::artefact::Roots;
use runtime::{RequestContext, item_failure, respond};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::catalogue::page;
use crate::engine::{Caller, Engine, Event, Events, SafetyRule, Ticket};
use crate::error::Error;
use crate::models_served::Served;
use crate::remote::{self, Job, Remote};
use crate::request::{self, Bounds, Call, Place, Wanted};
use crate::shelf::{Burden, Lease};

/// Progress messages of one call that may wait for a slow reader; more are left out.
const PROGRESS_ROOM: usize = 64;
/// The longest name of a caller.
const MAX_CLIENT_BYTES: usize = 64;
/// What this version can do beyond rendering, on the device of this process, and by a server that is
/// given settings, or not.
const FEATURES: [&str; 10] = [
    "webui_prompts",
    "negative_prompts",
    "progress",
    "sizes",
    "seeded",
    "image_to_image",
    "inpainting",
    "image_count",
    "guidance_rescale",
    "clip_skip",
];
const REMOTE_FEATURES: [&str; 4] = ["sizes", "image_count", "negative_prompts", "seeded"];

/// The service. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Diffusion {
    served: Arc<Served>,
    painter: Painter,
    roots: Arc<Roots>,
    bounds: Bounds,
}

/// Who paints.
#[derive(Clone)]
pub(crate) enum Painter {
    /// The device of this process.
    Device(Arc<Engine>),
    /// A server elsewhere.
    Remote(Remote),
}

impl Painter {
    fn name(&self) -> &'static str {
        match self {
            Self::Device(_) => "candle",
            Self::Remote(_) => "openai-images",
        }
    }

    fn features(&self) -> &'static [&'static str] {
        match self {
            Self::Device(_) => &FEATURES,
            Self::Remote(remote) if remote.options().takes_settings => &REMOTE_FEATURES,
            Self::Remote(_) => &REMOTE_FEATURES[..2],
        }
    }
}

/// A call, and what came along with it.
struct Asked {
    request: pb::GenerateImagesRequest,
    /// Place of its model.
    slot: usize,
    caller: Caller,
    context: RequestContext,
}

impl Diffusion {
    pub(crate) fn new(
        served: Arc<Served>,
        painter: Painter,
        roots: Arc<Roots>,
        bounds: Bounds,
    ) -> Self {
        Self {
            served,
            painter,
            roots,
            bounds,
        }
    }

    async fn generate(
        &self,
        asked: Asked,
        engine: &Engine,
        pipeline: &Lease<Pipeline>,
    ) -> Result<mpsc::Receiver<(Place, Event)>, Error> {
        let Asked {
            request,
            slot,
            caller,
            context,
        } = asked;
        let report_progress = request.report_progress;
        let Call {
            wanted,
            delivers_unsafe,
        } = request::read(request, pipeline, &self.roots, self.bounds).await?;
        let safety = SafetyRule {
            checker: self.served.checker(slot).cloned(),
            delivers_unsafe,
        };
        let (sender, receiver) = mpsc::channel(wanted.len() + PROGRESS_ROOM);
        let mut tickets = Vec::new();
        let reserved = wanted.len();
        for Wanted { place, request } in wanted {
            match request {
                Ok(request) => tickets.push(Ticket {
                    pipeline: pipeline.clone(),
                    request,
                    safety: safety.clone(),
                    caller: caller.clone(),
                    context: context.clone(),
                    events: Events::new(place, sender.clone(), reserved, report_progress),
                }),
                Err(error) => {
                    // The channel is empty and has a place for every end.
                    let _fits = sender.try_send((place, Event::End(Box::new(Err(error)))));
                }
            }
        }
        engine.submit(tickets)?;
        Ok(receiver)
    }

    /// The same by a remote model.
    fn generate_remotely(
        &self,
        asked: Asked,
        remote: &Remote,
    ) -> Result<mpsc::Receiver<(Place, Event)>, Error> {
        let Asked {
            request,
            caller,
            context,
            ..
        } = asked;
        let report_progress = request.report_progress;
        let wanted = remote::wanted(request, remote.options(), self.bounds)?;
        let reserved = wanted.len();
        let (sender, receiver) = mpsc::channel(reserved + PROGRESS_ROOM);
        let jobs = wanted.into_iter().map(|(place, request)| Job {
            request,
            caller: caller.clone(),
            context: context.clone(),
            events: Events::new(place, sender.clone(), reserved, report_progress),
        });
        remote.submit(jobs.collect())?;
        Ok(receiver)
    }

    /// Waits for a model that is not in memory; from then on like [`Diffusion::generate`]. What would
    /// have refused the call ends its stream.
    async fn load_and_generate(
        self,
        asked: Asked,
        engine: Arc<Engine>,
        replies: mpsc::Sender<Reply>,
    ) {
        let mut events = match self.lease_and_generate(asked, &engine, &replies).await {
            Ok(events) => events,
            Err(error) => return drop(replies.send(Err(respond(&error))).await),
        };
        while let Some((place, event)) = events.recv().await {
            if replies.send(Ok(reply(place, event))).await.is_err() {
                return;
            }
        }
    }

    async fn lease_and_generate(
        &self,
        asked: Asked,
        engine: &Engine,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<mpsc::Receiver<(Place, Event)>, Error> {
        let items = &asked.request.items;
        let burden = Burden {
            pictures: request::picture_count(items, self.bounds)?,
            bytes: request::file_bytes(items),
        };
        let places: Vec<Place> = match asked.request.report_progress {
            true => items.iter().flat_map(request::places).collect(),
            false => Vec::new(),
        };
        let tell = |before: usize| {
            for place in &places {
                let _a_slow_reader_misses_it = replies.try_send(Ok(loading(place, before)));
            }
        };
        let shelf = self.served.shelf()?;
        let lease = shelf.lease(asked.slot, burden, tell).await?;
        self.generate(asked, engine, &lease).await
    }

    /// The stream of a call whose model is not in memory.
    fn later(&self, asked: Asked, engine: &Arc<Engine>) -> ReceiverStream<Reply> {
        let (sender, replies) = mpsc::channel(PROGRESS_ROOM);
        let context = asked.context.clone();
        let (this, engine) = (self.clone(), engine.clone());
        let work = this.load_and_generate(asked, engine, sender.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = context.scope(work) => {}
            }
        });
        ReceiverStream::new(replies)
    }
}

/// One message of an answer.
type Reply = Result<pb::GenerateImagesResponse, Status>;

#[tonic::async_trait]
impl DiffusionService for Diffusion {
    type GenerateImagesStream = Pin<Box<dyn Stream<Item = Reply> + Send>>;

    async fn get_capabilities(
        &self,
        _: Request<pb::GetCapabilitiesRequest>,
    ) -> Result<Response<pb::GetCapabilitiesResponse>, Status> {
        let has_scorer = !self.served.scorers().is_empty();
        let scoring = ["alignment", "image_embedding"]
            .iter()
            .filter(|_| has_scorer);
        let safety = self.served.safety().map(|_| &"safety");
        let checked = self.served.checks_safety().then_some(&"safety_checked");
        let capabilities = dataset::Capabilities {
            service: "diptych.diffusion.v1.DiffusionService".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: self.painter.name().to_owned(),
            models: self
                .served
                .models()
                .iter()
                .filter_map(|model| model.info.clone())
                .collect(),
            abilities: Vec::new(),
            features: self
                .painter
                .features()
                .iter()
                .chain(scoring)
                .chain(safety)
                .chain(checked)
                .map(|f| (*f).to_owned())
                .collect(),
            max_items_per_request: u32::try_from(self.bounds.max_items).unwrap_or(u32::MAX),
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
        let page = page(self.served.models(), page_size, &page_token).map_err(|e| respond(&e))?;
        Ok(Response::new(page))
    }

    async fn generate_images(
        &self,
        request: Request<pb::GenerateImagesRequest>,
    ) -> Result<Response<Self::GenerateImagesStream>, Status> {
        let context = RequestContext::of(&request);
        let connection = request.remote_addr();
        let request = request.into_inner();
        let caller = caller(&request.client, connection).map_err(|e| respond(&e))?;
        let slot = self.served.find(&request.model).map_err(|e| respond(&e))?;
        let asked = Asked {
            request,
            slot,
            caller,
            context,
        };
        let events = match &self.painter {
            Painter::Remote(remote) => self.generate_remotely(asked, remote),
            Painter::Device(engine) => {
                let shelf = self.served.shelf().map_err(|e| respond(&e))?;
                let Some(pipeline) = shelf.try_lease(slot) else {
                    return Ok(Response::new(Box::pin(self.later(asked, engine))));
                };
                self.generate(asked, engine, &pipeline).await
            }
        };
        let events = events.map_err(|e| respond(&e))?;
        let replies = ReceiverStream::new(events).map(|(place, event)| Ok(reply(place, event)));
        Ok(Response::new(Box::pin(replies)))
    }
}

/// Whose turns a request takes.
fn caller(client: &str, connection: Option<SocketAddr>) -> Result<Caller, Error> {
    if client.len() > MAX_CLIENT_BYTES {
        let rule = format!("{} bytes, at most {MAX_CLIENT_BYTES}", client.len());
        return Err(Error::invalid("client", rule));
    }
    Ok(match client {
        "" => Caller::Connection(connection),
        name => Caller::Named(name.to_owned()),
    })
}

fn reply(place: Place, event: Event) -> pb::GenerateImagesResponse {
    use pb::generate_images_response::Result as Outcome;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let Place {
        sample_id,
        image_index,
    } = place;
    let result = match event {
        Event::Progress {
            done,
            total,
            queue_position,
        } => Outcome::Progress(pb::StepProgress {
            done_step_count: count(done),
            step_count: count(total),
            queue_position: count(queue_position),
            loading: false,
        }),
        Event::End(ended) => match *ended {
            Ok(rendered) => Outcome::Image(pb::GeneratedImage {
                prompt_truncated: rendered.prompt_truncated,
                safety: rendered.safety.into(),
                seed: rendered.seed,
                image: Some(rendered.into_image(sample_id.clone())),
            }),
            Err(error) => Outcome::Failure(item_failure(&error)),
        },
    };
    pb::GenerateImagesResponse {
        sample_id,
        result: Some(result),
        image_index,
    }
}

fn loading(place: &Place, before: usize) -> pb::GenerateImagesResponse {
    let progress = pb::StepProgress {
        queue_position: u32::try_from(before).unwrap_or(u32::MAX),
        loading: true,
        ..pb::StepProgress::default()
    };
    pb::GenerateImagesResponse {
        sample_id: place.sample_id.clone(),
        result: Some(pb::generate_images_response::Result::Progress(progress)),
        image_index: place.image_index,
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
