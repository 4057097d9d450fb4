//! The service over a real socket, on the tiny checkpoints of `models`' tests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use diffusion::{NamedFolder, Options};
use models::stable_diffusion::{Pipeline, PromptSyntax, Request};
use proto::dataset::v1::{Artefact, Image, image::Content};
use proto::diffusion::v1::diffusion_service_client::DiffusionServiceClient;
use proto::diffusion::v1::generate_images_response::Result as Outcome;
use proto::diffusion::v1::image_scoring_service_client::ImageScoringServiceClient;
use proto::diffusion::v1::{
    GenerateImagesRequest, GenerateImagesResponse, GetCapabilitiesRequest, ImageItem,
    ListModelsRequest, SamplingSettings, Scheduler, ScoreImagesRequest, ScoreItem, ScoreMeasure,
    StepProgress,
};
use runtime::options::{ClientOptions, ListenOptions};
use runtime::{Channel, Handle, Listener, StartError, Telemetry, error, explain};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../crates/models/tests/fixtures/sd")
        .join(name)
}

fn options() -> Options {
    let named = |name: &str, fixture_name: &str| NamedFolder {
        name: name.into(),
        folder: fixture(fixture_name),
    };
    Options {
        models: vec![named("tiny", "tiny")],
        scoring_models: vec![named("clip", "clip")],
        ..Options::default()
    }
}

/// A running service and a way to it.
struct Stage {
    _handle: Handle,
    images: DiffusionServiceClient<Channel>,
    scores: ImageScoringServiceClient<Channel>,
}

impl Stage {
    async fn start(options: Options) -> Result<Self, StartError> {
        let listener = Listener::bind(&ListenOptions::default(), 0).await?;
        let telemetry = Telemetry::silent("diffusion");
        let stop = CancellationToken::new();
        let mut handle = diffusion::start(options, &telemetry, listener, 16 << 20, stop).await?;
        handle.ready().await?;
        let channel = Channel::lazy(
            "diffusion",
            &handle.endpoint(),
            &ClientOptions::default(),
            &Telemetry::silent("test"),
        )?;
        let images = DiffusionServiceClient::new(channel.clone());
        Ok(Self {
            _handle: handle,
            images,
            scores: ImageScoringServiceClient::new(channel),
        })
    }

