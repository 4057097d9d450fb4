//! A trainer on a free port, in this process or in one of its own, and specifications for it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use dataset::identity::{SampleKey, sha256_hex};
use dataset::plan::Plan;
use dataset::store::{PartitionTally, Root, Writer};
use proto::dataset::v1::{Artefact, Conversation, Image, QuestionKind, Role, Sample, Turn, image};
use proto::job::v1::JobState;
use proto::trainer::v1::trainer_service_client::TrainerServiceClient;
use proto::trainer::v1::{
    CreateTrainingJobRequest, DataSource, OptimizerSettings, StageKind, TrainingJob, TrainingSpec,
    TrainingStage, WatchTrainingJobRequest, WatchTrainingJobResponse, data_source, training_spec,
};
use runtime::options::{ArtefactOptions, ListenOptions};
use runtime::{Handle, Listener, Telemetry};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Five usable records, and one whose answer is empty.
pub(crate) const RECORDS: &str = r#"[{"id": "a", "image": "picture0.png", "conversations": [
  {"from": "human", "value": "<image>\nIs there a dog in the picture?"}, {"from": "gpt", "value": "yes"}]
}, {"id": "b", "image": "picture1.png", "conversations": [
  {"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "A red bus."},
  {"from": "human", "value": "Is it red?"}, {"from": "gpt", "value": "yes"}]
}, {"id": "c", "image": "picture2.png", "conversations": [
  {"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A dog."}]
}, {"id": "d", "image": "picture2.png", "conversations": [
  {"from": "human", "value": "<image>\nWhat is he wearing?"}, {"from": "gpt", "value": "Red shorts."}]
}, {"id": "e", "image": "picture0.png", "conversations": [
  {"from": "human", "value": "<image>\nIs there a bus?"}, {"from": "gpt", "value": "no"}]
}, {"id": "f", "image": "picture0.png", "conversations": [
  {"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A dog."},
  {"from": "human", "value": "Anything else?"}, {"from": "gpt", "value": ""}]
}]"#;

/// The tiny checkpoint.
pub(crate) fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/models/tests/fixtures/llava")
}

/// A trainer in this process, over folders with a model and data.
pub(crate) struct Bench {
    pub(crate) client: TrainerServiceClient<Channel>,
    handle: Handle,
    folder: TempDir,
}

impl Bench {
    pub(crate) async fn start(queue_capacity: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        copy(&fixture(), &root.join("model"));
        copy(&fixture(), &root.join("data"));
        std::fs::create_dir(root.join("runs")).unwrap();
        std::fs::write(root.join("data/data.json"), RECORDS).unwrap();
        let (handle, client) = serve(root, queue_capacity).await;
        Self {
            client,
            handle,
            folder,
        }
    }

    /// Stops the trainer as a signal does, waits for its end, shows what it left, and starts the next
    /// one on the same root.
    pub(crate) async fn stop_and_start_again(self, look: impl FnOnce()) -> Self {
        let root = self.root();
        self.handle.stop();
        self.handle.wait().await.unwrap();
        look();
        let (handle, client) = serve(root, 4).await;
        Self {
            client,
            handle,
            folder: self.folder,
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root").canonicalize().unwrap()
    }

    /// Roots for a second process: records of its own, then everything of this one.
    pub(crate) fn second_root(&self) -> [PathBuf; 2] {
        [self.folder.path().join("second"), self.root()]
    }

    pub(crate) async fn create(
        &mut self,
        request_id: &str,
        spec: &TrainingSpec,
    ) -> Result<String, Status> {
        let request = CreateTrainingJobRequest {
            request_id: request_id.into(),
            spec: Some(spec.clone()),
        };
        let answer = self.client.create_training_job(request).await?.into_inner();
        Ok(answer.job.unwrap().job.unwrap().id)
    }

    pub(crate) async fn watch(&mut self, id: &str) -> Vec<TrainingJob> {
        let request = WatchTrainingJobRequest { id: id.into() };
        let mut stream = self
            .client
            .watch_training_job(request)
            .await
            .unwrap()
            .into_inner();
        let mut seen = Vec::new();
        while let Some(change) = stream.message().await.unwrap() {
            seen.push(change.job.unwrap());
        }
        seen
    }

    /// The steps that are seen until `after` of them are done.
    pub(crate) async fn steps_until(&mut self, id: &str, after: u32) -> Vec<u32> {
        let request = WatchTrainingJobRequest { id: id.into() };
        let mut stream = self
            .client
            .watch_training_job(request)
            .await
            .unwrap()
            .into_inner();
        let mut seen = Vec::new();
        while seen.last().is_none_or(|step| *step < after) {
            let job = stream.message().await.unwrap().unwrap().job.unwrap();
            seen.extend(job.progress.map(|progress| progress.done_step_count));
        }
        seen
    }

    /// A copy of the model in which one file was changed.
    pub(crate) fn broken_model(
        &self,
        name: &str,
        file: &str,
        change: impl Fn(&mut Vec<u8>),
    ) -> PathBuf {
        let folder = self.root().join(name);
        copy(&fixture(), &folder);
        let mut bytes = std::fs::read(folder.join(file)).unwrap();
        change(&mut bytes);
        std::fs::write(folder.join(file), bytes).unwrap();
        folder
    }

    /// A dataset of our own store with `count` samples of one picture and one question each.
    pub(crate) async fn dataset(&self, count: u64) -> PathBuf {
        let folder = self.root().join("dataset");
        let plan = Plan {
            recipe_sha256: sha256_hex("recipe"),
            recipe_seed: 1,
            sample_counts: [("animal".to_owned(), count)].into(),
        };
        let writer = Writer::open(Root::create_folder(&folder).unwrap(), &plan)
            .await
            .unwrap();
        let picture = std::fs::read(fixture().join("picture2.png")).unwrap();
        for partition in plan.partitions() {
            let samples = partition
                .slots()
                .map(|slot| sample(slot, &picture))
                .collect();
            writer
                .commit(&partition, samples, PartitionTally::default())
                .await
                .unwrap();
        }
        folder
    }

    /// A data file beside the pictures.
    pub(crate) fn data(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root().join("data").join(format!("{name}.json"));
        std::fs::write(&path, text).unwrap();
        path
    }
}

async fn serve(root: PathBuf, queue_capacity: usize) -> (Handle, TrainerServiceClient<Channel>) {
    let options = trainer::Options {
        artefacts: ArtefactOptions {
            artefact_roots: vec![root],
        },
        queue_capacity,
        ..trainer::Options::default()
    };
    let listener = Listener::bind(&ListenOptions::default(), 0).await.unwrap();
    let telemetry = Telemetry::silent(trainer::NAME);
    let stop = CancellationToken::new();
    let mut handle = trainer::start(options, &telemetry, listener, 1 << 24, stop)
        .await
        .unwrap();
    handle.ready().await.unwrap();
    let client = TrainerServiceClient::connect(handle.endpoint())
        .await
        .unwrap();
    (handle, client)
}

/// A trainer in a process of its own.
pub(crate) struct Process {
    pub(crate) client: TrainerServiceClient<Channel>,
    child: Child,
    roots: [PathBuf; 2],
}

impl Process {
    pub(crate) async fn start(roots: [PathBuf; 2]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
        for root in &roots {
            command.arg("--artefact-root").arg(root);
        }
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--log",
            "info",
            "--log-format",
            "json",
        ]);
        let mut child = command
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = None;
        loop {
            let line = log.next_line().await.unwrap().unwrap();
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            match line["message"].as_str() {
                Some("listening") => address = line["address"].as_str().map(str::to_owned),
                Some("serving") => break,
                _ => {}
            }
        }
        // Somebody must read what it says, or it stands still when the pipe is full.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let client = TrainerServiceClient::connect(format!("http://{}", address.unwrap()))
            .await
            .unwrap();
        Self {
            client,
            child,
            roots,
        }
    }

    pub(crate) async fn watch(&mut self, id: &str) -> Streaming<WatchTrainingJobResponse> {
        let request = WatchTrainingJobRequest { id: id.into() };
        self.client
            .watch_training_job(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) async fn kill_and_start_again(self) -> Self {
        let roots = self.roots.clone();
        self.kill().await;
        Self::start(roots).await
    }
}

