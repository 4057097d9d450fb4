//! A diffusion stage that draws squares by arithmetic: sound, but for one fault.

use std::{
    collections::HashSet,
    io::Cursor,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::{Stream, StreamExt as _, stream};
use image::{ImageFormat, Rgb, RgbImage};
use proto::{
    dataset::v1::{Capabilities, Image, ModelInfo, Provenance, image::Content},
    diffusion::v1::{
        diffusion_service_server::{DiffusionService, DiffusionServiceServer},
        generate_images_response::Result as Outcome,
        *,
    },
};
use runtime::{
    FieldViolation, Handle, Kind, Listener, Service, ServiceError, Telemetry,
    options::{ListenOptions, TelemetryOptions},
    respond,
};
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status, transport::Server};

/// What is wrong with a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    TellsNoBound,
    ListsNothing,
    TakesAnyToken,
    TakesNoItem,
    TakesTooMany,
    TakesRepeatedIds,
    TakesAnyId,
    TakesAnyModel,
    TakesAnyWidth,
    NamesNoField,
    EndsTwice,
    StatesFalseSize,
    StatesFalseHash,
    NamesNoSample,
    TellsNoSeed,
    SaysNothingOfSafety,
    DrawsByTheClock,
    DrawsByThePlace,
    DrawsWithoutSeed,
    ForgetsTheNegative,
    KeepsItsSize,
    TakesTwentySteps,
    IgnoresThePicture,
}

const SIDE_PX: u32 = 32;
const MULTIPLE_PX: u32 = 8;
const MAX_ITEMS: usize = 16;
const MODEL: &str = "squares";

/// Serves with all that the suite's own services have.
pub(crate) async fn serve(fault: Fault) -> Handle {
    let telemetry = Telemetry::start(&TelemetryOptions::default(), "diffusion").unwrap();
    let service = Service::new(&telemetry, proto::FILE_DESCRIPTOR_SET)
        .with(DiffusionServiceServer::new(Stage::new(fault)));
    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let warm_up = async { Ok::<(), std::io::Error>(()) };
    let mut handle = runtime::serve(service, listener, warm_up, Default::default())
        .await
        .unwrap();
    handle.ready().await.unwrap();
    handle
}

/// Serves the calls and nothing else: no health, no reflection, no deadline while it streams.
pub(crate) async fn serve_bare() -> String {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(socket);
    let stage = DiffusionServiceServer::new(Stage::new(Fault::None));
    tokio::spawn(
        Server::builder()
            .add_service(stage)
            .serve_with_incoming(incoming),
    );
    format!("http://{address}")
}

struct Stage {
    fault: Fault,
    drawn: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
#[error("the request is refused")]
struct Refused(Kind);

impl ServiceError for Refused {
    fn kind(&self) -> Kind {
        self.0.clone()
    }
}

impl Stage {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            drawn: AtomicU64::new(0),
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn refuse_if(&self, wrong: bool, field: &str, excuse: Option<Fault>) -> Result<(), Status> {
        if !wrong || excuse.is_some_and(|excuse| self.has(excuse)) {
            return Ok(());
        }
        let named = !self.has(Fault::NamesNoField);
        let violations = named.then(|| FieldViolation::new(field, "is wrong"));
        Err(respond(&Refused(Kind::InvalidArgument(
            violations.into_iter().collect(),
        ))))
    }