    async fn ask(
        &self,
        request: GenerateImagesRequest,
    ) -> Result<Streaming<GenerateImagesResponse>, Status> {
        self.images
            .clone()
            .generate_images(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// The ends of all items, by id.
    async fn outcomes(&self, request: GenerateImagesRequest) -> HashMap<String, Outcome> {
        let mut stream = self.ask(request).await.unwrap();
        let mut ends = HashMap::new();
        while let Some(GenerateImagesResponse { sample_id, result }) =
            stream.message().await.unwrap()
        {
            match result.unwrap() {
                Outcome::Progress(_) => {}
                end => assert!(ends.insert(sample_id, end).is_none(), "an item ends once"),
            }
        }
        ends
    }
}

fn item(number: u64, prompt: &str) -> ImageItem {
    ImageItem {
        sample_id: format!("{number:032x}"),
        prompt: prompt.to_owned(),
        seed: number,
        ..ImageItem::default()
    }
}

fn wanted(items: Vec<ImageItem>, step_count: u32) -> GenerateImagesRequest {
    let settings = SamplingSettings {
        step_count,
        guidance_scale: Some(4.),
        ..SamplingSettings::default()
    };
    GenerateImagesRequest {
        model: String::new(),
        items,
        settings: Some(settings),
        report_progress: true,
    }
}

fn with(change: impl FnOnce(&mut SamplingSettings)) -> GenerateImagesRequest {
    let mut request = wanted(vec![item(1, "dog")], 3);
    change(request.settings.as_mut().unwrap());
    request
}

fn png(outcome: &Outcome) -> &[u8] {
    match outcome {
        Outcome::Image(generated) => {
            match generated.image.as_ref().unwrap().content.as_ref().unwrap() {
                Content::Data(data) => data,
                Content::Artefact(_) => panic!("inline was expected"),
            }
        }
        other => panic!("{other:?}"),
    }
}

async fn progress(stream: &mut Streaming<GenerateImagesResponse>) -> StepProgress {
    match stream.message().await.unwrap().unwrap().result.unwrap() {
        Outcome::Progress(progress) => progress,
        other => panic!("{other:?}"),
    }
}

/// A few steps of [`endless`], on a busy machine.
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// A minute of work or more: far longer than [`SOON`].
fn endless(number: u64) -> GenerateImagesRequest {
    let mut request = wanted(vec![item(number, "dog")], 1000);
    let settings = request.settings.as_mut().unwrap();
    (settings.width_px, settings.height_px) = (160, 160);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_come_with_progress_and_say_where_they_come_from() {
    let stage = Stage::start(options()).await.unwrap();
    let mut stream = stage
        .ask(wanted(vec![item(7, "a red dog, beach, cartoon")], 10))
        .await
        .unwrap();
    let waiting = progress(&mut stream).await;
    assert_eq!((waiting.done_step_count, waiting.step_count), (0, 10));
    for step in 1..=10 {
        assert_eq!(progress(&mut stream).await.done_step_count, step);
    }
    let end = stream.message().await.unwrap().unwrap();
    let Some(Outcome::Image(generated)) = end.result.clone() else {
        panic!("{end:?}")
    };
    assert!(stream.message().await.unwrap().is_none());
    let image = generated.image.unwrap();
    assert!(image.ai_generated && !generated.prompt_truncated && image.media_type == "image/png");
    let provenance = image.provenance.unwrap();
    assert_eq!(
        (
            provenance.seed,
            provenance.seeded,
            provenance.model.as_str()
        ),
        (7, true, "tiny")
    );
    assert_eq!(provenance.model_sha256.len(), 64);
    assert_eq!(provenance.parameters["scheduler"], "ddim");

    let outcome = end.result.unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(png(&outcome)))
        .read_info()
        .unwrap();
    let texts: HashMap<String, String> = reader
        .info()
        .uncompressed_latin1_text
        .iter()
        .map(|c| (c.keyword.clone(), c.text.clone()))
        .collect();
    assert_eq!(texts["Source"], "AI-generated");
    assert_eq!(
        (texts["prompt"].as_str(), texts["seed"].as_str()),
        ("a red dog, beach, cartoon", "7")
    );
    assert_eq!(texts["model_sha256"], provenance.model_sha256);
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let expected = Request {
        prompt: "a red dog, beach, cartoon".into(),
        negative_prompt: String::new(),
        seed: 7,
        steps: 10,
        guidance: 4.,
        width_px: 16,
        height_px: 16,
        syntax: PromptSyntax::Plain,
        scheduler: None,
    };
    let expected = Pipeline::load(&fixture("tiny"), "tiny")
        .unwrap()
        .generate(&expected)
        .unwrap();
    assert_eq!((image.width_px, image.height_px), (16, 16));
    assert!(pixels == expected.rgb);

    let capabilities = stage
        .images
        .clone()
        .get_capabilities(GetCapabilitiesRequest {})
        .await
        .unwrap();
    let capabilities = capabilities.into_inner().capabilities.unwrap();
    assert_eq!(capabilities.models[0].sha256, provenance.model_sha256);
    assert!(capabilities.features.contains(&"alignment".to_owned()));
    let models = stage
        .images
        .clone()
        .list_models(ListModelsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            models.models[0].default_width_px,
            models.models[0].size_multiple_px
        ),
        (16, 2)
    );
    assert_eq!(models.models[0].default_scheduler(), Scheduler::Ddim);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_is_refused_and_the_field_is_named() {
    let stage = Stage::start(options()).await.unwrap();
    let two = |a, b| wanted(vec![item(a, "dog"), item(b, "cat")], 3);
    let strength = ImageItem {
        strength: 0.5,
        ..item(1, "dog")
    };
    let start = ImageItem {
        init_image: Some(Image::default()),
        ..item(1, "dog")
    };
    let nameless = ImageItem {
        sample_id: "1".into(),
        ..item(1, "dog")
    };
    for (field, request) in [
        ("settings.width_px", with(|s| s.width_px = 63)),
        ("settings.height_px", with(|s| s.height_px = 30_000)),
        ("settings.step_count", with(|s| s.step_count = 1001)),
        (
            "settings.guidance_scale",
            with(|s| s.guidance_scale = Some(f32::NAN)),
        ),
        ("settings.scheduler", with(|s| s.scheduler = 99)),
        (
            "settings.scheduler",
            with(|s| s.scheduler = Scheduler::Heun.into()),
        ),
        ("settings.prompt_syntax", with(|s| s.prompt_syntax = 9)),
        ("settings.clip_skip", with(|s| s.clip_skip = 1)),
        ("items", wanted(Vec::new(), 3)),
        (
            "items",
            wanted((0..1000).map(|n| item(n, "dog")).collect(), 3),
        ),
        ("items[1].sample_id", two(5, 5)),
        ("items[0].sample_id", wanted(vec![nameless], 3)),
        ("items[0].strength", wanted(vec![strength], 3)),
        ("items[0].init_image", wanted(vec![start], 3)),
    ] {
        let status = stage.ask(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        let details = tonic_types::StatusExt::get_error_details(&status);
        assert_eq!(
            details.bad_request().unwrap().field_violations[0].field,
            field,
            "{status}"
        );
    }
    let unknown = GenerateImagesRequest {
        model: "dall-e".into(),
        ..wanted(vec![item(1, "dog")], 3)
    };
    let status = stage.ask(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(explain(&status).contains("there are: tiny"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_prompt_that_is_too_long_does_not_sink_the_others() {
    let stage = Stage::start(options()).await.unwrap();
    let long = "dog ".repeat(10_000);
    let ends = stage
        .outcomes(wanted(
            vec![item(1, &long), item(2, "cat"), item(3, &"cat ".repeat(40))],
            3,
        ))
        .await;
    assert_eq!(ends.len(), 3);
    let Outcome::Failure(failure) = &ends[&format!("{:032x}", 1)] else {
        panic!("{ends:?}")
    };
    assert_eq!(
        (failure.reason.as_str(), failure.retryable),
        ("PROMPT_TOO_LONG", false)
    );
    for (number, cut) in [(2, false), (3, true)] {
        let Outcome::Image(image) = &ends[&format!("{number:032x}")] else {
            panic!("{ends:?}")
        };
        assert_eq!(image.prompt_truncated, cut);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_refused_at_once_and_a_caller_that_leaves_frees_the_device() {
    let stage = Stage::start(Options {
        queue_capacity: 1,
        max_batch: 1,
        ..options()
    })
    .await
    .unwrap();
    let mut running = stage.ask(endless(1)).await.unwrap();
    while progress(&mut running).await.done_step_count == 0 {}
    let mut waiting = stage.ask(endless(2)).await.unwrap();
    assert_eq!(progress(&mut waiting).await.done_step_count, 0);

    let status = stage
        .ask(wanted(vec![item(3, "fox")], 2))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(error::reason(&status).as_deref(), Some("QUEUE_FULL"));
    assert!(error::retry_after(&status).is_some());
    assert!(runtime::prometheus::render().contains("diptych_queue_depth"));

    // The one in the queue gets the device as soon as the other's caller is gone.
    drop(running);
    let begins = async { while progress(&mut waiting).await.done_step_count == 0 {} };
    tokio::time::timeout(SOON, begins).await.unwrap();
    drop(waiting);
    let ends = loop {
        // The server learns of a caller that left from its connection, a moment later.
        match stage.ask(wanted(vec![item(4, "fox")], 2)).await {
            Ok(mut stream) => break stream.message().await.unwrap(),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
    };
    assert!(ends.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_gives_the_same_bytes_alone_and_among_other_callers() {
    let stage = Stage::start(Options {
        max_batch: 3,
        ..options()
    })
    .await
    .unwrap();
    let alone = stage.outcomes(wanted(vec![item(7, "a red dog")], 6)).await;
    let caller = |number: u64, width_px| {
        let items = vec![
            item(100 + number, "cat"),
            item(7, "a red dog"),
            item(200 + number, "snow (fox)"),
        ];
        let mut request = wanted(items, 6);
        request.settings.as_mut().unwrap().width_px = width_px;
        stage.outcomes(request)
    };
    let (a, b, c, wide) = tokio::join!(caller(0, 0), caller(1, 0), caller(2, 16), caller(3, 24));
    let id = format!("{:032x}", 7);
    for ends in [a, b, c] {
        assert_eq!(ends.len(), 3);
        assert!(png(&ends[&id]) == png(&alone[&id]));
    }
    assert_eq!(wide.len(), 3);
    assert!(
        png(&wide[&id]) != png(&alone[&id]),
        "another width is another picture"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_scored_and_one_that_cannot_be_read_does_not_sink_the_others() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        fixture("clip/picture.png"),
        folder.path().join("picture.png"),
    )
    .unwrap();
    let mut options = options();
    options.artefacts.artefact_roots = vec![folder.path().to_path_buf()];
    let stage = Stage::start(options).await.unwrap();
    let bytes = std::fs::read(fixture("clip/picture.png")).unwrap();
    let uri = |path: &Path| format!("file://{}", path.canonicalize().unwrap().display());
    let stored = |uri| {
        Some(Content::Artefact(Artefact {
            uri,
            ..Artefact::default()
        }))
    };
    let item = |content| ScoreItem {
        image: Some(Image {
            content,
            ..Image::default()
        }),
        texts: vec!["a red dog".into(), "beach".into()],
    };
    let request = ScoreImagesRequest {
        items: vec![
            item(Some(Content::Data(bytes.into()))),
            item(stored(uri(&folder.path().join("picture.png")))),
            item(Some(Content::Data(vec![1, 2, 3].into()))),
            item(stored(uri(&fixture("clip/picture.png")))),
        ],
        measures: vec![
            ScoreMeasure::Alignment.into(),
            ScoreMeasure::Embedding.into(),
        ],
        model: String::new(),
    };
    let reply = stage
        .scores
        .clone()
        .score_images(request.clone())
        .await
        .unwrap()
        .into_inner();
    let [inline, stored, broken, outside] = reply.scores.as_slice() else {
        panic!("{reply:?}")
    };
    assert_eq!(inline.alignment_cosine.len(), 2);
    assert!((inline.embedding.iter().map(|v| v * v).sum::<f32>() - 1.).abs() < 1e-5);
    assert_eq!(inline, stored);
    assert_eq!(broken.failure.as_ref().unwrap().reason, "UNREADABLE_IMAGE");
    assert!(
        outside
            .failure
            .as_ref()
            .unwrap()
            .message
            .contains("artefact root")
    );
    assert_eq!(
        (reply.model.as_str(), reply.model_sha256.len()),
        ("clip", 64)
    );

    let refused = |request| async {
        stage
            .scores
            .clone()
            .score_images(request)
            .await
            .unwrap_err()
            .code()
    };
    assert_eq!(
        refused(ScoreImagesRequest {
            measures: Vec::new(),
            ..request.clone()
        })
        .await,
        Code::InvalidArgument
    );
    assert_eq!(
        refused(ScoreImagesRequest {
            items: Vec::new(),
            ..request.clone()
        })
        .await,
        Code::InvalidArgument
    );
    let without = Stage::start(Options {
        scoring_models: Vec::new(),
        ..self::options()
    })
    .await
    .unwrap();
    let status = without
        .scores
        .clone()
        .score_images(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_load_ends_the_start_with_its_file() {
    let missing = NamedFolder {
        name: "gone".into(),
        folder: "/nonexistent/model".into(),
    };
    let error = Stage::start(Options {
        models: vec![missing],
        ..Options::default()
    })
    .await
    .err()
    .unwrap();
    let sentence = error::chain(&error);
    assert!(
        sentence.contains("gone") && sentence.contains("model_index.json"),
        "{sentence}"
    );
    let error = Stage::start(Options::default()).await.err().unwrap();
    assert!(error::chain(&error).contains("--model NAME=DIR"), "{error}");
}
