//! Which pictures the samples of a request show, for abilities with several.

use super::set_orders::SetOrders;
use crate::request::{Item, Wanted};
use dataset::ability::{Ability, Combination, StyleWeightsError};
use std::collections::BTreeMap;

/// The sets of pictures of the slots that a request names, attempt by attempt.
pub(super) struct Sets {
    of_slot: BTreeMap<u64, Vec<Vec<Combination>>>,
    /// Sets that are known of the order.
    pub(super) count: usize,
}

impl Sets {
    /// Finds the sets that the items need: attempt `k` of slot `i` has place `i + k * slot_count` of
    /// the ability's seeded order of sets, those with an excluded text left out.
    ///
    /// Errors: a style that no prompt has, or a weight that is no share.
    pub(super) fn of(
        orders: &SetOrders,
        ability: &Ability,
        wanted: &Wanted,
        is_excluded: impl Fn(&Combination) -> bool,
    ) -> Result<Self, StyleWeightsError> {
        let mut needed: BTreeMap<u64, usize> = BTreeMap::new();
        for item in &wanted.items {
            let attempts = needed.entry(item.slot).or_default();
            *attempts = (*attempts).max(item.attempt as usize + 1);
        }
        let order = orders.of(ability, wanted)?;
        let of_slot = needed.into_iter().map(|(slot, attempts)| {
            let places =
                (0..).map_while(|turn: u64| slot.checked_add(turn.checked_mul(step(wanted))?));
            let sets = places.map_while(|place| order.at(place));
            let own = sets.filter(|set| !set.iter().any(&is_excluded));
            (slot, own.take(attempts).collect())
        });
        Ok(Self {
            of_slot: of_slot.collect(),
            count: order.count(),
        })
    }

    /// The picture of an item; past the end of the order the slot's sets come from the first again.
    /// `None` where the slot has no set.
    pub(super) fn at(&self, item: &Item) -> Option<&Combination> {
        let own = self.of_slot.get(&item.slot)?;
        let turn = (item.attempt as usize).checked_rem(own.len())?;
        own.get(turn)?.get(item.picture)
    }
}

fn step(wanted: &Wanted) -> u64 {
    wanted.slot_count.max(1)
}
