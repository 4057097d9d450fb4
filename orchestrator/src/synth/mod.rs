//! Synthesis: a recipe becomes a dataset, partition by partition.

mod budget;
mod evaluation_sets;
pub mod gates;
mod makers;
mod partition;
mod rounds;
pub(crate) mod stages;
mod terms;
mod unchecked;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use dataset::{
    duplicates::Bounds,
    plan::Partition,
    store::{ACROSS_PARTITIONS, Location, Reader, Standing, Step, Writer},
};
use proto::promptgen::v1::PromptSplit;
use serde::{Deserialize, Serialize};

use self::{
    budget::Account,
    evaluation_sets::{EvaluationSets, foreign_sha256s},
    rounds::{Making, dealt},
};
pub use self::{
    budget::{Budget, MalformedBudget, wait},
    makers::{Makers, check_makers, makers},
    terms::check,
    unchecked::{Unchecked, unchecked},
};
use crate::{
    assets::Assets,
    recipe::{DialogueSettings, Gates, ImageSettings, MeasuringModels, Recipe},
    suite::Suite,
};

/// All that decides a dataset.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Samples wanted, the seed of everything random, and the hash that names the plan: a
    /// folder of another one is refused.
    pub wanted: dataset::plan::Plan,
    /// Attempts per slot.
    pub max_attempts: u32,
    /// Share of each style.
    pub style_weights: BTreeMap<String, f32>,
    /// Which part of the prompts to draw from.
    pub split: PromptSplit,
    /// How images are sampled.
    pub image: ImageSettings,
    /// How dialogues are written.
    pub dialogue: DialogueSettings,
    /// Models that measure for the gates.
    pub measure: MeasuringModels,
    /// What a sample must pass.
    pub gates: Gates,
    /// Pictures rendered for each prompt.
    pub seeds_per_prompt: u32,
    /// Whether the next attempt is told which texts came to nothing.
    pub rewrite: bool,
    /// Rounds that make anew what repeats a sample of another partition; 0: none is looked for.
    pub max_rounds: u32,
    /// What the evaluation sets that the gates name show and ask; none where they name none, or
    /// before [`Plan::with_evaluation_sets`].
    evaluation_sets: Option<Arc<EvaluationSets>>,
}

/// Which of how many processes this is, and how much it may take.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Number of the process, from 0.
    pub index: u32,
    /// Number of processes, 1 or more.
    pub count: u32,
    /// Cap of what this process makes now.
    pub budget: Budget,
    /// How long this process, when its share is done, waits for the next partition of the others;
    /// zero: not at all.
    pub wait: Duration,
}

impl Share {
    /// One process makes everything.
    pub const ALL: Self = Self {
        index: 0,
        count: 1,
        budget: Budget::NONE,
        wait: Duration::ZERO,
    };
}

/// Hears of the work as it goes on, from several partitions at a time.
pub trait Watcher: Send + Sync {
    /// A picture was rendered.
    fn image_done(&self);
    /// A sample was accepted.
    fn sample_accepted(&self);
    /// Accepted samples turned out to repeat others of another partition.
    fn samples_dropped(&self, _count: u64) {}
    /// So many partitions of other processes are waited for.
    fn waits_for(&self, _partitions: usize) {}
    /// None of these partitions of other processes came for so long.
    fn waited_in_vain(&self, _wait: Duration, _partitions: &[Partition]) {}
}

/// What a synthesis came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Samples in the dataset.
    pub accepted: u64,
    /// Samples wanted that could not be made within the attempts.
    pub missing: u64,
    /// Partitions that this process made now; what it found, or another committed before it, is none.
    pub made_partitions: u64,
    /// Partitions committed, of this share.
    pub partitions: u64,
    /// Accepted samples that repeated one of another partition and were taken out; their slots were
    /// made anew.
    #[serde(default)]
    pub repeated: u64,
    /// Rounds after the first that made such slots anew.
    #[serde(default)]
    pub later_rounds: u32,
    /// Partitions of other processes that were not there when this one ended.
    #[serde(default)]
    pub awaited: u64,
    /// Attempts that came to nothing, by gate or stage.
    pub rejected: BTreeMap<String, u64>,
    /// Samples by the gate that the recipe asks for and that had nothing to judge them by.
    #[serde(default)]
    pub unchecked: BTreeMap<String, u64>,
    /// Whether the budget ended it before all was made.
    #[serde(default)]
    pub stopped_at_budget: bool,
    /// Hash over the whole manifest, lower-case hexadecimal.
    pub manifest_sha256: String,
}

/// Partitions under way at a time: while one waits for its dialogues the device renders another.
const CONCURRENT_PARTITIONS: usize = 2;

