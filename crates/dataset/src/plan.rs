//! What a dataset is to hold, cut into fixed partitions (DESIGN 3.1).

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Slots of a partition; the last one of an ability may have fewer.
pub const PARTITION_SLOT_COUNT: u64 = 64;

/// Partitions an ability may have: file names number them with five digits.
const MAX_PARTITION_COUNT: u64 = 100_000;

/// What a dataset is to hold. A pure function of the recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// SHA-256 of all parts of the recipe that decide the samples,
    /// lower-case hexadecimal.
    pub recipe_sha256: String,
    /// Seed of the recipe.
    pub recipe_seed: u64,
    /// Accepted samples wanted per ability.
    pub sample_counts: BTreeMap<String, u64>,
}

impl Plan {
    /// All partitions of the first round, by ability and number.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + '_ {
        self.sample_counts
            .iter()
            .flat_map(|(ability, &count)| partitions_of(ability, count))
    }

    /// The partitions that process `shard_index` of `shard_count` makes. The
    /// partitions are the same for any number of processes; only who makes
    /// them differs.
    pub fn partitions_of_shard(
        &self,
        shard_index: u32,
        shard_count: u32,
    ) -> impl Iterator<Item = Partition> + '_ {
        let (index, count) = (shard_index as usize, shard_count.max(1) as usize);
        self.partitions().skip(index).step_by(count)
    }

    /// Says what is wrong with the plan, if anything is.
    ///
    /// # Errors
    /// A hash that is none, an ability name that is no file name, or more
    /// samples than partitions can be numbered for.
    pub fn check(&self) -> Result<(), PlanError> {
        if !crate::identity::is_hexadecimal(&self.recipe_sha256, 64) {
            return Err(PlanError::RecipeHash(self.recipe_sha256.clone()));
        }
        for (ability, &count) in &self.sample_counts {
            if !is_ability_name(ability) {
                return Err(PlanError::AbilityName(ability.clone()));
            }
            let limit = MAX_PARTITION_COUNT * PARTITION_SLOT_COUNT;
            if count > limit {
                return Err(PlanError::TooMany {
                    ability: ability.clone(),
                    count,
                    limit,
                });
            }
        }
        Ok(())
    }
}

/// Why a plan is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// Not a SHA-256.
    #[error("the recipe hash `{0}` is not 64 lower-case hexadecimal digits")]
    RecipeHash(String),
    /// An ability's name becomes a file name, so its characters are few.
    #[error("`{0}` is not the name of an ability: lower-case letters, digits and underscores are")]
    AbilityName(String),
    /// Over the number of samples that can be numbered.
    #[error("{count} samples of ability `{ability}` are over the limit of {limit}")]
    TooMany {
        /// Ability.
        ability: String,
        /// Samples asked for.
        count: u64,
        /// Most samples of one ability.
        limit: u64,
    },
}

/// Up to 64 slots of one ability: the unit of work, of commit and of loss. They are in order by
/// round, ability and number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// 0 for the partitions that the plan is cut into. A later round makes slots anew whose samples
    /// repeated one of another partition.
    pub round: u32,
    /// Name of the ability.
    pub ability: String,
    /// Number among the ability's partitions of the round, from 0.
    pub index: u32,
    slots: Slots,
}

/// Slots of a partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Slots {
    /// So many, 1 to 64, from the place of the partition's number on.
    Run(u64),
    /// Those of a later round, by slot.
    Listed(Vec<OpenSlot>),
}

/// A slot that is to be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpenSlot {
    /// Slot of the ability, from 0.
    pub slot: u64,
    /// The first attempt that was not made yet, from 0.
    pub first_attempt: u32,
}

impl Partition {
    /// Partitions of a later round for the slots of one ability, which stand in order.
    pub(crate) fn of_round(round: u32, ability: &str, slots: &[OpenSlot]) -> Vec<Self> {
        let chunks = slots.chunks(PARTITION_SLOT_COUNT as usize);
        let partition = |(index, slots): (u32, &[OpenSlot])| Self {
            round,
            ability: ability.to_owned(),
            index,
            slots: Slots::Listed(slots.to_vec()),
        };
        (0..).zip(chunks).map(partition).collect()
    }

    /// Its slots, in order.
    pub fn slots(&self) -> impl Iterator<Item = u64> + '_ {
        self.open_slots().map(|open| open.slot)
    }

    /// Its slots, in order, with the attempts that they begin with.
    pub fn open_slots(&self) -> impl Iterator<Item = OpenSlot> + '_ {
        let (run, listed) = match &self.slots {
            Slots::Run(count) => (*count, &[][..]),
            Slots::Listed(slots) => (0, slots.as_slice()),
        };
        let first = u64::from(self.index) * PARTITION_SLOT_COUNT;
        let run = (first..first + run).map(|slot| OpenSlot {
            slot,
            first_attempt: 0,
        });
        run.chain(listed.iter().copied())
    }

    /// Number of its slots, 1 to 64.
    pub fn slot_count(&self) -> u64 {
        match &self.slots {
            Slots::Run(count) => *count,
            Slots::Listed(slots) => slots.len() as u64,
        }
    }
}

/// `animal-00003`, and in the second round `animal-r1-00000`.
impl fmt::Display for Partition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.round {
            0 => write!(formatter, "{}-{:05}", self.ability, self.index),
            round => write!(formatter, "{}-r{round}-{:05}", self.ability, self.index),
        }
    }
}

fn partitions_of(ability: &str, sample_count: u64) -> impl Iterator<Item = Partition> + '_ {
    (0..).map_while(move |index| {
        let first = u64::from(index) * PARTITION_SLOT_COUNT;
        let slot_count = sample_count.checked_sub(first)?.min(PARTITION_SLOT_COUNT);
        (slot_count > 0).then(|| Partition {
            round: 0,
            ability: ability.to_owned(),
            index,
            slots: Slots::Run(slot_count),
        })
    })
}

/// Whether a text may name an ability.
pub(crate) fn is_ability_name(name: &str) -> bool {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(counts: &[(&str, u64)]) -> Plan {
        Plan {
            recipe_sha256: "0".repeat(64),
            recipe_seed: 1,
            sample_counts: counts
                .iter()
                .map(|&(name, count)| (name.to_owned(), count))
                .collect(),
        }
    }

    #[test]
    fn partitions_cover_every_slot_once_for_any_number_of_processes() {
        let plan = plan(&[("animal", 130), ("color", 64), ("style", 0), ("hair", 1)]);
        let all: Vec<_> = plan.partitions().collect();
        let names: Vec<_> = all.iter().map(Partition::to_string).collect();
        assert_eq!(
            names,
            [
                "animal-00000",
                "animal-00001",
                "animal-00002",
                "color-00000",
                "hair-00000"
            ]
        );
        assert_eq!(all[2].slots().collect::<Vec<_>>(), [128, 129]);
        assert_eq!(all[4].slots().collect::<Vec<_>>(), [0]);
        for process_count in 1..7 {
            let mut shared: Vec<_> = (0..process_count)
                .flat_map(|index| plan.partitions_of_shard(index, process_count))
                .collect();
            shared.sort();
            assert_eq!(shared, all, "{process_count} processes");
        }
    }

    #[test]
    fn names_that_could_leave_the_folder_and_endless_counts_are_refused() {
        assert!(plan(&[("animal_2", 20)]).check().is_ok());
        assert!(plan(&[("../animal", 20)]).check().is_err());
        assert!(plan(&[("animal", u64::MAX)]).check().is_err());
    }
}
