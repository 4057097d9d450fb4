//! A service of the test's own, on tiny checkpoints, and what most tests ask it.

use diffusion::Options;
use proto::dataset::v1::image::Content;
use proto::diffusion::v1::diffusion_service_client::DiffusionServiceClient;
use proto::diffusion::v1::generate_images_response::Result as Outcome;
use proto::diffusion::v1::image_scoring_service_client::ImageScoringServiceClient;
use proto::diffusion::v1::{
    GenerateImagesRequest, GenerateImagesResponse, ImageItem, SamplingSettings, StepProgress,
};
use runtime::options::NamedFolder;
use runtime::options::{ClientOptions, ListenOptions};
use runtime::{Channel, Handle, Listener, StartError, Telemetry};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../crates/models/tests/fixtures/sd")
        .join(name)
}

pub(crate) fn options() -> Options {
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
pub(crate) struct Stage {
    _handle: Handle,
    pub(crate) images: DiffusionServiceClient<Channel>,
    pub(crate) scores: ImageScoringServiceClient<Channel>,
}

impl Stage {
    pub(crate) async fn start(options: Options) -> Result<Self, StartError> {
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

    pub(crate) async fn ask(
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
    pub(crate) async fn outcomes(
        &self,
        request: GenerateImagesRequest,
    ) -> HashMap<String, Outcome> {
        let mut stream = self.ask(request).await.unwrap();
        let mut ends = HashMap::new();
        while let Some(GenerateImagesResponse {
            sample_id, result, ..
        }) = stream.message().await.unwrap()
        {
            match result.unwrap() {
                Outcome::Progress(_) => {}
                end => assert!(ends.insert(sample_id, end).is_none(), "an item ends once"),
            }
        }
        ends
    }
}

pub(crate) fn item(number: u64, prompt: &str) -> ImageItem {
    ImageItem {
        sample_id: format!("{number:032x}"),
        prompt: prompt.to_owned(),
        seed: number,
        ..ImageItem::default()
    }
}

pub(crate) fn wanted(items: Vec<ImageItem>, step_count: u32) -> GenerateImagesRequest {
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
        client: String::new(),
    }
}

pub(crate) fn with(change: impl FnOnce(&mut SamplingSettings)) -> GenerateImagesRequest {
    let mut request = wanted(vec![item(1, "dog")], 3);
    change(request.settings.as_mut().unwrap());
    request
}

pub(crate) fn png(outcome: &Outcome) -> &[u8] {
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

pub(crate) async fn progress(stream: &mut Streaming<GenerateImagesResponse>) -> StepProgress {
    match stream.message().await.unwrap().unwrap().result.unwrap() {
        Outcome::Progress(progress) => progress,
        other => panic!("{other:?}"),
    }
}

/// A few steps of [`endless`], on a busy machine.
pub(crate) const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// The tiny checkpoint with a size of its own of 160 pixels, under `folder`.
pub(crate) fn wide(folder: &Path) -> NamedFolder {
    let folder = folder.join("wide");
    copy(&fixture("tiny"), &folder);
    let config = folder.join("unet/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let wide = text.replace("\"sample_size\": 8", "\"sample_size\": 80");
    assert_ne!(text, wide);
    std::fs::write(config, wide).unwrap();
    NamedFolder {
        name: "wide".into(),
        folder,
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A minute of work or more, of the model [`wide`]: far longer than [`SOON`].
pub(crate) fn endless(number: u64) -> GenerateImagesRequest {
    let mut request = wanted(vec![item(number, "dog")], 1000);
    let settings = request.settings.as_mut().unwrap();
    (settings.width_px, settings.height_px) = (160, 160);
    request
}
