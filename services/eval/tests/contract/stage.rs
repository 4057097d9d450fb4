//! A running service in a folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use eval::Options;
use proto::{
    dataset::v1::{Artefact, Image, image::Content},
    eval::v1::{
        BenchmarkRef, Candidate, EvaluationSpec, QuestionItem, benchmark_ref, candidate,
        eval_service_client::EvalServiceClient,
    },
};
use runtime::options::NamedFolder;
use runtime::{
    Channel, Handle, Listener, Telemetry,
    options::{ArtefactOptions, ClientOptions, ListenOptions},
};
use tokio_util::sync::CancellationToken;

pub(crate) const TINY: &str = "tiny";

pub(crate) struct Stage {
    pub(crate) client: EvalServiceClient<Channel>,
    root: tempfile::TempDir,
    _service: Handle,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let mut options = Options {
            assets: Some(workspace()),
            models: vec![NamedFolder {
                name: TINY.into(),
                folder: tiny_checkpoint(),
            }],
            artefacts: ArtefactOptions {
                artefact_roots: vec![root.path().to_owned()],
            },
            ..Options::default()
        };
        change(&mut options);
        let listen = ListenOptions::default();
        let listener = Listener::bind(&listen, 0).await.expect("a free port");
        let telemetry = Telemetry::silent(eval::NAME);
        let stop = CancellationToken::new();
        let started = eval::start(
            options,
            &telemetry,
            listener,
            listen.max_message_bytes,
            stop,
        )
        .await;
        let mut service = started.expect("started");
        service.ready().await.expect("ready");
        let channel = Channel::connect(
            eval::NAME,
            &service.endpoint(),
            &ClientOptions::default(),
            &telemetry,
        )
        .await;
        let client = EvalServiceClient::new(channel.expect("connected"));
        Self {
            client,
            root,
            _service: service,
        }
    }

    /// A path below the artefact root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().expect("there").join(name)
    }

    pub(crate) fn folder(&self, name: &str) -> Artefact {
        let uri = url::Url::from_directory_path(self.path(name))
            .expect("an absolute path")
            .to_string();
        Artefact {
            uri,
            ..Artefact::default()
        }
    }

    /// A benchmark of six questions on four pictures, two abilities.
    pub(crate) fn benchmark(&self, name: &str) -> BenchmarkRef {
        let folder = self.path(name);
        fs::create_dir_all(&folder).expect("made");
        for index in 0..4_u8 {
            fs::write(folder.join(format!("{index}.png")), png(index)).expect("written");
        }
        let line = |id: usize, ability: &str, kind: &str, image: usize, answer: &str| {
            format!(
                r#"{{"question_id":"q{id}","ability":"{ability}","kind":"{kind}","image":"{image}.png","text":"Is it {id}?","answers":["{answer}"]}}"#
            )
        };
        let lines = [
            line(0, "color", "yes_no", 0, "yes"),
            line(1, "color", "yes_no", 1, "no"),
            line(2, "color", "wh", 2, "red"),
            line(3, "animal", "yes_no", 0, "yes"),
            line(4, "animal", "yes_no", 3, "no"),
            line(5, "animal", "wh", 3, "fox"),
        ];
        fs::write(folder.join("questions.jsonl"), lines.join("\n")).expect("written");
        BenchmarkRef {
            name: name.into(),
            location: Some(benchmark_ref::Location::Folder(self.folder(name))),
        }
    }

    /// Two candidates on one benchmark; the second is a copy of the first.
    pub(crate) fn spec(&self, benchmark: BenchmarkRef, output: &str) -> EvaluationSpec {
        EvaluationSpec {
            candidates: vec![tiny("baseline"), self.checkpoint("synthetic")],
            benchmarks: vec![benchmark],
            max_new_token_count: 6,
            resample_count: 200,
            seed: 5,
            output: Some(self.folder(output)),
            ..EvaluationSpec::default()
        }
    }

    fn checkpoint(&self, name: &str) -> Candidate {
        let folder = self.path("checkpoint");
        if !folder.exists() {
            fs::create_dir(&folder).expect("made");
            for entry in fs::read_dir(tiny_checkpoint()).expect("listed").flatten() {
                fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
            }
        }
        let model = Some(candidate::Model::Checkpoint(self.folder("checkpoint")));
        Candidate {
            name: name.into(),
            model,
            replicas: Vec::new(),
        }
    }
}

pub(crate) fn tiny(name: &str) -> Candidate {
    Candidate {
        name: name.into(),
        model: Some(candidate::Model::ModelName(TINY.into())),
        replicas: Vec::new(),
    }
}

pub(crate) fn item(id: &str, picture: u8) -> QuestionItem {
    let image = Image {
        content: Some(Content::Data(png(picture).into())),
        ..Image::default()
    };
    QuestionItem {
        question_id: id.into(),
        images: vec![image],
        text: "What is in the picture?".into(),
    }
}

/// A picture that differs from those of other numbers all over.
pub(crate) fn png(number: u8) -> Vec<u8> {
    let wave =
        |x: u32, y: u32| (x * (3 + u32::from(number)) + y * (7 + 5 * u32::from(number))) as u8;
    let pixels = image::RgbImage::from_fn(32, 32, |x, y| {
        image::Rgb([wave(x, y), wave(y, x), number * 40])
    });
    let mut file = std::io::Cursor::new(Vec::new());
    pixels
        .write_to(&mut file, image::ImageFormat::Png)
        .expect("encodes");
    file.into_inner()
}

/// `abilities/` of the checkout, and no model beside it: a test must not wait for the large ones.
fn workspace() -> PathBuf {
    static ASSETS: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let assets = ASSETS.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let abilities = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../abilities");
        std::os::unix::fs::symlink(abilities, folder.path().join("abilities")).expect("linked");
        folder
    });
    assets.path().to_owned()
}

fn tiny_checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/models/tests/fixtures/llava")
}
