//! The pictures of samples that show several: which go together, and in which order the sets come.

use super::{
    Ability, Draw,
    combination::{Combination, MAX_COMBINATIONS},
    error::StyleWeightsError,
};
use serde::Deserialize;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, HashSet},
};

/// Most pictures of one sample.
pub const MAX_PICTURES: usize = 4;

/// One way in which the pictures of a sample go together, by aspects.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureRule {
    /// Aspects that all pictures have in common.
    #[serde(default)]
    pub shared: Vec<String>,
    /// Aspects of which no two pictures have the same value, nor values that look alike.
    #[serde(default)]
    pub different: Vec<String>,
}

impl Ability {
    /// Sets of [`Ability::images_per_sample`] pictures in their seeded order, no two of the same
    /// pictures. The first pictures come in the order of [`Ability::ordered`], round after round;
    /// the others are those that fit by one of the ability's rules, each rule in turn, and whose
    /// keyword and style are furthest behind their shares. What comes first does not depend on
    /// how many are taken.
    ///
    /// Errors: as [`Ability::ordered`].
    pub fn picture_sets(&self, draw: &Draw<'_>) -> Result<PictureSets<'_>, StyleWeightsError> {
        let (order, sets) = self.set_order(draw)?;
        Ok(PictureSets { order, sets })
    }

    /// The prompts of [`Ability::ordered`], and the order of their sets by place among them: what a
    /// caller keeps who asks for sets again and again.
    ///
    /// Errors: as [`Ability::ordered`].
    pub fn set_order(
        &self,
        draw: &Draw<'_>,
    ) -> Result<(Vec<&Combination>, SetOrder), StyleWeightsError> {
        let styles = self.style_shares(draw.style_weights)?;
        let order = self.ordered(draw)?;
        let sets = SetOrder::new(self, &order, &self.picture_rules, styles);
        Ok((order, sets))
    }

    /// The rules by which the pictures of a sample go together; none where it shows one.
    pub fn picture_rules(&self) -> &[PictureRule] {
        &self.picture_rules
    }
}

/// Sets of pictures until none is new; at most [`MAX_SETS`].
pub struct PictureSets<'a> {
    order: Vec<&'a Combination>,
    sets: SetOrder,
}

/// Most sets of one order.
pub const MAX_SETS: usize = MAX_COMBINATIONS;

/// The sets of an order of pictures, each by the places of its pictures, until none is new; at most
/// [`MAX_SETS`]. One set takes a look at every picture.
pub struct SetOrder {
    picture_count: usize,
    /// Pictures of one set.
    size: usize,
    rules: Vec<Rule>,
    columns: Vec<Column>,
    keywords: Shared,
    styles: Shared,
    scenes: Shared,
    /// How often a keyword stood beside the keyword of a first picture.
    pairs: HashMap<(u32, u32), u32>,
    /// How often each picture was drawn.
    drawn: Vec<u32>,
    known: HashSet<Vec<usize>>,
    /// Next first picture of this round.
    place: usize,
    /// Whether this round has brought nothing yet.
    is_dry: bool,
}

/// A rule whose aspects are columns.
struct Rule {
    shared: Vec<usize>,
    different: Vec<usize>,
}

/// The values of one aspect, picture by picture, as numbers.
struct Column {
    values: Vec<Option<u32>>,
    /// Values that look alike, both ways.
    alike: HashSet<(u32, u32)>,
}

/// A value of each picture, with the shares that the values should have.
struct Shared {
    values: Vec<u32>,
    weights: Vec<f64>,
    counts: Vec<u32>,
}

impl SetOrder {
    pub(super) fn new(
        ability: &Ability,
        order: &[&Combination],
        rules: &[PictureRule],
        styles: BTreeMap<&str, f64>,
    ) -> Self {
        let named = rules
            .iter()
            .flat_map(|rule| rule.shared.iter().chain(&rule.different));
        let mut aspects: Vec<&String> = named.collect();
        aspects.sort_unstable();
        aspects.dedup();
        let place = |name: &String| aspects.binary_search(&name);
        let places = |names: &[String]| names.iter().filter_map(|name| place(name).ok()).collect();
        let rule = |rule: &PictureRule| Rule {
            shared: places(&rule.shared),
            different: places(&rule.different),
        };
        let keywords = ability.keywords().iter();
        let keywords = keywords.map(|value| (value.text.as_str(), value.weight));
        Self {
            size: ability.images_per_sample(),
            rules: rules.iter().map(rule).collect(),
            columns: aspects
                .iter()
                .map(|aspect| Column::new(ability, aspect, order))
                .collect(),
            keywords: Shared::new(order, |found| &found.keyword, &keywords.collect()),
            styles: Shared::new(order, |found| &found.facts.style, &styles),
            scenes: Shared::new(order, |found| &found.facts.scene, &BTreeMap::new()),
            pairs: HashMap::new(),
            drawn: vec![0; order.len()],
            known: HashSet::new(),
            place: 0,
            is_dry: true,
            picture_count: order.len(),
        }
    }

    /// A new set that begins with a picture: by the rule whose turn it is, or else the next one.
    fn around(&self, first: usize) -> Option<Vec<usize>> {
        let turn = self.known.len();
        let rules = (0..self.rules.len()).map(|step| &self.rules[(turn + step) % self.rules.len()]);
        rules
            .into_iter()
            .find_map(|rule| self.complete(rule, first))
    }

