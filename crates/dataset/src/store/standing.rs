//! How far a dataset has come: which partitions are there, and which round they are of.

use super::{Dropped, Error, PartitionManifest, Root, reader, rounds::Rounds};
use crate::plan::{Partition, Plan};
use std::collections::BTreeMap;

/// A dataset's committed partitions and rounds, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    rounds: Rounds,
    partitions: BTreeMap<Partition, PartitionManifest>,
}

/// What is to be done next with a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Partitions of one round are missing.
    Make {
        /// Round, from 0.
        round: u32,
        /// Those that are missing, in order.
        missing: Vec<Partition>,
    },
    /// All partitions are there: which samples repeat one of another partition? The answer is
    /// `rounds/<round>.json`.
    Compare {
        /// The round that the answer begins, from 1.
        round: u32,
    },
    /// Nothing.
    Done,
}

impl Standing {
    pub(super) async fn read(root: &Root, plan: &Plan) -> Result<Self, Error> {
        // Rounds first: a partition of one that begins meanwhile is then not looked for.
        let rounds = Rounds::read(root, plan).await?;
        let later = rounds.partitions().collect();
        let partitions = reader::committed(root, plan, later).await?;
        Ok(Self { rounds, partitions })
    }

    /// The committed partitions, by round, ability and number.
    pub fn partitions(&self) -> &BTreeMap<Partition, PartitionManifest> {
        &self.partitions
    }

    pub(super) fn into_partitions(self) -> BTreeMap<Partition, PartitionManifest> {
        self.partitions
    }

    /// Partitions of the rounds after the first, committed or not.
    pub fn later_partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        self.rounds.partitions()
    }

    /// Samples that are no part of the data, with whether their slots stay empty.
    pub fn dropped(&self) -> impl Iterator<Item = (&Dropped, bool)> {
        self.rounds.dropped()
    }

    /// Rounds after the first that made or make partitions.
    pub fn later_round_count(&self) -> u32 {
        let rounds = self.rounds.all().iter();
        rounds.filter(|round| !round.ends_it()).count() as u32
    }

    pub(super) fn drops(&self, id: &str) -> bool {
        self.rounds.drops(id)
    }

    pub(super) fn round_lines(&self) -> String {
        self.rounds.lines()
    }

    /// What is to be done next. Without `compares`, a dataset is done with its first round; one
    /// partition alone repeats no other.
    pub fn step(&self, plan: &Plan, compares: bool) -> Step {
        let first: Vec<Partition> = plan.partitions().collect();
        let are_several = first.len() > 1;
        let rounds = self.rounds.all();
        let later = rounds.iter().map(|round| (round.round, round.partitions()));
        for (round, mut missing) in std::iter::once((0, first)).chain(later) {
            missing.retain(|partition| !self.partitions.contains_key(partition));
            if !missing.is_empty() {
                return Step::Make { round, missing };
            }
        }
        match rounds.last() {
            None if !(compares && are_several) => Step::Done,
            Some(last) if last.ends_it() => Step::Done,
            last => Step::Compare {
                round: last.map_or(0, |last| last.round) + 1,
            },
        }
    }
}
