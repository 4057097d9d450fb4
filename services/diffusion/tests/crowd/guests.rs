//! Many callers at once on a service in a process of its own: every picture is the one that its
//! request gives alone, the queue keeps its bound, and the process does not grow.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::dataset::v1::image::Content;
use proto::diffusion::v1::diffusion_service_client::DiffusionServiceClient;
use proto::diffusion::v1::generate_images_response::Result as Outcome;
use proto::diffusion::v1::{GenerateImagesRequest, ImageItem, SamplingSettings};
use runtime::options::ClientOptions;
use runtime::{Channel, Telemetry, error};
use tonic::Code;

/// One call in so many is left midway by its caller.
pub const LEAVING: usize = 10;

/// How many come, and what they want.
#[derive(Clone, Copy)]
pub struct Party {
    /// Calls, all at the same time.
    pub calls: usize,
    /// Connections that they share.
    pub callers: usize,
    /// Steps of a picture that is waited for.
    pub steps: u32,
    /// Pictures that may wait in the service.
    pub capacity: usize,
}

/// What became of all calls.
#[derive(Debug, Default)]
pub struct Seen {
    pub answered: usize,
    pub left: usize,
    /// Refusals of a full queue; each call was made again until it was let in.
    pub refused: usize,
    /// Pictures that differ from those made alone.
    pub mixed_up: usize,
    pub longest_queue: usize,
    pub seconds: f64,
}

/// The service; it is killed when dropped.
pub struct Host {
    child: Child,
    endpoint: String,
}

