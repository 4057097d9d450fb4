//! What a slot's prompt is about. The ability's seeded order decides it, so that quotas of keywords
//! and styles, and the part held out for benchmarks, hold before the model is asked.

use crate::{
    backend::sets::{Asked, Sets},
    error::Error,
    request::{Item, Wanted},
};
use dataset::ability::{Combination, Draw, FactPath, Split, split_of};

/// What one prompt must be about.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) keyword: String,
    pub(super) style: String,
    pub(super) scene: String,
}

/// The places of an ability in their order.
pub(super) struct Places {
    /// Empty where there are sets.
    order: Vec<Place>,
    /// Where a sample shows several pictures, what they show instead.
    sets: Option<Sets>,
    keyword_count: usize,
    split: Split,
    main: Option<FactPath>,
}

impl Places {
    /// Errors: a style that no prompt has, a weight that is no share, a caller that left.
    pub(super) fn new(asked: &Asked<'_>) -> Result<Self, Error> {
        let (ability, wanted) = (asked.ability, asked.wanted);
        let draw = Draw {
            seed: wanted.seed,
            split: wanted.split,
            style_weights: &wanted.style_weights,
        };
        let (order, sets) = match ability.images_per_sample() {
            0 | 1 => (ability.ordered(&draw)?, None),
            // The model's own words differ from the ability's, so no text of a set is excluded.
            _ => {
                let sets = Sets::of(asked, |_| false)?;
                (Vec::new(), Some(sets))
            }
        };
        let main = ability.aspects().get(ability.main_aspect());
        Ok(Self {
            order: order.into_iter().map(place).collect(),
            sets,
            keyword_count: ability.keywords().len().max(1),
            split: wanted.split,
            main: main.map(|aspect| aspect.fact.clone()),
        })
    }

    /// Whether the places are those of pictures that belong together, which keep to the ability's own
    /// keywords.
    pub(super) fn is_of_sets(&self) -> bool {
        self.sets.is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.sets
            .as_ref()
            .map_or(self.order.len(), |sets| sets.count)
    }

    /// The place `slot + attempt · slot_count`; past the end the order begins again, with another
    /// seed for the model. `more` are keywords beyond those of the ability's file: in every round
    /// each keyword has one turn. `None` where the order is empty.
    pub(super) fn at(&self, item: &Item, wanted: &Wanted, more: &[String]) -> Option<Place> {
        if let Some(sets) = &self.sets {
            return sets.at(item).map(place);
        }
        let behind = u128::from(item.attempt) * u128::from(wanted.slot_count);
        let number = u128::from(item.slot) + behind;
        let per_round = (self.keyword_count + more.len()) as u128;
        let (round, turn) = (number / per_round, (number % per_round) as usize);
        match more.get(turn.wrapping_sub(self.keyword_count)) {
            None => self.own(round * self.keyword_count as u128 + turn as u128),
            Some(keyword) => {
                let start = round * more.len() as u128 + turn as u128;
                self.lent(keyword, start)
            }
        }
    }

    fn own(&self, number: u128) -> Option<Place> {
        let count = self.order.len() as u128;
        let index = number.checked_rem(count)?;
        self.order.get(index as usize).cloned()
    }

    /// Style and scene of a place for a keyword of no file, from the first on that keeps it in its part.
    fn lent(&self, keyword: &str, start: u128) -> Option<Place> {
        let mut found = (0..self.order.len() as u128).filter_map(|step| self.own(start + step));
        found.find_map(|place| {
            let mut place = Place {
                keyword: keyword.to_owned(),
                ..place
            };
            match self.main {
                Some(FactPath::Scene) => place.scene = keyword.to_owned(),
                Some(FactPath::Style) => place.style = keyword.to_owned(),
                _ => {}
            }
            let is_in_part = split_of(keyword, &place.scene, &place.style) == self.split;
            is_in_part.then_some(place)
        })
    }
}

fn place(found: &Combination) -> Place {
    Place {
        keyword: found.keyword.clone(),
        style: found.facts.style.clone(),
        scene: found.facts.scene.clone(),
    }
}
