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
    convert::Infallible,
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
use futures::{
    StreamExt as _, TryStreamExt as _,
    future::{Either, select},
};

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
                    if !self.compare(round).await? {
                        made.stopped_at_budget = true;
                        return Ok(None);
                    }
                    continue;
                }
                Step::Make { round, missing } => (round, missing),
            };
            let (own, others) = self.deal(&standing, missing);
            drop(standing);
            if !own.is_empty() {
                return Ok(Some((round, own)));
            }
            match self.waits_for(listed, others.len()).await? {
                Waited::Came => continue,
                Waited::InVain => self.watcher.waited_in_vain(self.share.wait, &others),
                Waited::Spent => {}
            }
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
        if let Some(marks) = marks
            && let Err(error) = marks.keep(writer, &manifest).await
        {
            // They are made again from the shard where they are wanted.
            tracing::warn!(%partition, "what is compared of its samples was not kept: {error}");
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

    /// Has it written which samples repeat one of another partition, by this process or another; not
    /// where the budget is spent before.
    async fn compare(&self, round: u32) -> Result<bool> {
        kill_point::pass("compare.before");
        if self.share.count <= 1 || self.share.wait.is_zero() {
            self.compare_here(round).await?;
            return Ok(true);
        }
        match self.claim(round).await? {
            Waited::Came => {}
            Waited::Spent => return Ok(false),
            Waited::InVain => {
                let renewing = std::pin::pin!(self.renew_claim(round));
                let comparing = std::pin::pin!(self.compare_here(round));
                match select(comparing, renewing).await {
                    Either::Left((compared, _)) => compared?,
                    Either::Right((never, _)) => match never {},
                }
            }
        }
        Ok(true)
    }

    async fn compare_here(&self, round: u32) -> Result<()> {
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

    /// Waits for the comparison of the process that claimed it first. In vain where that is this one,
    /// nobody renews the claim, or it takes longer than this process waits.
    async fn claim(&self, round: u32) -> Result<Waited> {
        let own = self.claimant();
        if self.writer.claims_round(round, &own).await? {
            return Ok(Waited::InVain);
        }
        let mut last = self.writer.claim_of(round).await?;
        let mut pauses = self.pauses();
        // One that was killed and runs again has its claim still.
        let is_own = |claim: &Option<String>| claim.as_ref().is_some_and(|c| c.starts_with(&own));
        while !is_own(&last) && pauses.since.elapsed() < CLAIM_LASTS {
            self.watcher.waits_for(1);
            if !pauses.pass().await {
                return Ok(pauses.end());
            }
            if self.writer.has_round(round).await? {
                return Ok(Waited::Came);
            }
            let found = self.writer.claim_of(round).await?;
            if found != last {
                last = found;
                pauses.since = Instant::now();
            }
        }
        self.writer.renew_claim(round, &own).await?;
        Ok(Waited::InVain)
    }

    /// Says again and again that this process is at a comparison.
    async fn renew_claim(&self, round: u32) -> Infallible {
        let mut count = 0_u64;
        loop {
            tokio::time::sleep(CLAIM_RENEWED).await;
            count += 1;
            let claim = format!("{}{count}\n", self.claimant());
            if let Err(error) = self.writer.renew_claim(round, &claim).await {
                tracing::warn!("others may make the same comparison: {error}");
            }
        }
    }

    /// The first line of this process's claims.
    fn claimant(&self) -> String {
        let Share { index, count, .. } = self.share;
        format!("{index} of {count}\n")
    }

    /// Waits until `count` partitions of others have come behind `begin`: in vain where none came for as
    /// long as this process waits.
    async fn waits_for(&self, begin: usize, count: usize) -> Result<Waited> {
        let mut last = begin;
        let mut pauses = self.pauses();
        loop {
            self.watcher.waits_for((begin + count).saturating_sub(last));
            if !pauses.pass().await {
                return Ok(pauses.end());
            }
            let found = self.writer.manifest_count().await?;
            if found >= begin + count {
                return Ok(Waited::Came);
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

/// What came of waiting for others.
enum Waited {
    /// What was waited for.
    Came,
    /// Nothing, for as long as this process waits.
    InVain,
    /// The end of the budget.
    Spent,
}

/// How often a claim is renewed, and after which time without that it is nobody's any more.
const CLAIM_RENEWED: Duration = Duration::from_secs(5);
const CLAIM_LASTS: Duration = Duration::from_secs(30);

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

    /// Why there are no more.
    fn end(&self) -> Waited {
        match self.making.watcher.account.is_spent() {
            true => Waited::Spent,
            false => Waited::InVain,
        }
    }

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