impl Plan {
    /// The training data of a recipe.
    pub fn training(recipe: &Recipe) -> Self {
        let synth = &recipe.synth;
        Self {
            wanted: dataset::plan::Plan {
                recipe_sha256: recipe.synthesis_hash(),
                recipe_seed: recipe.seed,
                sample_counts: synth.abilities.clone(),
            },
            max_attempts: synth.max_attempts,
            style_weights: synth.style_weights.clone(),
            split: PromptSplit::Training,
            image: synth.image.clone(),
            dialogue: synth.dialogue.clone(),
            measure: synth.measure.clone(),
            gates: synth.gates.clone(),
            seeds_per_prompt: synth.seeds_per_prompt,
            rewrite: synth.rewrite,
            max_rounds: synth.max_rounds,
            evaluation_sets: None,
        }
    }

    /// The plan with the evaluation sets that its gates name, to hold its own samples against, and
    /// named as [`Plan::named_by_sets`] does.
    ///
    /// # Errors
    /// A set that cannot be read.
    pub fn with_evaluation_sets(mut self, assets: &Assets) -> Result<Self> {
        let sets = EvaluationSets::read(&self.gates.evaluation_sets, assets)?;
        let foreign = sets.as_ref().map(|sets| sets.foreign_sha256s.as_slice());
        self.add_to_name(foreign.unwrap_or_default());
        self.evaluation_sets = sets.map(Arc::new);
        Ok(self)
    }

    /// The plan whose hash also speaks of what the evaluation sets hold that are not the suite's own:
    /// a folder of the same name may hold other questions another day.
    ///
    /// # Errors
    /// A set that cannot be read.
    pub fn named_by_sets(mut self, assets: &Assets) -> Result<Self> {
        let foreign = foreign_sha256s(&self.gates.evaluation_sets, assets)?;
        self.add_to_name(&foreign);
        Ok(self)
    }

    fn add_to_name(&mut self, set_sha256s: &[String]) {
        for sha256 in set_sha256s {
            let name = format!("{} with {sha256}", self.wanted.recipe_sha256);
            self.wanted.recipe_sha256 = dataset::identity::sha256_hex(name);
        }
    }

    /// The held-out pictures of a recipe's AI-generated benchmark: other prompts, other seeds.
    pub fn benchmark(recipe: &Recipe, images_per_ability: u64) -> Self {
        let training = Self::training(recipe);
        let name = format!(
            "{} benchmark {images_per_ability}",
            training.wanted.recipe_sha256
        );
        let abilities = recipe.synth.abilities.keys();
        Self {
            wanted: dataset::plan::Plan {
                recipe_sha256: dataset::identity::sha256_hex(name),
                // Ids, and with them all random numbers, come from the seed.
                recipe_seed: recipe.seed ^ BENCHMARK_SEED,
                sample_counts: abilities
                    .map(|name| (name.clone(), images_per_ability))
                    .collect(),
            },
            split: PromptSplit::Benchmark,
            ..training
        }
    }

    /// Slots of one ability in all partitions.
    pub fn slot_count(&self, ability: &str) -> u64 {
        self.wanted.sample_counts.get(ability).copied().unwrap_or(0)
    }

    /// When samples of two partitions repeat each other: as inside of one.
    fn bounds(&self) -> Bounds {
        Bounds {
            max_prompt_similarity: self.gates.max_prompt_similarity,
            max_dialogue_similarity: self.gates.max_dialogue_similarity,
            max_picture_distance: self.gates.max_duplicate_distance,
        }
    }

    /// Whether partitions are compared with each other at all; one alone repeats no other.
    fn compares(&self) -> bool {
        self.max_rounds > 0 && self.wanted.partitions().nth(1).is_some()
    }
}

/// Any constant will do; it only keeps the two id spaces apart.
const BENCHMARK_SEED: u64 = 0x6265_6e63_686d_6172;

/// Makes the partitions of `share` that the folder lacks, and when all processes have made theirs,
/// the rounds that follow.
///
/// # Errors
/// A stage or the disk failed for good. What was committed before stays.
pub async fn synthesize(
    suite: &Suite,
    plan: &Plan,
    place: &Location,
    share: Share,
    watcher: &dyn Watcher,
) -> Result<Summary> {
    let writer = Writer::open(place.create()?, &plan.wanted).await?;
    let standing = writer.standing().await?;
    let is_done = standing.step(&plan.wanted, plan.compares()) == Step::Done;
    // What follows a comparison is made too, and by the same makers. One that ended short is not made
    // better by others either, and says so before it says again how it ended.
    if !is_done || count(plan, &standing, Share::ALL).missing > 0 {
        let makers = makers(suite, plan).await?;
        let before = writer.note_makers(&makers).await?;
        check_makers(&before, &makers, place)?;
    }
    let watcher = Capped {
        account: Account::open(share.budget),
        watcher,
    };
    let making = Making {
        suite,
        plan,
        place,
        writer: &writer,
        share,
        watcher: &watcher,
    };
    let made = making.all().await?;
    let summary = summarize(plan, place, share).await?;
    Ok(Summary {
        made_partitions: made.partitions,
        stopped_at_budget: made.stopped_at_budget,
        awaited: made.awaited,
        ..summary
    })
}

