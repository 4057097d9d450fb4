//! From partitions to a dataset: round by round, alone or beside other processes.
//!
//! Round 0 is dealt out to the processes. When all its partitions are there, whoever sees it writes
//! which samples repeat one of another partition, and their slots are the next round, dealt out
//! likewise. Of processes that wait for each other, the first makes that comparison and the others wait
//! for it. A process that is done with its share waits for the others as long as it was told to.
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
    duplicates::{self, Frozen, Marks},
    plan::Partition,
    store::{
        Commit, Error as StoreError, Location, Reader, Round, Standing, Step, Writer, kill_point,
    },
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
    /// Partitions made now, and by this process.
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

/// What there was before a round.
struct Earlier {
    round: u32,
    frozen: Arc<Frozen>,
    /// To ask which samples were dropped, where the next attempts are told of them.
    reader: Option<Reader>,
}

impl Making<'_> {
    /// Makes all that this process can.
    pub(super) async fn all(&self) -> Result<Made> {
        let mut made = Made::default();
        let mut earlier: Option<Earlier> = None;
        while let Some((round, work)) = self.due(&mut made).await? {
            let is_known = |earlier: &Earlier| earlier.round == round;
            if round > 0 && !earlier.as_ref().is_some_and(is_known) {
                earlier = Some(self.earlier(round).await?);
            }
            let Passed { passed, made: own } = self.make(&work, earlier.as_ref()).await?;
            made.partitions += own;
            if passed < work.len() {
                made.stopped_at_budget = true;
                break;
            }
        }
        Ok(made)
    }

    /// What this process is to make next, and of which round, when it has made the comparison that was
    /// due, or has waited for others. Nothing where all is there, or is left to the others.
    async fn due(&self, made: &mut Made) -> Result<Option<(u32, Vec<Partition>)>> {
        loop {
            // Before the manifest is read: what comes in between is then not waited for.
            let listed = self.writer.manifest_count().await?;
            let standing = self.writer.standing().await?;
            let (round, missing) = match standing.step(&self.plan.wanted, self.plan.compares()) {
                Step::Done => return Ok(None),
                Step::Compare { round } => {
                    // It is read again for that, and not to be in memory twice.
                    drop(standing);
                    self.compare(round).await?;
                    continue;
                }
                Step::Make { round, missing } => (round, missing),
            };
            let (own, others) = self.deal(&standing, missing);
            drop(standing);
            if !own.is_empty() {
                return Ok(Some((round, own)));
            }
            if self.waits_for(listed, others.len()).await? {
                continue;
            }
            self.watcher.waited_in_vain(self.share.wait, &others);
            if round > 0 {
                return Ok(Some((round, others)));
            }
            made.awaited = others.len() as u64;
            return Ok(None);
        }
    }

    /// The missing partitions of this process's share, and those of the others; several processes
    /// begin with the latter at different places.
    fn deal(
        &self,
        standing: &Standing,
        missing: Vec<Partition>,
    ) -> (Vec<Partition>, Vec<Partition>) {
        if self.share.count == 1 {
            return (missing, Vec::new());
        }
        let share: HashSet<Partition> = dealt(self.plan, standing, self.share).collect();
        let is_own = |found: &Partition| share.contains(found);
        let (own, mut others): (Vec<_>, Vec<_>) = missing.into_iter().partition(is_own);
        let begin = others.len() * self.share.index as usize / self.share.count.max(1) as usize;
        others.rotate_left(begin);
        (own, others)
    }

    /// Makes partitions until the budget is spent; what another process has committed meanwhile costs
    /// nothing.
    async fn make(&self, partitions: &[Partition], earlier: Option<&Earlier>) -> Result<Passed> {
        let made: Vec<bool> = futures::stream::iter(partitions)
            .take_while(|_| std::future::ready(!self.watcher.account.is_spent()))
            .map(|partition| self.make_one(partition, earlier))
            .buffer_unordered(CONCURRENT_PARTITIONS)
            .try_collect()
            .await?;
        Ok(Passed {
            passed: made.len(),
            made: made.into_iter().filter(|&is_made| is_made).count() as u64,
        })
    }

    /// Makes a partition, and says whether nobody else has.
    async fn make_one(&self, partition: &Partition, earlier: Option<&Earlier>) -> Result<bool> {
        if partition.round > 0 && self.writer.is_committed(partition).await? {
            return Ok(false);
        }
        let reader = earlier.and_then(|earlier| earlier.reader.as_ref());
        let task = Task {
            partition,
            frozen: earlier.map(|earlier| earlier.frozen.clone()),
            failed_texts: match reader {
                Some(reader) => dropped_texts(reader, partition).await?,
                None => Vec::new(),
            },
        };
        let made = partition::make(self.suite, self.plan, task, self.watcher).await?;
        self.commit(partition, made).await
    }

    async fn commit(&self, partition: &Partition, made: Outcome) -> Result<bool> {
        let Outcome {
            samples,
            pictures,
            rejected,
            tally,
        } = made;
        let marks = self.plan.compares().then(|| {
            let hashed = samples.iter().zip(pictures.into_values());
            Marks::of(hashed, self.plan.bounds())
        });
        let writer = self.writer;
        let commit = writer.commit_with_rejected(partition, samples, rejected, tally);
        let manifest = match commit.await {
            Ok(Commit::Created(manifest)) => manifest,
            Ok(Commit::AlreadyThere(_)) => return Ok(false),
            // Who makes a later round is not dealt out for good, and remote answers may differ.
            Err(lost @ StoreError::LostRace { .. }) if partition.round > 0 => {
                tracing::warn!(%partition, "{lost}");
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(marks) = marks {
            marks.keep(writer, &manifest).await?;
        }
        Ok(true)
    }

    async fn earlier(&self, round: u32) -> Result<Earlier> {
        let reader = Reader::open(self.place.open()?).await?;
        let frozen = Frozen::read(&reader, round, self.plan.bounds()).await;
        Ok(Earlier {
            round,
            frozen: Arc::new(frozen.context("reading the earlier rounds")?),
            reader: self.plan.rewrite.then_some(reader),
        })
    }

    /// Writes which samples repeat one of another partition.
    async fn compare(&self, round: u32) -> Result<()> {
        kill_point::pass("compare.before");
        if self.is_anothers(round).await? && self.comes(round).await? {
            return Ok(());
        }
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
        let dropped_count = dropped.len() as u64;
        let is_last = round > self.plan.max_rounds;
        let round = Round::new(&self.plan.wanted, round, is_last, dropped);
        self.writer.commit_round(&round).await?;
        self.watcher.samples_dropped(dropped_count);
        Ok(())
    }

    /// Whether another process is at a comparison, and this one is to wait for others.
    async fn is_anothers(&self, round: u32) -> Result<bool> {
        let Share { index, count, .. } = self.share;
        if count <= 1 || self.share.wait.is_zero() {
            return Ok(false);
        }
        let claimant = format!("{index} of {count}");
        Ok(!self.writer.claims_round(round, &claimant).await?)
    }

    /// Waits for the comparison of another process, and says whether it has come.
    async fn comes(&self, round: u32) -> Result<bool> {
        let mut pauses = self.pauses();
        while pauses.pass().await {
            if self.writer.has_round(round).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until `count` partitions of others have come behind `begin`, and says whether they have:
    /// not where none came for as long as this process waits, or its budget is spent.
    async fn waits_for(&self, begin: usize, count: usize) -> Result<bool> {
        let mut last = begin;
        let mut pauses = self.pauses();
        loop {
            self.watcher.waits_for((begin + count).saturating_sub(last));
            if !pauses.pass().await {
                return Ok(false);
            }
            let found = self.writer.manifest_count().await?;
            if found >= begin + count {
                return Ok(true);
            }
            if found != last {
                last = found;
                pauses.since = Instant::now();
            }
        }
    }

    fn pauses(&self) -> Pauses<'_> {
        Pauses {
            making: self,
            since: Instant::now(),
            next: Pauses::FIRST,
        }
    }
}

/// What became of partitions that were to be made.
struct Passed {
    /// Those that are there.
    passed: usize,
    /// Those of them that this process made.
    made: u64,
}

/// The prompts with which the slots of a later round came to nothing.
async fn dropped_texts(reader: &Reader, partition: &Partition) -> Result<Vec<String>> {
    let dropped = reader.dropped_before(partition).await?;
    let prompts = dropped.into_iter().flat_map(|sample| sample.prompts);
    Ok(prompts.map(|prompt| prompt.text).collect())
}

/// Pauses between two looks at what others have committed, each twice as long as the one before.
struct Pauses<'a> {
    making: &'a Making<'a>,
    /// When something came last.
    since: Instant,
    next: Duration,
}

impl Pauses<'_> {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(10);

    /// Pauses once; not where the time to wait is over, or the budget's.
    async fn pass(&mut self) -> bool {
        let Making { share, watcher, .. } = self.making;
        let left = share.wait.saturating_sub(self.since.elapsed());
        if left.is_zero() || watcher.account.is_spent() {
            return false;
        }
        let left = left.min(watcher.account.time_left());
        tokio::time::sleep(self.next.min(left)).await;
        self.next = (self.next * 2).min(Self::LONGEST);
        true
    }
}

/// The partitions of one process, in all rounds so far: of each round, every n-th.
pub(super) fn dealt<'a>(
    plan: &'a Plan,
    standing: &'a Standing,
    share: Share,
) -> impl Iterator<Item = Partition> + 'a {
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    let is_own = move |partition: &Partition| {
        let number = counts.entry(partition.round).or_default();
        *number += 1;
        (*number - 1) % share.count.max(1) == share.index
    };
    let all = plan.wanted.partitions().chain(standing.later_partitions());
    all.filter(is_own)
}
