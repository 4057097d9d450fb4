//! Long work: training runs, evaluations. A job outlives its caller, and its process.
//!
//! * Created by `request_id`: asking twice gives the same job.
//! * Records lie on disk, created only where there was none. Who runs a job first takes an *epoch*
//!   of it, also by create-if-absent; what an older epoch still writes is never read again.
//! * One job runs at a time; a bounded queue waits. A full queue refuses at once.
//! * A process that stops leaves its job to the next one, which resumes it in a new epoch.
//!
//! A service implements [`Work`] and hands it to [`Jobs::open`].

mod board;
mod store;
mod task;

use std::{
    fmt::Debug,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, stream};
use proto::job::v1 as pb;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use self::task::Task;
use self::{board::Board, store::Store};
use crate::{FieldViolation, Kind, ServiceError, artefact::hex, prometheus::QueueDepth};

/// What a service does in a job.
pub trait Work: Send + Sync + Sized + 'static {
    /// What to do. Two requests are the same when their specs are the same JSON.
    type Spec: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static;
    /// How far it is.
    type Progress: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static;
    /// What came out.
    type Result: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static;
    /// Why it failed. Its kind decides whether the caller sees its text.
    type Error: ServiceError + Send + 'static;

    /// Does it. Device work belongs on its own thread and checks [`Task::is_cancelled`] once a
    /// step; a resumed task finds its own checkpoints in [`Task::folder`].
    fn run(
        self: Arc<Self>,
        task: Task<Self>,
    ) -> impl Future<Output = Result<Self::Result, Self::Error>> + Send;
}

/// Where jobs of one kind live, and their bounds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The service, as in metrics.
    pub service_name: String,
    /// The kind of job; ids begin with it: `training`.
    pub job_kind: &'static str,
    /// Folder of the records, `<artefact root>/jobs`.
    pub folder: PathBuf,
    /// Jobs that may wait; the next is refused.
    pub queue_capacity: usize,
    /// Ended jobs that are remembered; the oldest are forgotten, with their checkpoints.
    pub kept_jobs: usize,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for its turn, for the first time or after its process ended.
    Queued,
    /// Runs.
    Running,
    /// Ended with its result.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended by its caller.
    Cancelled,
}

/// One job as it stands. Times are milliseconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job<S, P, R> {
    /// Id given by the service; follows from the request id.
    pub id: String,
    /// Id given by the caller.
    pub request_id: String,
    /// Where it stands.
    pub state: State,
    /// The owner's turn, from 1.
    pub epoch: u64,
    /// When it was accepted.
    pub created_at_ms: u64,
    /// When it first ran.
    pub started_at_ms: Option<u64>,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
    /// Why it failed or was cancelled, one sentence; else empty.
    pub error: String,
    /// Code of the error, as gRPC numbers them; else 0.
    #[serde(default)]
    pub error_code: u32,
    /// What to do.
    pub spec: S,
    /// The last progress that was reported.
    pub progress: Option<P>,
    /// What came out.
    pub result: Option<R>,
}

/// The job of some work.
pub type JobOf<W> = Job<<W as Work>::Spec, <W as Work>::Progress, <W as Work>::Result>;

/// A job and its place in the queue.
#[derive(Debug)]
pub struct Snapshot<W: Work> {
    /// The job.
    pub job: Arc<JobOf<W>>,
    /// How many jobs stand before it; 0 when it runs or has ended.
    pub queue_position: u32,
}

/// A page of jobs, newest first.
#[derive(Debug)]
pub struct Page<W: Work> {
    /// The jobs.
    pub jobs: Vec<Snapshot<W>>,
    /// Token of the next page; empty on the last.
    pub next_page_token: String,
}

/// Why a call about jobs failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request id is empty or too long.
    #[error("request_id must have 1 to {MAX_REQUEST_ID_CHARS} characters")]
    RequestId,
    /// The page size is too large.
    #[error("page_size must be at most {MAX_PAGE_SIZE}")]
    PageSize,
    /// The page token was not given by a list call.
    #[error("page_token was not given by this call")]
    PageToken,
    /// No such job.
    #[error("there is no job {0:?}")]
    NotFound(String),
    /// The request id was used before, for something else.
    #[error("request_id {0:?} was used before, with another spec")]
    Conflict(String),
    /// The queue is full.
    #[error("{0} jobs are waiting already")]
    Full(usize),
    /// The record cannot be kept.
    #[error("cannot keep the job's record under {}: {source}", folder.display())]
    Record {
        /// The folder of the records.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
}