/// Two stages of `steps` steps each.
pub(crate) fn spec(bench: &Bench, output: &Path, steps: u32) -> TrainingSpec {
    let json = bench.root().join("data/data.json");
    TrainingSpec {
        base: Some(training_spec::Base::BaseCheckpoint(folder_uri(
            &bench.root().join("model"),
        ))),
        stages: vec![
            stage("align", StageKind::Alignment, &json, steps),
            stage("tune", StageKind::Instruction, &json, steps),
        ],
        seed: 3,
        output: Some(folder_uri(output)),
        ..TrainingSpec::default()
    }
}

pub(crate) fn stage(name: &str, kind: StageKind, json: &Path, steps: u32) -> TrainingStage {
    TrainingStage {
        name: name.into(),
        kind: kind.into(),
        data: vec![source(json)],
        step_count: steps,
        batch_size: 4,
        accumulation_count: 2,
        optimizer: Some(OptimizerSettings {
            learning_rate: 3e-3,
            warmup_ratio: 0.1,
            ..OptimizerSettings::default()
        }),
        ..TrainingStage::default()
    }
}

pub(crate) fn source(json: &Path) -> DataSource {
    let uri = url::Url::from_file_path(json).unwrap().to_string();
    let json = Artefact {
        uri,
        ..Artefact::default()
    };
    DataSource {
        name: "base".into(),
        location: Some(data_source::Location::LlavaJson(json)),
        ..DataSource::default()
    }
}

pub(crate) fn folder_uri(folder: &Path) -> Artefact {
    Artefact {
        uri: url::Url::from_directory_path(folder).unwrap().to_string(),
        ..Artefact::default()
    }
}

pub(crate) fn ended(job: &TrainingJob) -> (JobState, String) {
    let job = job.job.as_ref().unwrap();
    (job.state(), job.error.clone())
}

fn sample(slot: u64, picture: &[u8]) -> Sample {
    let key = SampleKey {
        recipe_seed: 1,
        ability: "animal",
        slot,
        attempt: 0,
    };
    let id = key.id().to_string();
    let turn = |role: Role, text: &str, image_index: &[u32]| Turn {
        role: role.into(),
        text: text.into(),
        image_index: image_index.to_vec(),
        kind: QuestionKind::Wh.into(),
        ..Turn::default()
    };
    Sample {
        id: id.clone(),
        ability: "animal".into(),
        slot,
        images: vec![Image {
            sample_id: id.clone(),
            content: Some(image::Content::Data(picture.to_vec().into())),
            media_type: "image/png".into(),
            sha256: sha256_hex(picture),
            ..Image::default()
        }],
        conversation: Some(Conversation {
            sample_id: id,
            turns: vec![
                turn(Role::User, "What is this?", &[0]),
                turn(Role::Assistant, "A dog.", &[]),
            ],
            provenance: None,
        }),
        ..Sample::default()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