/// Counts against the budget what the other watcher hears of.
struct Capped<'a> {
    account: Account,
    watcher: &'a dyn Watcher,
}

impl Watcher for Capped<'_> {
    fn image_done(&self) {
        self.account.add_image();
        self.watcher.image_done();
    }

    fn sample_accepted(&self) {
        self.watcher.sample_accepted();
    }

    fn samples_dropped(&self, count: u64) {
        self.watcher.samples_dropped(count);
    }

    fn waits_for(&self, partitions: usize) {
        self.watcher.waits_for(partitions);
    }

    fn waited_in_vain(&self, wait: Duration, partitions: &[Partition]) {
        self.watcher.waited_in_vain(wait, partitions);
    }
}

/// Samples wanted of one share.
pub fn wanted(plan: &Plan, share: Share) -> u64 {
    let partitions = plan.wanted.partitions_of_shard(share.index, share.count);
    partitions.map(|partition| partition.slot_count()).sum()
}

/// Samples of one share that are committed already.
///
/// # Errors
/// The place cannot be read, or holds another plan's samples.
pub async fn accepted(plan: &Plan, place: &Location, share: Share) -> Result<u64> {
    let standing = standing(plan, place).await?;
    Ok(count(plan, &standing, share).accepted)
}

/// Whether nothing is left to do. Then nobody reads the shards of a folder again, so they are held
/// against their hashes here: all of them up to 256 MiB, of more every n-th, for a second's work at
/// most; an audit reads the rest.
///
/// # Errors
/// As [`accepted`]; or a shard is damaged.
pub async fn is_complete(plan: &Plan, place: &Location) -> Result<bool> {
    let Some((writer, standing)) = begun(plan, place).await? else {
        return Ok(false);
    };
    let is_done = standing.step(&plan.wanted, plan.compares()) == Step::Done;
    if is_done && place.folder().is_some() {
        // Another part each time: what one run has left out a later one finds.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let turn = now.map_or(0, |since| since.as_secs());
        let checked = writer.check_content(&standing, MOST_HASHED_BYTES, turn);
        let (read, all) = checked.await?;
        tracing::info!(read, all, "held shards against their hashes");
    }
    Ok(is_done)
}

/// Bytes of shards that a finished dataset is held against its hashes with.
const MOST_HASHED_BYTES: u64 = 256 << 20;

/// How far the dataset has come, if all is there that was committed; nothing where there is none.
async fn standing(plan: &Plan, place: &Location) -> Result<Standing> {
    let begun = begun(plan, place).await?;
    Ok(begun.map(|(_, standing)| standing).unwrap_or_default())
}

async fn begun(plan: &Plan, place: &Location) -> Result<Option<(Writer, Standing)>> {
    let writer = match place.find()? {
        Some(root) => Writer::find(root, &plan.wanted).await?,
        None => None,
    };
    let Some(writer) = writer else {
        return Ok(None);
    };
    let standing = writer.standing().await?;
    writer.check_shards(&standing).await?;
    Ok(Some((writer, standing)))
}

async fn summarize(plan: &Plan, place: &Location, share: Share) -> Result<Summary> {
    let reader = Reader::open(place.open()?).await?;
    Ok(Summary {
        manifest_sha256: reader.manifest_sha256(),
        ..count(plan, reader.standing(), share)
    })
}

/// What one share came to.
fn count(plan: &Plan, standing: &Standing, share: Share) -> Summary {
    let mut summary = Summary {
        later_rounds: standing.later_round_count(),
        ..Summary::default()
    };
    // Names are for what was dropped, and a million samples have thousands.
    let is_any_dropped = standing.dropped().next().is_some();
    let mut own = HashSet::new();
    for partition in dealt(plan, standing, share) {
        if is_any_dropped {
            own.insert(partition.to_string());
        }
        let Some(manifest) = standing.partitions().get(&partition) else {
            summary.missing += partition.slot_count();
            continue;
        };
        summary.partitions += 1;
        summary.accepted += manifest.shard.sample_count;
        summary.missing += partition.slot_count() - manifest.shard.sample_count;
        for (reason, count) in &manifest.tally.rejected_counts {
            *summary.rejected.entry(reason.clone()).or_default() += count;
        }
        for (gate, count) in &manifest.tally.unchecked_counts {
            *summary.unchecked.entry(gate.clone()).or_default() += count;
        }
    }
    for (dropped, stays_empty) in standing.dropped() {
        if own.contains(&dropped.partition) {
            summary.repeated += 1;
            summary.accepted = summary.accepted.saturating_sub(1);
            summary.missing += u64::from(stays_empty);
            let reason = format!("{ACROSS_PARTITIONS}:{}", dropped.measure);
            *summary.rejected.entry(reason).or_default() += 1;
        }
    }
    // What nobody could check of one sample, nobody could of those that were taken out.
    for count in summary.unchecked.values_mut() {
        *count = summary.accepted.min(*count);
    }
    summary
}
