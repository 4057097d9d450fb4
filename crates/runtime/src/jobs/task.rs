//! One job's turn.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{Inner, JobOf, State, Work, now_ms};
use crate::{Kind, ServiceError as _};

/// A job under way, in the hands of its [`Work`]. Cheap to clone, also onto a device thread.
#[derive(Debug)]
pub struct Task<W: Work> {
    inner: Arc<Inner<W>>,
    job: Arc<JobOf<W>>,
    folder: PathBuf,
    cancel: CancellationToken,
    saved: Arc<Mutex<Instant>>,
}

impl<W: Work> Clone for Task<W> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            job: Arc::clone(&self.job),
            folder: self.folder.clone(),
            cancel: self.cancel.clone(),
            saved: Arc::clone(&self.saved),
        }
    }
}

/// Progress reaches the disk no more often than this; those who watch see all of it.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

impl<W: Work> Task<W> {
    /// The job's id.
    pub fn id(&self) -> &str {
        &self.job.id
    }

    /// What to do.
    pub fn spec(&self) -> &W::Spec {
        &self.job.spec
    }

    /// This owner's turn, from 1; above 1 an earlier owner may have left checkpoints. Checkpoints
    /// carry it.
    pub fn epoch(&self) -> u64 {
        self.job.epoch
    }

    /// The progress an earlier owner last reported.
    pub fn earlier_progress(&self) -> Option<&W::Progress> {
        self.job.progress.as_ref()
    }

    /// The job's own folder, for checkpoints. It lives as long as the job's record.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Cancelled when the job is no longer wanted here.
    pub fn cancelled(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Whether the job is no longer wanted here: its caller, the end of this process, or a newer
    /// owner. Save a checkpoint (if [`is_owner`](Self::is_owner)) and return any error.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Whether no other process has taken the job over. Ask before anything is committed.
    pub fn is_owner(&self) -> bool {
        self.inner.store.owns(self.id(), self.epoch())
    }

    /// Tells how far it is: to all who watch now, to the disk at most once a second.
    pub fn report(&self, progress: W::Progress) {
        let job = self
            .inner
            .board()
            .update(self.id(), |job| job.progress = Some(progress));
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if saved.elapsed() < SAVE_INTERVAL {
            return;
        }
        *saved = Instant::now();
        if !self.is_owner() {
            tracing::warn!(job = self.id(), "another process took this job over");
            self.inner.board().abandon(self.id());
        } else if let Some(job) = job
            && let Err(error) = self.inner.store.save(&job)
        {
            tracing::warn!(
                error = crate::error::chain(&error),
                "progress is not on disk"
            );
        }
    }
}

/// What a caller is told of a fault of ours.
const HIDDEN: &str = "internal error; the service's log has it";

impl<W: Work> Inner<W> {
    /// Runs one job after another until the stop.
    pub(super) async fn work_through(self: Arc<Self>) {
        let _ended = self.ended.clone().drop_guard();
        loop {
            if self.stop.is_cancelled() {
                return;
            }
            let next = self.board().take();
            match next {
                Some((job, cancel)) => self.run(job, cancel).await,
                None => tokio::select! {
                    () = self.wake.notified() => {}
                    () = self.stop.cancelled() => return,
                },
            }
        }
    }

    async fn run(self: &Arc<Self>, job: Arc<JobOf<W>>, cancel: CancellationToken) {
        let id = job.id.clone();
        // It may have waited here while another process took it over.
        if !self.store.owns(&id, job.epoch) {
            tracing::warn!(job = id, "another process took this job over");
            return self.board().abandon(&id);
        }
        let folder = self.store.save(&job).and_then(|()| self.store.work(&id));
        let folder = match folder {
            Ok(folder) => folder,
            Err(error) => return self.fail(&id, error.to_string(), error.kind().code()),
        };
        tracing::info!(job = id, epoch = job.epoch, "a job begins");
        let saved = Arc::new(Mutex::new(Instant::now()));
        let inner = Arc::clone(self);
        let task = Task {
            inner,
            job: Arc::clone(&job),
            folder,
            cancel: cancel.clone(),
            saved,
        };
        // Its own tokio task, so that a panic in it ends this job and not the queue.
        let mut running = tokio::spawn(Arc::clone(&self.work).run(task));
        let result = tokio::select! {
            result = &mut running => result,
            () = self.stop.cancelled() => {
                cancel.cancel();
                running.await
            }
        };
        self.conclude(&job, result.map_err(|panic| panic.to_string()));
    }

    fn conclude(&self, job: &JobOf<W>, result: Result<Result<W::Result, W::Error>, String>) {
        let id = &job.id;
        if !self.store.owns(id, job.epoch) {
            tracing::warn!(
                job = id,
                epoch = job.epoch,
                "a stale owner's outcome is dropped"
            );
            return;
        }
        match result {
            Ok(Ok(result)) => self.end(id, State::Succeeded, |job| job.result = Some(result)),
            _ if self.board().is_cancelled_by_caller(id) => self.end(id, State::Cancelled, |job| {
                "cancelled by its caller".clone_into(&mut job.error);
            }),
            _ if self.stop.is_cancelled() => {
                tracing::info!(job = id, "a job is left to the next process");
            }
            Ok(Err(error)) => {
                let (kind, text) = (error.kind(), crate::error::chain(&error));
                let shown = match kind {
                    Kind::Internal => {
                        tracing::error!(job = id, error = text, "a job failed");
                        HIDDEN.to_owned()
                    }
                    // Its caller is told; the log need not complain as well.
                    _ => {
                        tracing::info!(job = id, error = text, "a job failed");
                        text
                    }
                };
                self.fail(id, shown, kind.code());
            }
            Err(panic) => {
                tracing::error!(job = id, panic, "a job panicked");
                self.fail(id, HIDDEN.to_owned(), Code::Internal);
            }
        }
    }

    fn fail(&self, id: &str, error: String, code: Code) {
        self.end(id, State::Failed, |job| {
            job.error = error;
            job.error_code = i32::from(code).unsigned_abs();
        });
    }

    fn end(&self, id: &str, state: State, change: impl FnOnce(&mut JobOf<W>)) {
        // On disk before those who watch learn of it: what they are told stays true.
        let Ok(mut job) = self
            .get(id)
            .map(|snapshot| JobOf::<W>::clone(&snapshot.job))
        else {
            return;
        };
        change(&mut job);
        job.state = state;
        job.ended_at_ms = Some(now_ms());
        if let Err(error) = self.store.save(&job) {
            tracing::error!(
                job = id,
                error = crate::error::chain(&error),
                "an outcome is not on disk"
            );
        }
        tracing::info!(job = id, ?state, "a job ended");
        self.board().update(id, |current| *current = job);
    }
}