    fn check(&self, request: &GenerateImagesRequest) -> Result<SamplingSettings, Status> {
        if !request.model.is_empty() && request.model != MODEL && !self.has(Fault::TakesAnyModel) {
            return Err(respond(&Refused(Kind::NotFound)));
        }
        let items = &request.items;
        self.refuse_if(items.is_empty(), "items", Some(Fault::TakesNoItem))?;
        self.refuse_if(items.len() > MAX_ITEMS, "items", Some(Fault::TakesTooMany))?;
        let mut seen = HashSet::new();
        for item in items {
            let (id, sound) = ("items[0].sample_id", item.sample_id.len() == 32);
            self.refuse_if(!sound, id, Some(Fault::TakesAnyId))?;
            let is_new = seen.insert(&item.sample_id);
            self.refuse_if(!is_new, id, Some(Fault::TakesRepeatedIds))?;
            let (picture, excuse) = ("items[0].init_image", Fault::IgnoresThePicture);
            self.refuse_if(item.init_image.is_some(), picture, Some(excuse))?;
            self.refuse_if(item.image_count > 1, "items[0].image_count", None)?;
            let is_stray = item.strength != 0.0 && item.init_image.is_none();
            self.refuse_if(is_stray, "items[0].strength", None)?;
        }
        let settings = request.settings.unwrap_or_default();
        let SamplingSettings {
            width_px,
            height_px,
            ..
        } = settings;
        let fits = |side: u32| side <= 4 * SIDE_PX && side.is_multiple_of(MULTIPLE_PX);
        self.refuse_if(
            !fits(width_px),
            "settings.width_px",
            Some(Fault::TakesAnyWidth),
        )?;
        self.refuse_if(
            !fits(height_px),
            "settings.height_px",
            Some(Fault::TakesAnyWidth),
        )?;
        self.refuse_if(settings.step_count > 1000, "settings.step_count", None)?;
        let guidance = settings.guidance_scale.unwrap_or_default();
        self.refuse_if(guidance > 100.0, "settings.guidance_scale", None)?;
        self.refuse_if(settings.clip_skip > 0, "settings.clip_skip", None)?;
        self.refuse_if(settings.scheduler > 11, "settings.scheduler", None)?;
        self.refuse_if(settings.prompt_syntax > 2, "settings.prompt_syntax", None)?;
        Ok(settings)
    }

    /// All that is sent for one item, in order.
    fn replies(
        &self,
        place: usize,
        item: &ImageItem,
        settings: SamplingSettings,
        tells: bool,
    ) -> Vec<GenerateImagesResponse> {
        let usual = if self.has(Fault::TakesTwentySteps) {
            20
        } else {
            25
        };
        let step_count = if settings.step_count == 0 {
            usual
        } else {
            settings.step_count
        };
        let reply = |result| GenerateImagesResponse {
            sample_id: item.sample_id.clone(),
            result: Some(result),
            image_index: 0,
        };
        let told = if tells { step_count } else { 0 };
        let mut replies: Vec<_> = (1..=told)
            .map(|done_step_count| {
                reply(Outcome::Progress(StepProgress {
                    done_step_count,
                    step_count,
                    queue_position: 0,
                    loading: false,
                }))
            })
            .collect();
        let picture = reply(Outcome::Image(self.picture(place, item, settings)));
        replies.extend(std::iter::repeat_n(
            picture,
            if self.has(Fault::EndsTwice) { 2 } else { 1 },
        ));
        replies
    }

    fn picture(
        &self,
        place: usize,
        item: &ImageItem,
        settings: SamplingSettings,
    ) -> GeneratedImage {
        let image = self.image(place, item, settings);
        let safety = match self.fault {
            Fault::SaysNothingOfSafety => SafetyVerdict::Unspecified,
            _ => SafetyVerdict::NotChecked,
        };
        let prompt_truncated = item.prompt.len() > 300;
        GeneratedImage {
            image: Some(image),
            prompt_truncated,
            safety: safety.into(),
            seed: item.seed,
        }
    }

    fn image(&self, place: usize, item: &ImageItem, settings: SamplingSettings) -> Image {
        let side = |asked: u32| {
            if asked == 0 || self.has(Fault::KeepsItsSize) {
                SIDE_PX
            } else {
                asked.min(256)
            }
        };
        let (width_px, height_px) = (side(settings.width_px), side(settings.height_px));
        let file = self.draw(place, item, width_px, height_px);
        let mut sha256 = hex(&file);
        if self.has(Fault::StatesFalseHash) {
            sha256 = hex(b"something else");
        }
        let sample_id = if self.has(Fault::NamesNoSample) {
            String::new()
        } else {
            item.sample_id.clone()
        };
        Image {
            sample_id,
            media_type: "image/png".to_owned(),
            width_px: width_px + u32::from(self.has(Fault::StatesFalseSize)),
            height_px,
            sha256,
            ai_generated: true,
            provenance: Some(self.provenance(item)),
            content: Some(Content::Data(file.into())),
        }
    }

