//! Which pictures the samples of a request show, for abilities with several.

use crate::request::{Item, Wanted};
use dataset::ability::{Ability, Combination, Draw, StyleWeightsError};
use std::collections::BTreeMap;

/// The sets of pictures of the slots that a request names, attempt by attempt.
pub(super) struct Sets {
    of_slot: BTreeMap<u64, Vec<Vec<Combination>>>,
    /// Sets that were looked at.
    pub(super) count: usize,
}

impl Sets {
    /// Draws the sets that the items need: attempt `k` of slot `i` has place `i + k * slot_count` of
    /// the ability's seeded order of sets, those with an excluded text left out.
    ///
    /// Errors: a style that no prompt has, or a weight that is no share.
    pub(super) fn of(
        ability: &Ability,
        wanted: &Wanted,
        is_excluded: impl Fn(&Combination) -> bool,
    ) -> Result<Self, StyleWeightsError> {
        let mut needed: BTreeMap<u64, usize> = BTreeMap::new();
        for item in &wanted.items {
            let attempts = needed.entry(item.slot).or_default();
            *attempts = (*attempts).max(item.attempt as usize + 1);
        }
        let mut sets = Self {
            of_slot: needed.keys().map(|&slot| (slot, Vec::new())).collect(),
            count: 0,
        };
        let draw = Draw {
            seed: wanted.seed,
            split: wanted.split,
            style_weights: &wanted.style_weights,
        };
        let mut all = ability.picture_sets(&draw)?;
        while !needed.is_empty() {
            let Some(set) = all.next() else { break };
            let slot = sets.count as u64 % wanted.slot_count.max(1);
            sets.count += 1;
            let (Some(&attempts), Some(own)) = (needed.get(&slot), sets.of_slot.get_mut(&slot))
            else {
                continue;
            };
            if set.iter().any(|found| is_excluded(found)) {
                continue;
            }
            own.push(set.into_iter().cloned().collect());
            if own.len() == attempts {
                needed.remove(&slot);
            }
        }
        Ok(sets)
    }

    /// The picture of an item; past the end of the order the slot's sets come from the first again.
    /// `None` where the slot has no set.
    pub(super) fn at(&self, item: &Item) -> Option<&Combination> {
        let own = self.of_slot.get(&item.slot)?;
        let turn = (item.attempt as usize).checked_rem(own.len())?;
        own.get(turn)?.get(item.picture)
    }
}
