//! What stands between two rounds: which samples repeat one of another partition.
//!
//! When every partition of a round is there, whoever comes first writes `rounds/<next>.json`. The
//! samples named in it are no part of the data any more, though their shards keep them; their slots,
//! in partitions of their own, are the next round. An empty list ends the rounds.

use super::{
    Error, Root, kill_point,
    manifest::{LAYOUT_VERSION, check_version, from_json, to_json},
};
use crate::{
    identity::sha256_hex,
    plan::{OpenSlot, Partition, Plan},
};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Rounds that a reader goes through; what makes a dataset has fewer.
const MAX_ROUND_COUNT: u32 = 1000;

/// `rounds/<number>.json`: the samples that repeat others when the round before is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    layout_version: u32,
    /// SHA-256 of the recipe.
    pub recipe_sha256: String,
    /// Number of the round that makes their slots anew, from 1.
    pub round: u32,
    /// Whether nobody makes them anew: the rounds are spent, and the slots stay empty.
    pub is_last: bool,
    /// The samples, by ability and slot.
    pub dropped: Vec<Dropped>,
}

/// A sample that is no part of the data, since it repeats another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its id.
    pub id: String,
    /// Ability.
    pub ability: String,
    /// Slot of the ability.
    pub slot: u64,
    /// Attempt at the slot.
    pub attempt: u32,
    /// Name of the partition whose shard holds it.
    pub partition: String,
    /// Id of the earlier sample that it repeats.
    pub repeats: String,
    /// By what: the name of a gate, or `repeated_prompt`.
    pub measure: String,
    /// What was measured: a similarity of 0 to 1, or a distance in bits.
    pub value: f64,
}

impl Round {
    /// A round after a comparison; `dropped` in any order.
    pub fn new(plan: &Plan, round: u32, is_last: bool, mut dropped: Vec<Dropped>) -> Self {
        dropped.sort_by(|one, other| {
            (&one.ability, one.slot, &one.id).cmp(&(&other.ability, other.slot, &other.id))
        });
        Self {
            layout_version: LAYOUT_VERSION,
            recipe_sha256: plan.recipe_sha256.clone(),
            round,
            is_last,
            dropped,
        }
    }

    fn path(round: u32) -> Path {
        Path::from(format!("rounds/{round}.json"))
    }

    /// Whether no round follows.
    pub fn ends_it(&self) -> bool {
        self.is_last || self.dropped.is_empty()
    }

    /// The partitions that make the slots anew.
    pub fn partitions(&self) -> Vec<Partition> {
        if self.is_last {
            return Vec::new();
        }
        let mut slots: BTreeMap<&str, Vec<OpenSlot>> = BTreeMap::new();
        for dropped in &self.dropped {
            slots.entry(&dropped.ability).or_default().push(OpenSlot {
                slot: dropped.slot,
                first_attempt: dropped.attempt.saturating_add(1),
            });
        }
        slots
            .iter()
            .flat_map(|(ability, slots)| Partition::of_round(self.round, ability, slots))
            .collect()
    }

    fn parse(object: &str, content: &[u8], plan: &Plan, round: u32) -> Result<Self, Error> {
        check_version(object, content)?;
        let found: Self = from_json(object, content)?;
        let is_planned = |dropped: &Dropped| {
            let count = plan.sample_counts.get(&dropped.ability);
            count.is_some_and(|&count| dropped.slot < count)
        };
        let places =
            |pair: &[Dropped]| (&pair[0].ability, pair[0].slot) < (&pair[1].ability, pair[1].slot);
        let reason = if found.recipe_sha256 != plan.recipe_sha256 {
            "it belongs to another recipe"
        } else if found.round != round {
            "it describes another round than its name says"
        } else if !found.dropped.iter().all(is_planned) {
            "it names a slot that was not planned"
        } else if !found.dropped.windows(2).all(places) {
            "its slots do not stand in order, each once"
        } else {
            return Ok(found);
        };
        Err(Error::Manifest {
            object: object.to_owned(),
            reason: reason.to_owned(),
        })
    }
}

/// The rounds of a dataset, as far as they have come.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    rounds: Vec<Round>,
    /// Ids of all samples that are no part of the data.
    dropped: HashSet<String>,
}

impl Rounds {
    /// Reads `rounds/1.json` and so on, to the first that is not there.
    pub(super) async fn read(root: &Root, plan: &Plan) -> Result<Self, Error> {
        let mut found = Self::default();
        for number in 1..=MAX_ROUND_COUNT {
            let Some(round) = read(root, plan, number).await? else {
                break;
            };
            let ids = round.dropped.iter().map(|dropped| dropped.id.clone());
            found.dropped.extend(ids);
            let ends_it = round.ends_it();
            found.rounds.push(round);
            if ends_it {
                break;
            }
        }
        Ok(found)
    }

    pub(super) fn all(&self) -> &[Round] {
        &self.rounds
    }

    /// Partitions of the rounds after the first.
    pub(super) fn partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        self.rounds.iter().flat_map(Round::partitions)
    }

    pub(super) fn drops(&self, id: &str) -> bool {
        self.dropped.contains(id)
    }

    /// All samples that are no part of the data, with whether their slots stay empty.
    pub(super) fn dropped(&self) -> impl Iterator<Item = (&Dropped, bool)> {
        self.rounds
            .iter()
            .flat_map(|round| round.dropped.iter().map(|dropped| (dropped, round.is_last)))
    }

    /// `sha256  path` lines of the rounds that drop anything: a dataset in which nothing repeats is
    /// the one that it would be without rounds.
    pub(super) fn lines(&self) -> String {
        let telling = self.rounds.iter().filter(|round| !round.dropped.is_empty());
        let line = |round: &Round| {
            let path = Round::path(round.round);
            format!("{}  {path}\n", sha256_hex(to_json(round)))
        };
        telling.map(line).collect()
    }
}

async fn read(root: &Root, plan: &Plan, round: u32) -> Result<Option<Round>, Error> {
    let path = Round::path(round);
    let Some(content) = root.read(&path).await? else {
        return Ok(None);
    };
    Round::parse(&root.name_of(&path), &content, plan, round).map(Some)
}

pub(super) async fn is_there(root: &Root, plan: &Plan, round: u32) -> Result<bool, Error> {
    Ok(read(root, plan, round).await?.is_some())
}

/// Creates the claim to a round; false where there is one.
pub(super) async fn claim(root: &Root, round: u32, claimant: &str) -> Result<bool, Error> {
    root.create(&claim_path(round), claimant.to_owned().into())
        .await
}

pub(super) async fn renew_claim(root: &Root, round: u32, claim: &str) -> Result<(), Error> {
    root.write(&claim_path(round), claim.to_owned().into())
        .await
}

pub(super) async fn claim_of(root: &Root, round: u32) -> Result<Option<String>, Error> {
    let found = root.read(&claim_path(round)).await?;
    Ok(found.map(|claim| String::from_utf8_lossy(&claim).into_owned()))
}

fn claim_path(round: u32) -> Path {
    Path::from(format!("rounds/{round}.claim"))
}

/// Writes a round, or finds that the same one is there.
pub(super) async fn put(root: &Root, plan: &Plan, ours: &Round) -> Result<(), Error> {
    let path = Round::path(ours.round);
    kill_point::pass("round.before");
    let is_created = root.create(&path, to_json(ours)).await?;
    kill_point::pass("round.after");
    if is_created {
        return Ok(());
    }
    match read(root, plan, ours.round).await? {
        Some(theirs) if theirs == *ours => Ok(()),
        _ => Err(Error::OtherRound {
            object: root.name_of(&path),
        }),
    }
}