    fn complete(&self, rule: &Rule, first: usize) -> Option<Vec<usize>> {
        let mut chosen = vec![first];
        while chosen.len() < self.size {
            let fitting = (0..self.picture_count).filter(|&next| self.fits(rule, &chosen, next));
            let next = fitting.min_by(|&a, &b| self.compare(first, a, b))?;
            chosen.push(next);
        }
        Some(chosen)
    }

    fn fits(&self, rule: &Rule, chosen: &[usize], next: usize) -> bool {
        let column = |index: &usize| &self.columns[*index];
        let is_common = |index: &usize| column(index).is_common(chosen[0], next);
        let is_apart = |index: &usize| {
            let column = column(index);
            chosen.iter().all(|&other| column.is_apart(other, next))
        };
        !chosen.contains(&next)
            && rule.shared.iter().all(is_common)
            && rule.different.iter().all(is_apart)
            && !self.known.contains(&name(chosen, next))
    }

    /// Which of two pictures is due first: by keyword, by style, then by what was seen least; ties
    /// by the seeded order.
    fn compare(&self, first: usize, one: usize, other: usize) -> Ordering {
        let behind = |shared: &Shared| shared.behind(one).total_cmp(&shared.behind(other));
        let worn = |picture: usize| {
            let pair = (self.keywords.values[first], self.keywords.values[picture]);
            (
                self.pairs.get(&pair).copied().unwrap_or(0),
                self.scenes.counts[self.scenes.values[picture] as usize],
                self.drawn[picture],
            )
        };
        behind(&self.keywords)
            .then_with(|| behind(&self.styles))
            .then_with(|| worn(one).cmp(&worn(other)))
            .then(one.cmp(&other))
    }

    fn enter(&mut self, chosen: &[usize]) {
        let first = self.keywords.values[chosen[0]];
        for (index, &picture) in chosen.iter().enumerate() {
            self.drawn[picture] += 1;
            for shared in [&mut self.keywords, &mut self.styles, &mut self.scenes] {
                shared.counts[shared.values[picture] as usize] += 1;
            }
            if index > 0 {
                let pair = (first, self.keywords.values[picture]);
                *self.pairs.entry(pair).or_default() += 1;
            }
        }
        if let Some((&last, rest)) = chosen.split_last() {
            self.known.insert(name(rest, last));
        }
    }
}

impl<'a> Iterator for PictureSets<'a> {
    type Item = Vec<&'a Combination>;

    fn next(&mut self) -> Option<Self::Item> {
        let set = self.sets.next()?.into_iter();
        Some(set.map(|picture| self.order[picture]).collect())
    }
}

impl Iterator for SetOrder {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.known.len() < MAX_SETS {
            if self.place == self.picture_count {
                if self.is_dry {
                    return None;
                }
                (self.place, self.is_dry) = (0, true);
            }
            let first = self.place;
            self.place += 1;
            if let Some(chosen) = self.around(first) {
                self.is_dry = false;
                self.enter(&chosen);
                return Some(chosen);
            }
        }
        None
    }
}

impl Column {
    fn new(ability: &Ability, aspect: &str, order: &[&Combination]) -> Self {
        let path = ability.aspects().get(aspect).map(|aspect| &aspect.fact);
        let mut names = Names::default();
        let values = order.iter().map(|found| {
            let value = path.and_then(|path| path.read(&found.facts));
            value.map(|value| names.number(value))
        });
        let values = values.collect();
        let mut alike = HashSet::new();
        for value in ability.values(aspect) {
            for other in &value.like {
                let (one, other) = (names.number(&value.text), names.number(other));
                alike.extend([(one, other), (other, one)]);
            }
        }
        Self { values, alike }
    }

    fn is_common(&self, one: usize, other: usize) -> bool {
        self.values[one].is_some() && self.values[one] == self.values[other]
    }

    fn is_apart(&self, one: usize, other: usize) -> bool {
        match (self.values[one], self.values[other]) {
            (Some(one), Some(other)) => one != other && !self.alike.contains(&(one, other)),
            _ => false,
        }
    }
}

impl Shared {
    fn new<'a>(
        order: &[&'a Combination],
        value: impl Fn(&'a Combination) -> &'a String,
        weights: &BTreeMap<&str, f64>,
    ) -> Self {
        let mut names = Names::default();
        let values = order.iter().map(|found| names.number(value(found)));
        let values = values.collect();
        let weight = |name: &&str| weights.get(*name).copied().unwrap_or(1.0);
        Self {
            values,
            weights: names.0.iter().map(weight).collect(),
            counts: vec![0; names.0.len()],
        }
    }

    /// Draws of a picture's value so far, per unit of its share.
    fn behind(&self, picture: usize) -> f64 {
        let value = self.values[picture] as usize;
        f64::from(self.counts[value]) / self.weights[value]
    }
}

/// Numbers for texts, in the order in which they are met.
#[derive(Default)]
struct Names<'a>(Vec<&'a str>);

impl<'a> Names<'a> {
    fn number(&mut self, name: &'a str) -> u32 {
        let place = self.0.iter().position(|known| *known == name);
        let place = place.unwrap_or_else(|| {
            self.0.push(name);
            self.0.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    }
}

/// A set whatever its order.
fn name(chosen: &[usize], last: usize) -> Vec<usize> {
    let mut name = [chosen, &[last]].concat();
    name.sort_unstable();
    name
}
