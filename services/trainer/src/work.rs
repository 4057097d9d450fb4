//! Training as a job: reads the data, then computes on a thread of its own.

use std::sync::Arc;

use runtime::jobs::{Task, Work};
use tokio::sync::oneshot;

use crate::data;
use crate::error::Error;
use crate::features::FeatureCache;
use crate::output::Outcome;
use crate::plan::Plan;
use crate::train::{self, Observer, Progress};

/// The one trainer of a process; jobs come to it one after another.
#[derive(Debug)]
pub struct Trainer {
    features: Arc<FeatureCache>,
}

impl Trainer {
    /// A trainer that keeps image features up to a bound, in bytes.
    pub fn new(feature_cache_max_bytes: usize) -> Self {
        Self {
            features: Arc::new(FeatureCache::new(feature_cache_max_bytes)),
        }
    }
}

impl Work for Trainer {
    type Spec = Plan;
    type Progress = Progress;
    type Result = Outcome;
    type Error = Error;

    async fn run(self: Arc<Self>, task: Task<Self>) -> Result<Outcome, Error> {
        let sources = data::read(task.spec(), &task.cancelled()).await?;
        let features = Arc::clone(&self.features);
        let (answer, answered) = oneshot::channel();
        let compute = move || {
            let result = train::run(task.spec(), sources, &features, &task);
            // The receiver is gone only when the process ends; the checkpoint stands.
            drop(answer.send(result));
        };
        let thread = std::thread::Builder::new().name("trainer-device".into());
        thread.spawn(compute).map_err(|_| Error::DeviceLost)?;
        answered.await.unwrap_or(Err(Error::DeviceLost))
    }
}

impl Observer for Task<Trainer> {
    fn epoch(&self) -> u64 {
        Task::epoch(self)
    }

    fn is_cancelled(&self) -> bool {
        Task::is_cancelled(self)
    }

    fn is_owner(&self) -> bool {
        Task::is_owner(self)
    }

    fn report(&self, progress: Progress) {
        Task::report(self, progress);
    }
}
