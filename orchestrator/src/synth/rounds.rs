//! From partitions to a dataset: round by round, alone or beside other processes.
//!
//! Round 0 is dealt out to the processes. When all its partitions are there, whoever sees it writes
//! which samples repeat one of another partition, and their slots are the next round, dealt out
//! likewise. A process that is done with its share waits for the others as long as it was told to.
//! Then it leaves, in round 0, and the last one to end goes on alone; in a later round, which is
//! small, it makes what is missing itself. Who makes what decides nothing: a partition is a pure
//! function of the recipe and of the rounds before it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use dataset::{
    duplicates::{self, Frozen},
    plan::Partition,
    store::{Error as StoreError, Location, Reader, Round, Standing, Step, Writer},
};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{
    CONCURRENT_PARTITIONS, Capped, Plan, Share, Watcher as _,
    partition::{self, Outcome, Task},
};
use crate::suite::Suite;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Partitions made now.
    pub(super) partitions: u64,
    /// Whether the budget ended it.
    pub(super) stopped_at_budget: bool,
    /// Partitions of other processes that were not there at the end.
    pub(super) awaited: u64,
}

/// The making of one dataset by one process.
pub(super) struct Making<'a> {
    pub(super) suite: &'a Suite,
    pub(super) plan: &'a Plan,
    pub(super) place: &'a Location,
    pub(super) writer: &'a Writer,
    pub(super) share: Share,
    pub(super) watcher: &'a Capped<'a>,
}

/// What earlier rounds accepted, for one round.
type Earlier = Option<(u32, Arc<Frozen>)>;

impl Making<'_> {
    /// Makes all that this process can.
    pub(super) async fn all(&self) -> Result<Made> {
        let mut made = Made::default();
        let mut earlier: Earlier = None;
        loop {
            // Before the manifest is read: what comes in between is then not waited for.
            let listed = self.writer.manifest_count().await?;
            let standing = self.writer.standing().await?;
            let (round, missing) = match standing.step(&self.plan.wanted, self.plan.compares()) {
                Step::Done => return Ok(made),
                Step::Compare { round } => {
                    self.compare(round).await?;
                    continue;
                }
                Step::Make { round, missing } => (round, missing),
            };
            let (own, others) = self.deal(&standing, missing);
            let work = match (own.is_empty(), round) {
                (false, _) => own,
                (true, _) if self.waits_for(listed, others.len()).await? => continue,
                (true, round) => {
                    self.watcher.waited_in_vain(self.share.wait, &others);
                    if round == 0 {
                        made.awaited = others.len() as u64;
                        return Ok(made);
                    }
                    others
                }
            };
            if round > 0 && earlier.as_ref().is_none_or(|(of, _)| *of != round) {
                earlier = Some((round, self.earlier(round).await?));
            }
            let frozen = earlier.as_ref().map(|(_, frozen)| frozen);
            let count = self.make(&work, frozen).await?;
            made.partitions += count;
            if self.watcher.account.is_spent() && count < work.len() as u64 {
                made.stopped_at_budget = true;
                return Ok(made);
            }
        }
    }

    /// The missing partitions of this process's share, and those of the others; several processes
    /// begin with the latter at different places.
    fn deal(
        &self,
        standing: &Standing,
        missing: Vec<Partition>,
    ) -> (Vec<Partition>, Vec<Partition>) {
        let share = dealt(self.plan, standing, self.share);
        let is_own = |found: &Partition| share.contains(found);
        let (own, mut others): (Vec<_>, Vec<_>) = missing.into_iter().partition(is_own);
        let begin = others.len() * self.share.index as usize / self.share.count.max(1) as usize;
        others.rotate_left(begin);
        (own, others)
    }

    /// Makes partitions until the budget is spent, and says how many; what another process has
    /// committed meanwhile counts and costs nothing.
    async fn make(&self, partitions: &[Partition], frozen: Option<&Arc<Frozen>>) -> Result<u64> {
        let made: Vec<()> = futures::stream::iter(partitions)
            .take_while(|_| std::future::ready(!self.watcher.account.is_spent()))
            .map(|partition| self.make_one(partition, frozen))
            .buffer_unordered(CONCURRENT_PARTITIONS)
            .try_collect()
            .await?;
        Ok(made.len() as u64)
    }

    async fn make_one(&self, partition: &Partition, frozen: Option<&Arc<Frozen>>) -> Result<()> {
        if partition.round > 0 && self.writer.is_committed(partition).await? {
            return Ok(());
        }
        let frozen = frozen.cloned();
        let task = Task { partition, frozen };
        let Outcome {
            samples,
            rejected,
            tally,
        } = partition::make(self.suite, self.plan, task, self.watcher).await?;
        let commit = self
            .writer
            .commit_with_rejected(partition, samples, rejected, tally);
        match commit.await {
            // Who makes a later round is not dealt out for good, and remote answers may differ.
            Err(lost @ StoreError::LostRace { .. }) if partition.round > 0 => {
                tracing::warn!(%partition, "{lost}");
                Ok(())
            }
            committed => Ok(committed.map(|_| ())?),
        }
    }

    async fn earlier(&self, round: u32) -> Result<Arc<Frozen>> {
        let reader = Reader::open(self.place.open()?).await?;
        let frozen = Frozen::read(&reader, round, self.plan.bounds()).await;
        Ok(Arc::new(frozen.context("reading the earlier rounds")?))
    }

    /// Writes which samples repeat one of another partition.
    async fn compare(&self, round: u32) -> Result<()> {
        let reader = Reader::open(self.place.open()?).await?;
        // Another process may have written it since, and then the reader leaves out what it names.
        let step = reader
            .standing()
            .step(&self.plan.wanted, self.plan.compares());
        if !matches!(step, Step::Compare { round: due } if due == round) {
            return Ok(());
        }
        let dropped = duplicates::among(&reader, self.plan.bounds()).await;
        let dropped = dropped.context("comparing the partitions with each other")?;
        self.watcher.samples_dropped(dropped.len() as u64);
        let is_last = round > self.plan.max_rounds;
        let round = Round::new(&self.plan.wanted, round, is_last, dropped);
        self.writer.commit_round(&round).await?;
        Ok(())
    }

    /// Waits until `count` partitions of others have come behind `begin`, and says whether they have:
    /// not where none came for as long as this process waits.
    async fn waits_for(&self, begin: usize, count: usize) -> Result<bool> {
        let (mut last, mut since) = (begin, Instant::now());
        let mut pause = FIRST_PAUSE;
        while since.elapsed() < self.share.wait {
            self.watcher.waits_for((begin + count).saturating_sub(last));
            tokio::time::sleep(pause.min(self.share.wait.saturating_sub(since.elapsed()))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let found = self.writer.manifest_count().await?;
            if found >= begin + count {
                return Ok(true);
            }
            if found != last {
                (last, since) = (found, Instant::now());
            }
        }
        Ok(false)
    }
}

/// Pauses between two looks at what others have committed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The partitions of one process, in all rounds so far: of each round, every n-th.
pub(super) fn dealt(plan: &Plan, standing: &Standing, share: Share) -> HashSet<Partition> {
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    let is_own = |partition: &Partition| {
        let number = counts.entry(partition.round).or_default();
        *number += 1;
        (*number - 1) % share.count.max(1) == share.index
    };
    let all = plan.wanted.partitions().chain(standing.later_partitions());
    all.filter(is_own).collect()
}
