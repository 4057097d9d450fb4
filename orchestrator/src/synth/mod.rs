//! Synthesis: a recipe becomes a dataset, partition by partition.

mod budget;
mod evaluation_sets;
pub mod gates;
mod partition;
mod stages;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use dataset::{
    plan::Partition,
    store::{Location, PartitionManifest, Reader, Writer},
};
use futures::{StreamExt as _, TryStreamExt as _};
use proto::promptgen::v1::PromptSplit;
use serde::{Deserialize, Serialize};

pub use self::budget::{Budget, MalformedBudget};
use self::{budget::Account, evaluation_sets::EvaluationSets, partition::Outcome};
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
}

impl Share {
    /// One process makes everything.
    pub const ALL: Self = Self {
        index: 0,
        count: 1,
        budget: Budget::NONE,
    };
}

/// Hears of the work as it goes on, from several partitions at a time.
pub trait Watcher: Send + Sync {
    /// A picture was rendered.
    fn image_done(&self);
    /// A sample was accepted.
    fn sample_accepted(&self);
}

/// What a synthesis came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Samples in the dataset.
    pub accepted: u64,
    /// Samples wanted that could not be made within the attempts.
    pub missing: u64,
    /// Partitions made now, not found.
    pub made_partitions: u64,
    /// Partitions committed, of this share.
    pub partitions: u64,
    /// Attempts that came to nothing, by gate or stage.
    pub rejected: BTreeMap<String, u64>,
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
            evaluation_sets: None,
        }
    }

    /// The plan with the evaluation sets that its gates name, to hold its own samples against.
    ///
    /// # Errors
    /// A set that cannot be read.
    pub fn with_evaluation_sets(mut self, assets: &Assets) -> Result<Self> {
        let sets = EvaluationSets::read(&self.gates.evaluation_sets, assets)?;
        self.evaluation_sets = sets.map(Arc::new);
        Ok(self)
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

    /// The partitions of one process.
    fn partitions(&self, share: Share) -> Vec<Partition> {
        self.wanted
            .partitions_of_shard(share.index, share.count)
            .collect()
    }
}

/// Any constant will do; it only keeps the two id spaces apart.
const BENCHMARK_SEED: u64 = 0x6265_6e63_686d_6172;

/// Makes the partitions of `share` that the folder lacks.
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
    let committed = writer.committed().await?;
    let mut missing = plan.partitions(share);
    missing.retain(|partition| !committed.contains_key(partition));
    let watcher = Capped {
        account: Account::open(share.budget),
        watcher,
    };
    let made: Vec<()> = futures::stream::iter(&missing)
        .take_while(|_| std::future::ready(!watcher.account.is_spent()))
        .map(|partition| async {
            let Outcome {
                samples,
                rejected,
                tally,
            } = partition::make(suite, plan, partition, &watcher).await?;
            writer
                .commit_with_rejected(partition, samples, rejected, tally)
                .await?;
            anyhow::Ok(())
        })
        .buffer_unordered(CONCURRENT_PARTITIONS)
        .try_collect()
        .await?;
    let mut summary = summarize(plan, place, share, made.len() as u64).await?;
    summary.stopped_at_budget = made.len() < missing.len();
    Ok(summary)
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
}

/// Samples wanted of one share.
pub fn wanted(plan: &Plan, share: Share) -> u64 {
    plan.partitions(share).iter().map(slot_count).sum()
}

/// Samples of one share that are committed already.
///
/// # Errors
/// The place cannot be read, or holds another plan's samples.
pub async fn accepted(plan: &Plan, place: &Location, share: Share) -> Result<u64> {
    Ok(committed(plan, place, share)
        .await?
        .iter()
        .map(|manifest| manifest.shard.sample_count)
        .sum())
}

/// Whether every partition is committed.
///
/// # Errors
/// As [`accepted`].
pub async fn is_complete(plan: &Plan, place: &Location) -> Result<bool> {
    Ok(committed(plan, place, Share::ALL).await?.len() == plan.partitions(Share::ALL).len())
}

/// Manifests of one share's committed partitions; none where there is no dataset.
async fn committed(plan: &Plan, place: &Location, share: Share) -> Result<Vec<PartitionManifest>> {
    let writer = match place.find()? {
        Some(root) => Writer::find(root, &plan.wanted).await?,
        None => None,
    };
    let Some(writer) = writer else {
        return Ok(Vec::new());
    };
    let mut committed = writer.committed().await?;
    Ok(plan
        .partitions(share)
        .iter()
        .filter_map(|partition| committed.remove(partition))
        .collect())
}

async fn summarize(
    plan: &Plan,
    place: &Location,
    share: Share,
    made_partitions: u64,
) -> Result<Summary> {
    let mut summary = Summary {
        made_partitions,
        ..Summary::default()
    };
    for manifest in committed(plan, place, share).await? {
        summary.partitions += 1;
        summary.accepted += manifest.shard.sample_count;
        for (reason, count) in manifest.tally.rejected_counts {
            *summary.rejected.entry(reason).or_default() += count;
        }
    }
    summary.missing = wanted(plan, share).saturating_sub(summary.accepted);
    summary.manifest_sha256 = Reader::open(place.open()?).await?.manifest_sha256();
    Ok(summary)
}

fn slot_count(partition: &Partition) -> u64 {
    let slots = partition.slots();
    slots.end - slots.start
}