impl ServiceError for Error {
    fn kind(&self) -> Kind {
        let invalid =
            |field| Kind::InvalidArgument(vec![FieldViolation::new(field, self.to_string())]);
        match self {
            Self::RequestId => invalid("request_id"),
            Self::PageSize => invalid("page_size"),
            Self::PageToken => invalid("page_token"),
            Self::NotFound(_) => Kind::NotFound,
            Self::Conflict(_) => Kind::AlreadyExists,
            Self::Full(_) => Kind::ResourceExhausted {
                retry_after: Some(RETRY_AFTER),
            },
            Self::Record { .. } => Kind::FailedPrecondition,
            Self::Stopping => Kind::Unavailable {
                retry_after: Some(RETRY_AFTER),
            },
        }
    }
}

const MAX_REQUEST_ID_CHARS: usize = 128;
const MAX_PAGE_SIZE: u32 = 100;
const DEFAULT_PAGE_SIZE: u32 = 50;
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The jobs of one kind. Cheap to clone; the queue's worker runs in the background.
#[derive(Debug)]
pub struct Jobs<W: Work>(Arc<Inner<W>>);

impl<W: Work> Clone for Jobs<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Work> Jobs<W> {
    /// Reads the records, takes over what an earlier process left unfinished, and begins to work.
    /// `stop` ends the work; the running job is then left for the next process. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// A folder that cannot be made or read. A record that does not parse is logged and left.
    pub fn open(work: W, settings: Settings, stop: CancellationToken) -> Result<Self, Error> {
        let store = Store::open(&settings)?;
        let depth = QueueDepth::new(settings.service_name.clone(), settings.job_kind);
        let board = Mutex::new(Board::new(store.recover(), depth));
        let creating = Mutex::default();
        let wake = Notify::new();
        let inner = Arc::new(Inner {
            work: Arc::new(work),
            settings,
            store,
            board,
            creating,
            wake,
            stop,
            ended: CancellationToken::new(),
        });
        tokio::spawn(Arc::clone(&inner).work_through());
        Ok(Self(inner))
    }

    /// Cancelled once `stop` was, and the running job has ended or saved what the next process goes
    /// on from. A service's end waits for it:
    /// [`with_background`](crate::Service::with_background).
    pub fn ended(&self) -> CancellationToken {
        self.0.ended.clone()
    }

    /// The job of `request_id`: a new one, or the one that was made by it before.
    ///
    /// # Errors
    /// [`Error::RequestId`], [`Error::Conflict`], [`Error::Full`], [`Error::Record`].
    pub async fn create(&self, request_id: &str, spec: W::Spec) -> Result<Snapshot<W>, Error> {
        if request_id.is_empty() || request_id.chars().count() > MAX_REQUEST_ID_CHARS {
            return Err(Error::RequestId);
        }
        let (inner, request_id) = (Arc::clone(&self.0), request_id.to_owned());
        self.blocking(move || inner.create(request_id, spec)).await
    }

    /// The job that `request_id` made, in this process or one before it, if any did.
    pub fn find(&self, request_id: &str) -> Option<Snapshot<W>> {
        let found = self.get(&self.0.id_of(request_id)).ok();
        found.filter(|snapshot| snapshot.job.request_id == request_id)
    }

    /// One job.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, id: &str) -> Result<Snapshot<W>, Error> {
        self.0.board().snapshot(id)
    }

    /// A page of jobs, newest first. A size of 0 means 50.
    ///
    /// # Errors
    /// [`Error::PageSize`], [`Error::PageToken`].
    pub fn list(&self, page_size: u32, page_token: &str) -> Result<Page<W>, Error> {
        let size = match page_size {
            0 => DEFAULT_PAGE_SIZE,
            1..=MAX_PAGE_SIZE => page_size,
            _ => return Err(Error::PageSize),
        };
        self.0.board().page(size as usize, page_token)
    }

    /// Asks a job to end. One that waits ends at once, one that runs after its present step; one
    /// that has ended stays as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Record`].
    pub async fn cancel(&self, id: &str) -> Result<Snapshot<W>, Error> {
        let (inner, id) = (Arc::clone(&self.0), id.to_owned());
        self.blocking(move || inner.cancel(&id)).await
    }

    /// The job as it changes, first as it stands, last as it ended. A slow reader misses steps,
    /// never the end. A service ends the stream itself when it drains.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn watch(&self, id: &str) -> Result<impl Stream<Item = Snapshot<W>> + use<W>, Error> {
        let mut changes = self.0.board().changes(id)?;
        changes.mark_changed();
        let jobs = self.clone();
        Ok(stream::unfold(Some(changes), move |changes| {
            next_change(jobs.clone(), changes)
        }))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or(Err(Error::Stopping))
    }
}

