//! Which pictures the samples of a request show, for abilities with several.

use super::set_orders::SetOrders;
use crate::{
    error::Error,
    request::{Item, Wanted},
};
use dataset::ability::{Ability, Combination};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// A request for the pictures of samples.
pub(super) struct Asked<'a> {
    pub(super) orders: &'a SetOrders,
    pub(super) ability: &'a Ability,
    pub(super) wanted: &'a Wanted,
    /// Cancelled when nobody waits for them any more.
    pub(super) left: &'a CancellationToken,
}

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
    /// Errors: a style that no prompt has, a weight that is no share, a caller that left.
    pub(super) fn of(
        asked: &Asked<'_>,
        is_excluded: impl Fn(&Combination) -> bool,
    ) -> Result<Self, Error> {
        let wanted = asked.wanted;
        let mut needed: BTreeMap<u64, usize> = BTreeMap::new();
        for item in &wanted.items {
            let attempts = needed.entry(item.slot).or_default();
            *attempts = (*attempts).max(item.attempt as usize + 1);
        }
        let order = asked.orders.of(asked.ability, wanted)?;
        let own = |(slot, attempts): (u64, usize)| {
            let places =
                (0..).map_while(|turn: u64| slot.checked_add(turn.checked_mul(step(wanted))?));
            let sets = places.map_while(|place| order.at(place, asked.left).transpose());
            let is_own = |set: &Result<Vec<Combination>, Error>| match set {
                Ok(set) => !set.iter().any(&is_excluded),
                Err(_) => true,
            };
            let own: Result<_, Error> = sets.filter(is_own).take(attempts).collect();
            Ok((slot, own?))
        };
        let of_slot: Result<_, Error> = needed.into_iter().map(own).collect();
        Ok(Self {
            of_slot: of_slot?,
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
