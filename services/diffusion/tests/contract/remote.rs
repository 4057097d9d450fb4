//! The back-end `openai-images` before a server over a real socket that behaves as badly as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use diffusion::{Backend, ImageSize, Options, RemoteOptions};
use futures::StreamExt as _;
use proto::dataset::v1::{Image, ItemFailure};
use proto::diffusion::v1::generate_images_response::Result as Outcome;
use proto::diffusion::v1::{
    GenerateImagesRequest, GetCapabilitiesRequest, ImageItem, ListModelsRequest, Scheduler,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::stage::{Stage, item, png, wanted, with};

/// What the server does.
enum Reply {
    /// A status, a header and a body.
    Whole(u16, (&'static str, &'static str), String),
    /// The beginning of a body, and no more.
    Cut(String),
}

/// A server that answers the n-th request with what `reply` says, and counts.
struct Server {
    url: String,
    served: Arc<AtomicUsize>,
}

impl Server {
    async fn start(reply: impl Fn(usize, Value) -> Reply + Clone + Send + Sync + 'static) -> Self {
        let served = Arc::new(AtomicUsize::new(0));
        let counted = served.clone();
        let serve = move |request: Request| {
            let (counted, reply) = (counted.clone(), reply.clone());
            async move {
                assert_eq!(request.uri().path(), "/v1/images/generations");
                let bytes = axum::body::to_bytes(request.into_body(), 1 << 20)
                    .await
                    .unwrap();
                let body = serde_json::from_slice(&bytes).unwrap();
                respond(reply(counted.fetch_add(1, Ordering::SeqCst), body))
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let service = Router::new().fallback(serve);
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { url, served }
    }

    fn options(&self) -> Options {
        Options {
            backend: Backend::OpenaiImages,
            llm: llm::Options {
                url: Some(self.url.clone()),
                model: Some("painter-1".to_owned()),
                first_delay_ms: 1,
                max_delay_ms: 4,
                ..llm::Options::default()
            },
            remote: RemoteOptions {
                sizes: vec![size(32, 16), size(16, 16)],
                takes_settings: false,
            },
            ..Options::default()
        }
    }
}

fn size(width_px: u32, height_px: u32) -> ImageSize {
    ImageSize {
        width_px,
        height_px,
    }
}

fn respond(reply: Reply) -> Response {
    match reply {
        Reply::Whole(status, (name, value), body) => Response::builder()
            .status(status)
            .header(name, value)
            .body(Body::from(body))
            .unwrap(),
        Reply::Cut(body) => {
            // Time for what came before it to be sent: hyper drops it with the connection otherwise.
            let cut = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Err(std::io::Error::other("cut on purpose"))
            };
            let begun = futures::stream::iter([Ok(Bytes::from(body))]);
            let pieces = begun.chain(futures::stream::once(cut));
            Response::new(Body::from_stream(pieces))
        }
    }
}

fn good(body: String) -> Reply {
    Reply::Whole(200, ("content-type", "application/json"), body)
}

fn failing(status: u16, message: &str) -> Reply {
    let body = json!({"error": {"message": message}}).to_string();
    Reply::Whole(status, ("content-type", "application/json"), body)
}

fn delivered(file: &[u8]) -> String {
    let datum = json!({"b64_json": STANDARD.encode(file), "revised_prompt": "a fox, in oil"});
    json!({"created": 0, "data": [datum]}).to_string()
}

/// A picture with every pixel another.
fn picture(width_px: u32, height_px: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width_px, height_px);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer
        .write_image_data(&pixels(width_px, height_px))
        .unwrap();
    writer.finish().unwrap();
    file
}

fn pixels(width_px: u32, height_px: u32) -> Vec<u8> {
    (0..width_px * height_px * 3)
        .map(|n| (n % 251) as u8)
        .collect()
}

/// A request with all settings unset, as for a provider that takes none.
fn plain(number: u64) -> GenerateImagesRequest {
    GenerateImagesRequest {
        settings: None,
        ..wanted(vec![item(number, "a fox")], 0)
    }
}

async fn failure(stage: &Stage, request: GenerateImagesRequest) -> ItemFailure {
    let ends = stage.outcomes(request).await;
    match ends.into_values().next().unwrap() {
        Outcome::Failure(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_misbehaves_in_every_way_gives_the_picture_in_the_end() {
    let server = Server::start(|number, body| {
        assert_eq!(
            (&body["model"], &body["n"]),
            (&json!("painter-1"), &json!(1))
        );
        assert_eq!(
            (&body["prompt"], &body["size"]),
            (&json!("a fox"), &json!("32x16"))
        );
        assert!(body.get("seed").is_none(), "it was not said to take one");
        match number {
            0 => Reply::Whole(429, ("retry-after-ms", "20"), String::new()),
            1 => failing(500, "out of paint"),
            2 => Reply::Cut(delivered(&picture(32, 16))[..60].to_owned()),
            3 => good(json!({"data": [{"url": "http://elsewhere/1.png"}]}).to_string()),
            4 => good(delivered(b"GIF89a, almost")),
            5 => good(delivered(&picture(16, 16))),
            _ => good(delivered(&picture(32, 16))),
        }
    })
    .await;
    let stage = Stage::start(server.options()).await.unwrap();
    let ends = stage.outcomes(plain(7)).await;
    let end = ends.values().next().unwrap();
    let file = png(end);
    let mut reader = png::Decoder::new(std::io::Cursor::new(file))
        .read_info()
        .unwrap();
    let texts = &reader.info().uncompressed_latin1_text;
    assert!(
        texts
            .iter()
            .any(|c| c.keyword == "Source" && c.text == "AI-generated")
    );
    let mut found = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut found).unwrap();
    assert_eq!(found, pixels(32, 16));
    let Outcome::Image(generated) = end else {
        unreachable!("it has a file")
    };
    let image = generated.image.as_ref().unwrap();
    assert_eq!((image.width_px, image.height_px), (32, 16));
    let provenance = image.provenance.as_ref().unwrap();
    assert!(!provenance.seeded && provenance.seed == 0, "{provenance:?}");
    assert_eq!(provenance.producer, "diffusion/openai-images");
    assert_eq!(
        (provenance.model.as_str(), provenance.model_sha256.as_str()),
        ("painter-1", "")
    );
    assert_eq!(provenance.parameters["revised_prompt"], "a fox, in oil");
    assert_eq!(server.served.load(Ordering::SeqCst), 7);

    let asked = stage
        .images
        .clone()
        .get_capabilities(GetCapabilitiesRequest {})
        .await;
    let capabilities = asked.unwrap().into_inner().capabilities.unwrap();
    assert_eq!(capabilities.backend, "openai-images");
    assert_eq!(capabilities.models[0].architecture, "remote");
    let unkept = ["seeded", "negative_prompts", "webui_prompts"].map(str::to_owned);
    assert!(
        !capabilities
            .features
            .iter()
            .any(|feature| unkept.contains(feature))
    );
    let listed = stage
        .images
        .clone()
        .list_models(ListModelsRequest::default())
        .await;
    let model = listed.unwrap().into_inner().models.remove(0);
    assert_eq!((model.default_width_px, model.size_multiple_px), (32, 16));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_picture_to_the_end_fails_alone_and_says_what_came() {
    let server = Server::start(|_, body| match body["prompt"].as_str() {
        Some("small") => good(delivered(&picture(16, 16))),
        Some("words") => good(delivered(b"I cannot paint that.")),
        Some("refused") => failing(400, "this prompt breaks our policy"),
        _ => good(delivered(&picture(32, 16))),
    })
    .await;
    let stage = Stage::start(server.options()).await.unwrap();
    let prompts = ["small", "words", "refused", "a fox"];
    let items = (0..)
        .zip(prompts)
        .map(|(number, prompt)| item(number, prompt));
    let request = GenerateImagesRequest {
        items: items.collect(),
        ..plain(0)
    };
    let ends = stage.outcomes(request).await;
    for (number, words) in [
        (0, "32x16 was asked for, 16x16 came"),
        (1, "no PNG or JPEG"),
        (2, "breaks our policy"),
    ] {
        let Outcome::Failure(failure) = &ends[&format!("{number:032x}")] else {
            panic!("{number}: {ends:?}")
        };
        assert!(failure.message.contains(words), "{failure:?}");
        assert!(!failure.retryable, "{failure:?}");
    }
    assert!(matches!(ends[&format!("{:032x}", 3)], Outcome::Image(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_would_not_heed_is_refused_before_it_is_asked() {
    let server = Server::start(|_, _| failing(500, "nobody should ask")).await;
    let stage = Stage::start(server.options()).await.unwrap();
    let of_item = |item: ImageItem| GenerateImagesRequest {
        items: vec![item],
        ..plain(1)
    };
    for (field, request) in [
        (
            "settings.width_px",
            with(|s| (s.width_px, s.height_px) = (512, 512)),
        ),
        ("settings.width_px", with(|s| s.height_px = 16)),
        (
            "settings.scheduler",
            with(|s| s.scheduler = Scheduler::Ddim.into()),
        ),
        (
            "items[0].negative_prompt",
            of_item(ImageItem {
                negative_prompt: "dog".into(),
                ..item(1, "a fox")
            }),
        ),
        (
            "items[0].init_image",
            of_item(ImageItem {
                init_image: Some(Image::default()),
                ..item(1, "a fox")
            }),
        ),
        ("items[0].sample_id", of_item(ImageItem::default())),
    ] {
        let status = stage.ask(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        let details = tonic_types::StatusExt::get_error_details(&status);
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field, "{status}");
    }
    assert_eq!(server.served.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_settings_gets_them_and_one_that_knows_no_format_is_asked_without() {
    let server = Server::start(|number, body| {
        assert_eq!(
            (&body["seed"], &body["negative_prompt"]),
            (&json!(7), &json!("dog"))
        );
        assert_eq!(body["num_inference_steps"], 3);
        match number {
            0 => {
                assert_eq!(body["response_format"], "b64_json");
                failing(400, "Unknown parameter: 'response_format'.")
            }
            _ => {
                assert!(body.get("response_format").is_none());
                good(delivered(&picture(16, 16)))
            }
        }
    })
    .await;
    let mut options = server.options();
    options.remote.takes_settings = true;
    let stage = Stage::start(options).await.unwrap();
    let mut request = wanted(
        vec![ImageItem {
            negative_prompt: "dog".into(),
            ..item(7, "a fox")
        }],
        3,
    );
    let settings = request.settings.as_mut().unwrap();
    (settings.width_px, settings.height_px) = (16, 16);
    let ends = stage.outcomes(request).await;
    let Some(Outcome::Image(generated)) = ends.values().next() else {
        panic!("{ends:?}")
    };
    let provenance = generated
        .image
        .as_ref()
        .unwrap()
        .provenance
        .as_ref()
        .unwrap();
    assert!(provenance.seeded && provenance.seed == 7);
    assert_eq!(provenance.parameters["steps"], "3");

    // A key that is refused is not tried again.
    let server = Server::start(|_, _| failing(401, "no such key")).await;
    let stage = Stage::start(server.options()).await.unwrap();
    let failure = failure(&stage, plain(1)).await;
    assert_eq!(failure.reason, "IMAGE_MODEL_REFUSED_KEY", "{failure:?}");
    assert_eq!(server.served.load(Ordering::SeqCst), 1);
    let nowhere = Options {
        llm: llm::Options::default(),
        ..server.options()
    };
    let error = Stage::start(nowhere).await.err().unwrap();
    let sentence = runtime::error::chain(&error);
    assert!(sentence.contains("--llm-"), "{sentence}");
}
