//! The jobs in memory: what is known, what waits, who watches.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Changes, Error, JobOf, Page, Snapshot, State, Work, now_ms};
use crate::prometheus::QueueDepth;

/// See the module.
pub(super) struct Board<W: Work> {
    entries: BTreeMap<String, Entry<W>>,
    queue: VecDeque<String>,
    depth: QueueDepth,
}

struct Entry<W: Work> {
    current: watch::Sender<Arc<JobOf<W>>>,
    /// Ends the run: asked for by the caller, by the stop of the process, or by a newer owner.
    cancel: CancellationToken,
    cancelled_by_caller: bool,
}

impl<W: Work> Board<W> {
    /// A board with these jobs; those that have not ended wait, the oldest first.
    pub(super) fn new(mut jobs: Vec<JobOf<W>>, depth: QueueDepth) -> Self {
        jobs.sort_by_key(|job| (job.created_at_ms, job.id.clone()));
        let mut board = Self {
            entries: BTreeMap::new(),
            queue: VecDeque::new(),
            depth,
        };
        for job in jobs {
            board.add(job);
        }
        board
    }

    /// Adds a job, and queues it unless it has ended.
    pub(super) fn add(&mut self, job: JobOf<W>) -> Snapshot<W> {
        let id = job.id.clone();
        if !job.state.is_final() {
            self.queue.push_back(id.clone());
            self.depth.set(self.queue.len());
        }
        let job = Arc::new(job);
        let (current, _) = watch::channel(Arc::clone(&job));
        let cancel = CancellationToken::new();
        self.entries.insert(
            id.clone(),
            Entry {
                current,
                cancel,
                cancelled_by_caller: false,
            },
        );
        Snapshot {
            job,
            queue_position: self.position(&id),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many stand before it in the queue.
    pub(super) fn position(&self, id: &str) -> u32 {
        let position = self.queue.iter().position(|queued| queued == id);
        position.map_or(0, |position| u32::try_from(position).unwrap_or(u32::MAX))
    }

    pub(super) fn snapshot(&self, id: &str) -> Result<Snapshot<W>, Error> {
        let job = Arc::clone(&self.entry(id)?.current.borrow());
        Ok(Snapshot {
            job,
            queue_position: self.position(id),
        })
    }

    pub(super) fn changes(&self, id: &str) -> Result<Changes<W>, Error> {
        Ok(self.entry(id)?.current.subscribe())
    }

    pub(super) fn page(&self, size: usize, token: &str) -> Result<Page<W>, Error> {
        let before = (!token.is_empty())
            .then(|| parse_token(token))
            .transpose()?;
        let mut keys: Vec<(u64, &str)> = self
            .entries
            .iter()
            .map(|(id, entry)| (entry.current.borrow().created_at_ms, id.as_str()))
            .filter(|key| before.is_none_or(|before| *key < before))
            .collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        let next_page_token = match keys.get(size) {
            Some(_) => keys[..size].last().map(|(at, id)| format!("{at:x}.{id}")),
            None => None,
        };
        keys.truncate(size);
        let jobs = keys
            .iter()
            .map(|(_, id)| self.snapshot(id))
            .collect::<Result<_, _>>()?;
        Ok(Page {
            jobs,
            next_page_token: next_page_token.unwrap_or_default(),
        })
    }

    /// The next job's turn. It is RUNNING from here on.
    pub(super) fn take(&mut self) -> Option<(Arc<JobOf<W>>, CancellationToken)> {
        let id = self.queue.pop_front()?;
        self.depth.set(self.queue.len());
        let job = self.update(&id, |job| {
            job.state = State::Running;
            job.started_at_ms.get_or_insert_with(now_ms);
        })?;
        let cancel = self.entries.get(&id)?.cancel.clone();
        Some((job, cancel))
    }

    /// Changes a job and tells those who watch it.
    pub(super) fn update(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut JobOf<W>),
    ) -> Option<Arc<JobOf<W>>> {
        let entry = self.entries.get(id)?;
        let mut job = JobOf::<W>::clone(&entry.current.borrow());
        change(&mut job);
        let job = Arc::new(job);
        entry.current.send_replace(Arc::clone(&job));
        Some(job)
    }

    /// Ends a job for its caller; gives the ended job back when it was still waiting.
    pub(super) fn cancel(&mut self, id: &str) -> Option<Arc<JobOf<W>>> {
        let entry = self.entries.get_mut(id)?;
        entry.cancelled_by_caller = true;
        entry.cancel.cancel();
        let position = self.queue.iter().position(|queued| queued == id)?;
        self.queue.remove(position);
        self.depth.set(self.queue.len());
        self.update(id, |job| {
            job.state = State::Cancelled;
            job.ended_at_ms = Some(now_ms());
            "cancelled before it began".clone_into(&mut job.error);
        })
    }

    pub(super) fn is_cancelled_by_caller(&self, id: &str) -> bool {
        self.entries
            .get(id)
            .is_some_and(|entry| entry.cancelled_by_caller)
    }

    /// Ends the run of a job that is no longer ours.
    pub(super) fn abandon(&self, id: &str) {
        if let Some(entry) = self.entries.get(id) {
            entry.cancel.cancel();
        }
    }

    /// Forgets the oldest ended jobs beyond `kept`, and says which.
    pub(super) fn forget(&mut self, kept: usize) -> Vec<String> {
        let mut ended: Vec<(u64, String)> = self
            .entries
            .iter()
            .map(|(id, entry)| (entry.current.borrow(), id))
            .filter(|(job, _)| job.state.is_final())
            .map(|(job, id)| (job.created_at_ms, id.clone()))
            .collect();
        ended.sort_unstable();
        let excess = ended.len().saturating_sub(kept);
        let forgotten: Vec<String> = ended.drain(..excess).map(|(_, id)| id).collect();
        for id in &forgotten {
            self.entries.remove(id);
        }
        forgotten
    }

    fn entry(&self, id: &str) -> Result<&Entry<W>, Error> {
        self.entries
            .get(id)
            .ok_or_else(|| Error::NotFound(id.to_owned()))
    }
}

fn parse_token(token: &str) -> Result<(u64, &str), Error> {
    let (at, id) = token.split_once('.').ok_or(Error::PageToken)?;
    let at = u64::from_str_radix(at, 16).map_err(|_| Error::PageToken)?;
    Ok((at, id))
}
