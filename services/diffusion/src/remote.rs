//! The back-end `openai-images`: a model behind a server that speaks OpenAI's images API.
//!
//! Pictures wait here as they do for the device, in one bounded line that is fair between callers; so
//! many are asked for at a time as the options of the remote model say. How much the server bears,
//! retries and deadlines are the business of [`llm::Client`]. A caller that leaves ends its requests.

mod options;
mod server;
mod wanted;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::dataset::v1::ModelInfo;
use proto::diffusion::v1 as pb;
use runtime::RequestContext;
use runtime::prometheus::QueueDepth;

pub use self::options::{ImageSize, RemoteOptions};
use self::server::Server;
use self::wanted::RemoteRequest;
pub(crate) use self::wanted::wanted;
use crate::engine::{Caller, Events};
use crate::error::Error;
use crate::line::{Line, Loads};

/// When a full line may have moved: a picture takes seconds.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// See the module. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Remote(Arc<Inner>);

struct Inner {
    server: Server,
    options: RemoteOptions,
    capacity: usize,
    max_in_flight: usize,
    turns: Mutex<Turns>,
    depth: QueueDepth,
}

struct Turns {
    line: Line<Caller, Job>,
    loads: Loads<Caller>,
    in_flight: usize,
}

/// One picture that is wanted.
pub(crate) struct Job {
    pub(crate) request: RemoteRequest,
    pub(crate) caller: Caller,
    pub(crate) context: RequestContext,
    pub(crate) events: Events,
}

impl Remote {
    /// A client of the model that the options name; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Remote`]: no address or model, or a key that is promised and absent.
    pub(crate) fn new(
        llm: &llm::Options,
        options: RemoteOptions,
        capacity: usize,
    ) -> Result<Self, Error> {
        let turns = Turns {
            line: Line::new(),
            loads: Loads::new(),
            in_flight: 0,
        };
        Ok(Self(Arc::new(Inner {
            server: Server::new(llm::Client::new(llm)?),
            options,
            capacity,
            max_in_flight: llm.max_concurrency.max(1) as usize,
            turns: Mutex::new(turns),
            depth: QueueDepth::new(crate::NAME, "device"),
        })))
    }

    pub(crate) fn options(&self) -> &RemoteOptions {
        &self.0.options
    }

    /// Lines up all pictures of a call, or none.
    ///
    /// # Errors
    /// [`Error::Full`], at once.
    pub(crate) fn submit(&self, jobs: Vec<Job>) -> Result<(), Error> {
        let mut turns = self.0.lock();
        turns.line.retain(|job| !job.context.is_cancelled());
        let (waiting, capacity) = (turns.line.len(), self.0.capacity);
        if waiting + jobs.len() > capacity {
            return Err(Error::Full {
                waiting,
                capacity,
                retry_after: RETRY_AFTER,
            });
        }
        for job in jobs {
            turns.line.push(job.caller.clone(), job, 1);
        }
        drop(turns);
        self.pump();
        Ok(())
    }

    /// Starts as many as may run, and tells the others where they stand.
    fn pump(&self) {
        let mut turns = self.0.lock();
        turns.line.retain(|job| !job.context.is_cancelled());
        let Turns {
            line,
            loads,
            in_flight,
        } = &mut *turns;
        while *in_flight < self.0.max_in_flight
            && let Some(next) = line.take(loads, |_| true)
        {
            *in_flight += 1;
            tokio::spawn(self.clone().run(next.item));
        }
        line.tell(loads, |job, position| job.events.progress(0, 1, position));
        self.0.depth.set(line.len());
    }

    async fn run(self, job: Job) {
        let Job {
            request,
            caller,
            context,
            events,
        } = job;
        let (inner, told) = (self.0.clone(), events.clone());
        let work = tokio::spawn(async move {
            let left = context.cancelled();
            tokio::select! {
                () = left.cancelled() => {}
                ended = context.scope(inner.server.picture(&request)) => told.end(ended),
            }
        });
        if let Err(panic) = work.await {
            events.end(Err(Error::Task(panic.to_string())));
        }
        self.0.lock().ended(&caller);
        self.pump();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    fn ended(&mut self, caller: &Caller) {
        self.in_flight -= 1;
        if let Some(load) = self.loads.get_mut(caller) {
            *load -= 1;
        }
        self.loads.retain(|_, load| *load > 0);
    }
}

/// What is known of a model that somebody else runs: its name, and the sizes it offers.
pub(crate) fn described(name: &str, options: &RemoteOptions) -> pb::DiffusionModel {
    let sides = options.sizes.iter().flat_map(|s| [s.width_px, s.height_px]);
    let size = options.sizes.first();
    pb::DiffusionModel {
        info: Some(ModelInfo {
            name: name.to_owned(),
            sha256: String::new(),
            architecture: "remote".to_owned(),
            parameter_count: 0,
        }),
        default_width_px: size.map_or(0, |size| size.width_px),
        default_height_px: size.map_or(0, |size| size.height_px),
        size_multiple_px: sides.reduce(common_divisor).unwrap_or(1),
        ..pb::DiffusionModel::default()
    }
}

/// Euclid's.
fn common_divisor(a: u32, b: u32) -> u32 {
    match b {
        0 => a,
        b => common_divisor(b, a % b),
    }
}