type Changes<W> = watch::Receiver<Arc<JobOf<W>>>;

async fn next_change<W: Work>(
    jobs: Jobs<W>,
    changes: Option<Changes<W>>,
) -> Option<(Snapshot<W>, Option<Changes<W>>)> {
    let mut changes = changes?;
    changes.changed().await.ok()?;
    let job = Arc::clone(&changes.borrow_and_update());
    let queue_position = jobs.0.board().position(&job.id);
    let rest = (!job.state.is_final()).then_some(changes);
    Some((
        Snapshot {
            job,
            queue_position,
        },
        rest,
    ))
}

struct Inner<W: Work> {
    work: Arc<W>,
    settings: Settings,
    store: Store,
    board: Mutex<Board<W>>,
    /// Held while a record is made, so that of two calls with one request id one makes it.
    creating: Mutex<()>,
    wake: Notify,
    stop: CancellationToken,
    /// Cancelled when the worker has returned.
    ended: CancellationToken,
}

impl<W: Work> std::fmt::Debug for Inner<W> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Jobs")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<W: Work> Inner<W> {
    fn board(&self) -> MutexGuard<'_, Board<W>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, request_id: String, spec: W::Spec) -> Result<Snapshot<W>, Error> {
        let _one_at_a_time = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.id_of(&request_id);
        {
            let board = self.board();
            if let Ok(known) = board.snapshot(&id) {
                return same(known, &spec);
            }
            if board.waiting() >= self.settings.queue_capacity {
                return Err(Error::Full(self.settings.queue_capacity));
            }
        }
        let job: JobOf<W> = Job {
            id,
            request_id,
            state: State::Queued,
            epoch: 1,
            created_at_ms: now_ms(),
            started_at_ms: None,
            ended_at_ms: None,
            error: String::new(),
            error_code: 0,
            spec,
            progress: None,
            result: None,
        };
        if !self.store.create(&job)? {
            // Another process on the same root made it and runs it; its record tells of it.
            let theirs: JobOf<W> = self.store.load(&job.id)?;
            return same(
                Snapshot {
                    job: Arc::new(theirs),
                    queue_position: 0,
                },
                &job.spec,
            );
        }
        let snapshot = self.board().add(job);
        self.forget_the_oldest();
        self.wake.notify_one();
        Ok(snapshot)
    }

    fn cancel(&self, id: &str) -> Result<Snapshot<W>, Error> {
        self.board().snapshot(id)?;
        self.store.mark_cancelled(id)?;
        let waited = self.board().cancel(id);
        if let Some(job) = waited {
            self.store.save(&job)?;
        }
        self.get(id)
    }

    fn get(&self, id: &str) -> Result<Snapshot<W>, Error> {
        self.board().snapshot(id)
    }

    /// The same request id gives the same id in every process, so the disk decides who made it.
    fn id_of(&self, request_id: &str) -> String {
        let digest = hex(&Sha256::digest(request_id.as_bytes())[..8]);
        format!("{}-{digest}", self.settings.job_kind)
    }

    fn forget_the_oldest(&self) {
        let forgotten = self.board().forget(self.settings.kept_jobs);
        for id in forgotten {
            self.store.remove(&id);
        }
    }
}

fn same<W: Work>(known: Snapshot<W>, spec: &W::Spec) -> Result<Snapshot<W>, Error> {
    let json = |spec: &W::Spec| serde_json::to_value(spec).ok();
    match json(&known.job.spec) == json(spec) {
        true => Ok(known),
        false => Err(Error::Conflict(known.job.request_id.clone())),
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl State {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

impl From<State> for pb::JobState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

impl<W: Work> From<&Snapshot<W>> for pb::Job {
    fn from(snapshot: &Snapshot<W>) -> Self {
        let job = &snapshot.job;
        Self {
            id: job.id.clone(),
            request_id: job.request_id.clone(),
            state: pb::JobState::from(job.state).into(),
            epoch: job.epoch,
            created_at: Some(timestamp(job.created_at_ms)),
            started_at: job.started_at_ms.map(timestamp),
            ended_at: job.ended_at_ms.map(timestamp),
            error: job.error.clone(),
            error_code: job.error_code,
            queue_position: snapshot.queue_position,
        }
    }
}

fn timestamp(ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
    }
}
