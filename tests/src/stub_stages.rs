//! Stages that cost nothing, over real gRPC: what is left is the orchestrator's own time.
//!
//! They keep the contract as far as synthesis asks it: an item's result carries its id, the same
//! request gives the same bytes, and two samples differ.

use std::{net::SocketAddr, pin::Pin};

use futures::{Stream, stream};
use proto::{
    dataset::v1::{
        Capabilities, Conversation, Facts, Image, Prompt, Provenance, Role, Subject, Turn,
        image::Content,
    },
    dialogue::v1::{
        self as dialogue,
        dialogue_service_server::{DialogueService, DialogueServiceServer},
        write_dialogues_response,
    },
    diffusion::v1::{
        self as diffusion,
        diffusion_service_server::{DiffusionService, DiffusionServiceServer},
        generate_images_response,
    },
    promptgen::v1::{
        self as promptgen, generate_prompts_response,
        promptgen_service_server::{PromptgenService, PromptgenServiceServer},
    },
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Serves all three stages on one free port until the runtime ends.
///
/// # Panics
/// No port is free.
pub async fn serve() -> SocketAddr {
    let (repeats, version) = (false, "0");
    serve_stub(Stub { repeats, version }).await
}

/// As [`serve`], but in their first attempts slots 3 and 70 of an ability have one prompt, and slots 5
/// and 71 one picture. Slot 70 says it again until it is told that it came to nothing, or for the third
/// time. `version` is that of all stages.
///
/// # Panics
/// No port is free.
pub async fn serve_repetitions(version: &'static str) -> SocketAddr {
    let repeats = true;
    serve_stub(Stub { repeats, version }).await
}

async fn serve_stub(stub: Stub) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    const MAX_BYTES: usize = 64 << 20;
    let server = tonic::transport::Server::builder()
        .add_service(PromptgenServiceServer::new(stub).max_decoding_message_size(MAX_BYTES))
        .add_service(DiffusionServiceServer::new(stub).max_decoding_message_size(MAX_BYTES))
        .add_service(DialogueServiceServer::new(stub).max_decoding_message_size(MAX_BYTES));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

#[derive(Clone, Copy)]
struct Stub {
    repeats: bool,
    version: &'static str,
}

impl Stub {
    fn capabilities(self) -> Option<Capabilities> {
        Some(Capabilities {
            backend: "stub".to_owned(),
            version: self.version.to_owned(),
            max_items_per_request: 4096,
            ..Capabilities::default()
        })
    }

    fn text(self, ability: &str, item: &promptgen::PromptItem, excluded: &[String]) -> String {
        let twice = format!("(({ability})) twice");
        match item.slot {
            3 | 70 if self.repeats && item.attempt == 0 => twice,
            70 if self.repeats && item.attempt == 1 && !excluded.contains(&twice) => twice,
            5 | 71 if self.repeats && item.attempt == 0 => {
                format!("(({ability})) {SAME_PICTURE} from side {}", item.slot)
            }
            slot => format!("(({ability})) number {slot}"),
        }
    }
}

/// Prompts with these words have one picture.
const SAME_PICTURE: &str = "in its best light";

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn replies<T: Send + 'static>(all: Vec<T>) -> Response<Replies<T>> {
    Response::new(Box::pin(stream::iter(all.into_iter().map(Ok))))
}

fn provenance() -> Option<Provenance> {
    Some(Provenance {
        producer: "stub".to_owned(),
        seeded: true,
        ..Provenance::default()
    })
}

#[tonic::async_trait]
impl PromptgenService for Stub {
    type GeneratePromptsStream = Replies<promptgen::GeneratePromptsResponse>;

    async fn get_capabilities(
        &self,
        _: Request<promptgen::GetCapabilitiesRequest>,
    ) -> Result<Response<promptgen::GetCapabilitiesResponse>, Status> {
        Ok(Response::new(promptgen::GetCapabilitiesResponse {
            capabilities: self.capabilities(),
        }))
    }

    async fn list_abilities(
        &self,
        _: Request<promptgen::ListAbilitiesRequest>,
    ) -> Result<Response<promptgen::ListAbilitiesResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn get_ability(
        &self,
        _: Request<promptgen::GetAbilityRequest>,
    ) -> Result<Response<promptgen::GetAbilityResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn generate_prompts(
        &self,
        request: Request<promptgen::GeneratePromptsRequest>,
    ) -> Result<Response<Self::GeneratePromptsStream>, Status> {
        let promptgen::GeneratePromptsRequest {
            ability,
            items,
            excluded_texts,
            ..
        } = request.into_inner();
        let answer = |item: promptgen::PromptItem| promptgen::GeneratePromptsResponse {
            sample_id: item.sample_id.clone(),
            result: Some(generate_prompts_response::Result::Prompt(Prompt {
                text: self.text(&ability, &item, &excluded_texts),
                sample_id: item.sample_id,
                ability: ability.clone(),
                keyword: ability.clone(),
                facts: Some(Facts {
                    subjects: vec![Subject {
                        name: ability.clone(),
                        count: 1,
                        ..Subject::default()
                    }],
                    ..Facts::default()
                }),
                provenance: provenance(),
                ..Prompt::default()
            })),
        };
        Ok(replies(items.into_iter().map(answer).collect()))
    }
}