impl Host {
    /// Starts the program on a free port and waits until it serves.
    pub fn start(command: &mut Command, capacity: usize) -> Self {
        let mut child = command
            .env("DIPTYCH_LISTEN", "127.0.0.1:0")
            .env("DIPTYCH_LOG_FORMAT", "json")
            .env("DIPTYCH_LOG", "info")
            .env_remove("REDIS_URL")
            .args(["--queue-capacity", &capacity.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the service starts");
        let log = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut lines = log.lines().map_while(Result::ok);
        let mut endpoint = None;
        for line in lines.by_ref() {
            if line.contains("\"listening\"") {
                let (_, rest) = line.split_once("\"address\":\"").expect("an address");
                let (address, _) = rest.split_once('"').expect("its end");
                endpoint = Some(format!("http://{address}"));
            }
            if line.contains("\"serving\"") {
                break;
            }
        }
        // A pipe that nobody reads would block the service.
        std::thread::spawn(move || lines.for_each(drop));
        let endpoint = endpoint.expect("the service says where it listens");
        Self { child, endpoint }
    }

    fn caller(&self) -> Caller {
        let silent = Telemetry::silent("guest");
        let channel = Channel::lazy(
            "diffusion",
            &self.endpoint,
            &ClientOptions::default(),
            &silent,
        );
        DiffusionServiceClient::new(channel.expect("an address"))
    }

    /// Resident memory, in MiB.
    pub fn resident_mib(&self) -> f64 {
        let file = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(file).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
        kib.map_or(f64::NAN, |kib: f64| kib / 1024.)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Caller = DiffusionServiceClient<Channel>;
/// Pictures by the id of their sample.
pub type Pictures = HashMap<String, Vec<u8>>;

/// What call `number` asks for: one picture, every fourth two.
fn request(number: usize, steps: u32) -> GenerateImagesRequest {
    let nouns = ["fox", "dog", "red car", "tree", "cup", "snow", "cat"];
    let count = 1 + usize::from(number.is_multiple_of(4));
    let items = (0..count).map(|k| ImageItem {
        sample_id: format!("{number:016x}{k:016x}"),
        prompt: format!("{}, beach", nouns[(number + k) % nouns.len()]),
        seed: (number * 2 + k) as u64,
        ..ImageItem::default()
    });
    GenerateImagesRequest {
        items: items.collect(),
        settings: Some(SamplingSettings {
            step_count: steps,
            guidance_scale: Some(3.),
            ..SamplingSettings::default()
        }),
        report_progress: true,
        ..GenerateImagesRequest::default()
    }
}

/// Whether the caller of a call leaves midway.
fn leaves(number: usize) -> bool {
    number % LEAVING == LEAVING / 2
}

/// Every picture that somebody waits for, each made alone, and the seconds that each took, in order.
pub async fn alone(host: &Host, party: Party) -> (Pictures, Vec<f64>) {
    let caller = host.caller();
    let mut pictures = Pictures::new();
    let mut seconds = Vec::new();
    for number in (0..party.calls).filter(|number| !leaves(*number)) {
        for item in request(number, party.steps).items {
            let request = GenerateImagesRequest {
                items: vec![item],
                ..request(number, party.steps)
            };
            let call = Call {
                caller: caller.clone(),
                request,
                counts: Arc::default(),
            };
            let begun = Instant::now();
            pictures.extend(call.answered().await);
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    (pictures, seconds)
}

#[derive(Default)]
struct Counts {
    refused: AtomicUsize,
    longest_queue: AtomicUsize,
}

struct Call {
    caller: Caller,
    request: GenerateImagesRequest,
    counts: Arc<Counts>,
}

impl Call {
    /// The stream of a call that was let in; a refusal is waited out as it asks.
    async fn admitted(&self) -> tonic::Streaming<proto::diffusion::v1::GenerateImagesResponse> {
        loop {
            match self
                .caller
                .clone()
                .generate_images(self.request.clone())
                .await
            {
                Ok(stream) => return stream.into_inner(),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    assert_eq!(error::reason(&status).as_deref(), Some("QUEUE_FULL"));
                    let wait = error::retry_after(&status).expect("it says when to come back");
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(wait.min(Duration::from_secs(2))).await;
                }
            }
        }
    }

    async fn answered(&self) -> Pictures {
        let mut stream = self.admitted().await;
        let mut pictures = Pictures::new();
        while let Some(message) = stream.message().await.expect("an answer") {
            match message.result.expect("a result") {
                Outcome::Progress(progress) => {
                    let position = progress.queue_position as usize;
                    self.counts
                        .longest_queue
                        .fetch_max(position, Ordering::Relaxed);
                }
                Outcome::Image(generated) => {
                    let image = generated.image.expect("an image");
                    assert_eq!(image.sample_id, message.sample_id);
                    let Some(Content::Data(data)) = image.content else {
                        panic!("an image without bytes")
                    };
                    let twice = pictures.insert(image.sample_id, data.to_vec());
                    assert!(twice.is_none(), "a picture came twice");
                }
                Outcome::Failure(failure) => panic!("{failure:?}"),
            }
        }
        assert_eq!(pictures.len(), self.request.items.len(), "all are answered");
        pictures
    }

    /// Leaves when a picture is under way.
    async fn left(&self) {
        let mut stream = self.admitted().await;
        while let Some(message) = stream.message().await.expect("an answer") {
            if let Some(Outcome::Progress(progress)) = message.result
                && progress.done_step_count >= 2
            {
                return;
            }
        }
        panic!("it ended before its caller left");
    }
}

/// All calls of a party at once.
pub async fn crowd(host: &Host, party: Party, expected: &Arc<Pictures>) -> Seen {
    let callers: Vec<Caller> = (0..party.callers).map(|_| host.caller()).collect();
    let counts = Arc::new(Counts::default());
    let seen = Arc::new(Mutex::new(Seen::default()));
    let begun = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..party.calls {
        let leaves = leaves(number);
        let steps = if leaves {
            20 * party.steps
        } else {
            party.steps
        };
        let call = Call {
            caller: callers[number % callers.len()].clone(),
            request: request(number, steps),
            counts: counts.clone(),
        };
        let (seen, expected) = (seen.clone(), expected.clone());
        calls.spawn(async move {
            if leaves {
                call.left().await;
                seen.lock().expect("nobody panicked").left += 1;
                return;
            }
            let pictures = call.answered().await;
            let differs = |(id, picture): &(&String, &Vec<u8>)| expected.get(*id) != Some(*picture);
            let mixed_up = pictures.iter().filter(differs).count();
            let mut seen = seen.lock().expect("nobody panicked");
            seen.answered += 1;
            seen.mixed_up += mixed_up;
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended.expect("a call keeps its promises");
    }
    let mut seen = std::mem::take(&mut *seen.lock().expect("nobody panicked"));
    seen.seconds = begun.elapsed().as_secs_f64();
    seen.refused = counts.refused.load(Ordering::Relaxed);
    seen.longest_queue = 1 + counts.longest_queue.load(Ordering::Relaxed);
    seen
}
