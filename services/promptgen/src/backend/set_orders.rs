//! The orders of sets of pictures, drawn as far as anybody has asked and kept: a set takes a look at
//! every picture and rests on those before it, so that drawing them anew for each request would cost
//! as much as the square of the samples.

use crate::{error::Error, request::Wanted};
use dataset::ability::{Ability, Combination, Draw, MAX_SETS, SetOrder, Split, StyleWeightsError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Most orders that are kept; one of [`MAX_SETS`] sets takes some 20 MiB. A run has one for each of its
/// abilities with several pictures.
const MAX_ORDERS: usize = 8;

/// Orders by what decides them, those asked for last at the end.
#[derive(Default)]
pub(super) struct SetOrders {
    known: Mutex<Vec<(Name, Arc<Slot>)>>,
}

/// Where an order is computed by the first who asks, while the others who want it wait and those who want
/// another do not.
type Slot = Mutex<Option<Arc<Order>>>;

/// What decides an order.
#[derive(Clone, PartialEq)]
struct Name {
    ability_sha256: String,
    seed: u64,
    split: Split,
    style_weights: Vec<(String, u64)>,
}

/// One order of sets.
pub(super) struct Order {
    pictures: Vec<Combination>,
    drawn: Mutex<Drawn>,
}

struct Drawn {
    rest: SetOrder,
    sets: Vec<Box<[usize]>>,
}

impl SetOrders {
    /// The order of an ability's sets that a request speaks of. It is computed here where nobody has
    /// asked for it: call it away from the threads that serve.
    ///
    /// Errors: a style that no prompt has, or a weight that is no share.
    pub(super) fn of(
        &self,
        ability: &Ability,
        wanted: &Wanted,
    ) -> Result<Arc<Order>, StyleWeightsError> {
        let name = Name::of(ability, wanted);
        let slot = self.slot(&name);
        let mut order = locked(&slot);
        if let Some(order) = &*order {
            return Ok(Arc::clone(order));
        }
        match Order::new(ability, wanted) {
            Ok(new) => Ok(Arc::clone(order.insert(Arc::new(new)))),
            Err(error) => {
                // What is no order takes nobody's place.
                locked(&self.known).retain(|(other, _)| *other != name);
                Err(error)
            }
        }
    }

    /// Where an order of that name is or will be; it is the one asked for last from now on.
    fn slot(&self, name: &Name) -> Arc<Slot> {
        let mut known = locked(&self.known);
        let slot = match known.iter().position(|(other, _)| other == name) {
            Some(place) => known.remove(place).1,
            None => Arc::default(),
        };
        if known.len() >= MAX_ORDERS {
            known.remove(0);
        }
        known.push((name.clone(), Arc::clone(&slot)));
        slot
    }
}

impl Name {
    fn of(ability: &Ability, wanted: &Wanted) -> Self {
        let weights = wanted.style_weights.iter();
        Self {
            ability_sha256: ability.sha256().to_owned(),
            seed: wanted.seed,
            split: wanted.split,
            style_weights: weights
                .map(|(style, weight)| (style.clone(), weight.to_bits()))
                .collect(),
        }
    }
}

impl Order {
    fn new(ability: &Ability, wanted: &Wanted) -> Result<Self, StyleWeightsError> {
        let (pictures, rest) = ability.set_order(&Draw {
            seed: wanted.seed,
            split: wanted.split,
            style_weights: &wanted.style_weights,
        })?;
        Ok(Self {
            pictures: pictures.into_iter().cloned().collect(),
            drawn: Mutex::new(Drawn {
                rest,
                sets: Vec::new(),
            }),
        })
    }

    /// The set at a place, and all before it, drawn where nobody had asked that far; `None` behind the
    /// last. The order is held for one set at a time, so that whoever waits for it draws on, or leaves.
    ///
    /// Errors: `left` is cancelled.
    pub(super) fn at(
        &self,
        place: u64,
        left: &CancellationToken,
    ) -> Result<Option<Vec<Combination>>, Error> {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if place >= MAX_SETS {
            return Ok(None);
        }
        loop {
            if left.is_cancelled() {
                return Err(Error::Left);
            }
            let mut drawn = locked(&self.drawn);
            if let Some(set) = drawn.sets.get(place) {
                let pictures = set.iter().map(|&picture| self.pictures.get(picture));
                return Ok(pictures.map(|found| found.cloned()).collect());
            }
            match drawn.rest.next() {
                Some(next) => drawn.sets.push(next.into()),
                None => return Ok(None),
            }
        }
    }

    /// Sets drawn until now.
    pub(super) fn count(&self) -> usize {
        locked(&self.drawn).sets.len()
    }
}

/// Nothing of ours stops while it holds a lock, and half an order is one that is drawn less far.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataset::ability::Abilities;
    use proto::promptgen::v1::{GeneratePromptsRequest, PromptItem};
    use std::path::Path;

    fn wanted(seed: u64) -> Wanted {
        let request = GeneratePromptsRequest {
            ability: "difference".to_owned(),
            items: vec![PromptItem {
                sample_id: "0".repeat(32),
                ..PromptItem::default()
            }],
            seed,
            ..GeneratePromptsRequest::default()
        };
        Wanted::try_from_request(request, 1).expect("a request")
    }

    #[test]
    fn an_order_is_drawn_once_as_far_as_asked_and_is_the_ability_s_own() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../abilities"));
        let abilities = Abilities::load_folder(folder).expect("abilities");
        let ability = abilities.get("difference").expect("an ability");
        let orders = SetOrders::default();
        let order = orders.of(ability, &wanted(1)).expect("an order");
        assert_eq!(order.count(), 0);
        let here = CancellationToken::new();
        let at = |place| order.at(place, &here).expect("nobody left");
        let found: Vec<_> = (0..40).rev().filter_map(at).collect();
        let again = orders.of(ability, &wanted(1)).expect("an order");
        assert!(Arc::ptr_eq(&order, &again), "it was drawn anew");
        assert_eq!(again.count(), 40);

        let (one, style_weights) = (wanted(1), Default::default());
        let draw = Draw {
            seed: one.seed,
            split: one.split,
            style_weights: &style_weights,
        };
        let sets = ability.picture_sets(&draw).expect("sets");
        for (own, kept) in sets.take(40).zip(found.iter().rev()) {
            let texts = |set: &[Combination]| -> Vec<String> {
                set.iter().map(Combination::webui_text).collect()
            };
            let own: Vec<Combination> = own.into_iter().cloned().collect();
            assert_eq!(texts(&own), texts(kept));
        }
        // A place that no order has is not looked for.
        assert!(at(1 << 32).is_none());
        assert_eq!(order.count(), 40);
        for seed in 2..20 {
            orders.of(ability, &wanted(seed)).expect("an order");
        }
        assert_eq!(locked(&orders.known).len(), MAX_ORDERS);
    }

    #[test]
    fn a_caller_that_left_has_nothing_drawn_and_one_order_in_the_making_keeps_no_other_waiting() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../abilities"));
        let abilities = Abilities::load_folder(folder).expect("abilities");
        let ability = abilities.get("difference").expect("an ability");
        let orders = SetOrders::default();
        let order = orders.of(ability, &wanted(1)).expect("an order");
        let left = CancellationToken::new();
        left.cancel();
        let drawn = order.at(99_999, &left);
        assert!(matches!(drawn, Err(Error::Left)), "{drawn:?}");
        assert_eq!(order.count(), 0);

        // Somebody is computing the second order, and is not done before this test ends.
        let slot = orders.slot(&Name::of(ability, &wanted(2)));
        let _computing = locked(&slot);
        orders.of(ability, &wanted(3)).expect("an order");
    }
}