    fn provenance(&self, item: &ImageItem) -> Provenance {
        Provenance {
            producer: "test/squares".to_owned(),
            code_version: "1".to_owned(),
            model: MODEL.to_owned(),
            model_sha256: hex(MODEL.as_bytes()),
            seed: if self.has(Fault::TellsNoSeed) {
                0
            } else {
                item.seed
            },
            seeded: true,
            parameters: [("steps".to_owned(), "2".to_owned())].into(),
            parent_sha256: Vec::new(),
        }
    }

    fn draw(&self, place: usize, item: &ImageItem, width_px: u32, height_px: u32) -> Vec<u8> {
        let negative = if self.has(Fault::ForgetsTheNegative) {
            ""
        } else {
            &item.negative_prompt
        };
        let seed = if self.has(Fault::DrawsWithoutSeed) {
            0
        } else {
            item.seed
        };
        let clock = self.drawn.fetch_add(1, Ordering::Relaxed);
        let clock = if self.has(Fault::DrawsByTheClock) {
            clock
        } else {
            0
        };
        let place = if self.has(Fault::DrawsByThePlace) {
            place
        } else {
            0
        };
        let color = Sha256::digest(format!("{seed} {negative} {clock} {place}"));
        let picture =
            RgbImage::from_pixel(width_px, height_px, Rgb([color[0], color[1], color[2]]));
        let mut file = Cursor::new(Vec::new());
        picture.write_to(&mut file, ImageFormat::Png).unwrap();
        file.into_inner()
    }
}

#[tonic::async_trait]
impl DiffusionService for Stage {
    type GenerateImagesStream =
        Pin<Box<dyn Stream<Item = Result<GenerateImagesResponse, Status>> + Send>>;

    async fn get_capabilities(
        &self,
        _: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<GetCapabilitiesResponse>, Status> {
        let capabilities = Capabilities {
            service: "diptych.diffusion.v1.DiffusionService".to_owned(),
            backend: "squares".to_owned(),
            models: vec![info()],
            features: vec!["negative_prompts".to_owned()],
            max_items_per_request: if self.has(Fault::TellsNoBound) {
                0
            } else {
                MAX_ITEMS as u32
            },
            ..Capabilities::default()
        };
        Ok(Response::new(GetCapabilitiesResponse {
            capabilities: Some(capabilities),
        }))
    }

    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let ListModelsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        self.refuse_if(
            !page_token.is_empty(),
            "page_token",
            Some(Fault::TakesAnyToken),
        )?;
        self.refuse_if(page_size > 100, "page_size", None)?;
        let model = DiffusionModel {
            info: Some(info()),
            default_width_px: SIDE_PX,
            default_height_px: SIDE_PX,
            size_multiple_px: MULTIPLE_PX,
            default_scheduler: Scheduler::Ddim.into(),
            only_inpaints: false,
        };
        let models = if self.has(Fault::ListsNothing) {
            Vec::new()
        } else {
            vec![model]
        };
        Ok(Response::new(ListModelsResponse {
            models,
            next_page_token: String::new(),
        }))
    }

    async fn generate_images(
        &self,
        request: Request<GenerateImagesRequest>,
    ) -> Result<Response<Self::GenerateImagesStream>, Status> {
        let request = request.into_inner();
        let settings = self.check(&request)?;
        let items = request.items.iter().enumerate();
        let replies = items
            .flat_map(|(place, item)| self.replies(place, item, settings, request.report_progress));
        let replies: Vec<_> = replies.map(Ok).collect();
        // Pictures of very many steps never come: whoever wants them has to be stopped.
        let replies = match settings.step_count {
            1000 => stream::iter(replies.into_iter().take(1))
                .chain(stream::pending())
                .boxed(),
            _ => stream::iter(replies).boxed(),
        };
        Ok(Response::new(replies))
    }
}

fn info() -> ModelInfo {
    ModelInfo {
        name: MODEL.to_owned(),
        sha256: hex(MODEL.as_bytes()),
        ..ModelInfo::default()
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