#[tonic::async_trait]
impl DiffusionService for Stub {
    type GenerateImagesStream = Replies<diffusion::GenerateImagesResponse>;

    async fn get_capabilities(
        &self,
        _: Request<diffusion::GetCapabilitiesRequest>,
    ) -> Result<Response<diffusion::GetCapabilitiesResponse>, Status> {
        Ok(Response::new(diffusion::GetCapabilitiesResponse {
            capabilities: self.capabilities(),
        }))
    }

    async fn list_models(
        &self,
        _: Request<diffusion::ListModelsRequest>,
    ) -> Result<Response<diffusion::ListModelsResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn generate_images(
        &self,
        request: Request<diffusion::GenerateImagesRequest>,
    ) -> Result<Response<Self::GenerateImagesStream>, Status> {
        let items = request.into_inner().items;
        let answers: Result<Vec<_>, Status> = items.into_iter().map(image).collect();
        Ok(replies(answers?))
    }
}

/// A picture of 64 × 64 pixels whose every number comes from the seed.
fn image(item: diffusion::ImageItem) -> Result<diffusion::GenerateImagesResponse, Status> {
    const SIDE_PX: u32 = 64;
    let noise = match item.prompt.contains(SAME_PICTURE) {
        true => Sha256::digest(SAME_PICTURE),
        false => Sha256::digest(item.seed.to_le_bytes()),
    };
    let picture = image::RgbImage::from_fn(SIDE_PX, SIDE_PX, |x, y| {
        let tile = (x / 16 + 4 * (y / 16)) as usize;
        image::Rgb([noise[tile], noise[tile + 8], noise[tile + 16]])
    });
    let mut png = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut png, image::ImageFormat::Png)
        .map_err(|error| Status::internal(error.to_string()))?;
    let png = png.into_inner();
    let sha256 = Sha256::digest(&png);
    let image = Image {
        sample_id: item.sample_id.clone(),
        sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        content: Some(Content::Data(png.into())),
        media_type: "image/png".to_owned(),
        width_px: SIDE_PX,
        height_px: SIDE_PX,
        ai_generated: true,
        provenance: provenance(),
    };
    Ok(diffusion::GenerateImagesResponse {
        sample_id: item.sample_id,
        result: Some(generate_images_response::Result::Image(
            diffusion::GeneratedImage {
                image: Some(image),
                ..diffusion::GeneratedImage::default()
            },
        )),
        image_index: 0,
    })
}

#[tonic::async_trait]
impl DialogueService for Stub {
    type WriteDialoguesStream = Replies<dialogue::WriteDialoguesResponse>;

    async fn get_capabilities(
        &self,
        _: Request<dialogue::GetCapabilitiesRequest>,
    ) -> Result<Response<dialogue::GetCapabilitiesResponse>, Status> {
        Ok(Response::new(dialogue::GetCapabilitiesResponse {
            capabilities: self.capabilities(),
        }))
    }

    async fn write_dialogues(
        &self,
        request: Request<dialogue::WriteDialoguesRequest>,
    ) -> Result<Response<Self::WriteDialoguesStream>, Status> {
        let items = request.into_inner().items;
        let answer = |item: dialogue::DialogueItem| dialogue::WriteDialoguesResponse {
            sample_id: item.sample_id.clone(),
            result: Some(write_dialogues_response::Result::Conversation(
                conversation(item.sample_id),
            )),
        };
        Ok(replies(items.into_iter().map(answer).collect()))
    }

    async fn check_dialogue(
        &self,
        _: Request<dialogue::CheckDialogueRequest>,
    ) -> Result<Response<dialogue::CheckDialogueResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}

fn conversation(sample_id: String) -> Conversation {
    let turn = |role: Role, text: &str, image_index| Turn {
        role: role.into(),
        text: text.to_owned(),
        image_index,
        ..Turn::default()
    };
    Conversation {
        turns: vec![
            turn(Role::User, "What does this picture show?", vec![0]),
            turn(Role::Assistant, "Sixteen tiles.", Vec::new()),
        ],
        sample_id,
        provenance: provenance(),
    }
}
