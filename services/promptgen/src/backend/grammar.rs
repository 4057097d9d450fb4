//! Prompts from the ability's file alone: seeded, balanced, with facts.

use super::{Prepared, PromptWriter, set_orders::SetOrders, sets::Asked, sets::Sets};
use crate::{
    error::Error,
    request::{Item, Wanted},
};
use dataset::ability::{Abilities, Ability, Combination, Draw};
use proto::dataset::v1::{Prompt, PromptSyntax, Provenance, WeightedText};
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Factor that `((x))` gives: 1.1 twice.
const EMPHASIS: f32 = 1.21;

/// Draws prompts from the seeded order of an ability.
pub(crate) struct Grammar {
    abilities: Arc<Abilities>,
    orders: SetOrders,
}

impl Grammar {
    pub(crate) fn new(abilities: Arc<Abilities>) -> Self {
        Self {
            abilities,
            orders: SetOrders::default(),
        }
    }

    fn ability(&self, name: &str) -> Result<&Ability, Error> {
        self.abilities
            .get(name)
            .ok_or_else(|| unknown_ability(&self.abilities, name))
    }
}

impl PromptWriter for Grammar {
    fn name(&self) -> &'static str {
        "grammar"
    }

    fn fingerprint(&self, wanted: &Wanted) -> Result<String, Error> {
        let Wanted {
            ability,
            seed,
            slot_count,
            split,
            style_weights,
            excluded_texts,
            syntax,
            items: _,
        } = wanted;
        let sha256 = self.ability(ability)?.sha256();
        let version = env!("CARGO_PKG_VERSION");
        Ok(format!(
            "{version} {sha256} {seed} {slot_count} {split:?} {style_weights:?} {excluded_texts:?} {syntax:?}"
        ))
    }

    fn prepare(
        &self,
        wanted: &Wanted,
        left: &CancellationToken,
    ) -> Result<Box<dyn Prepared>, Error> {
        let ability = self.ability(&wanted.ability)?;
        let asked = Asked {
            orders: &self.orders,
            ability,
            wanted,
            left,
        };
        Ok(Box::new(Writer {
            ability: ability.name().to_owned(),
            ability_sha256: ability.sha256().to_owned(),
            negative_text: ability.negative_prompt().to_owned(),
            places: Places::of(&asked)?,
            wanted: Wanted {
                items: Vec::new(),
                ..wanted.clone()
            },
        }))
    }
}

/// The error for a name that no ability has.
pub(crate) fn unknown_ability(abilities: &Abilities, name: &str) -> Error {
    let known = abilities.names().collect::<Vec<_>>().join(", ");
    Error::UnknownAbility {
        name: name.to_owned(),
        known,
    }
}

struct Writer {
    ability: String,
    ability_sha256: String,
    negative_text: String,
    places: Places,
    wanted: Wanted,
}

/// What the slots of an ability show.
enum Places {
    /// The prompts in their order, for abilities with one picture per sample.
    Prompts(Vec<Combination>),
    /// The sets of those with several.
    Sets(Sets),
}

impl Places {
    fn of(asked: &Asked<'_>) -> Result<Self, Error> {
        let (ability, wanted) = (asked.ability, asked.wanted);
        if ability.images_per_sample() > 1 {
            let sets = Sets::of(asked, |found| is_excluded(wanted, found))?;
            return Ok(Self::Sets(sets));
        }
        let draw = Draw {
            seed: wanted.seed,
            split: wanted.split,
            style_weights: &wanted.style_weights,
        };
        let order = ability.ordered(&draw)?;
        Ok(Self::Prompts(order.into_iter().cloned().collect()))
    }

    fn count(&self) -> usize {
        match self {
            Self::Prompts(order) => order.len(),
            Self::Sets(sets) => sets.count,
        }
    }
}

fn is_excluded(wanted: &Wanted, found: &Combination) -> bool {
    let excluded = &wanted.excluded_texts;
    excluded.contains(&found.webui_text()) || excluded.contains(&found.plain_text())
}

#[tonic::async_trait]
impl Prepared for Writer {
    async fn write(&self, item: &Item) -> Result<Prompt, Error> {
        let found = self.at(item)?;
        Ok(Prompt {
            sample_id: item.sample_id.to_string(),
            ability: self.ability.clone(),
            keyword: found.keyword.clone(),
            text: self.text(found),
            negative_text: self.negative_text.clone(),
            syntax: self.wanted.syntax.into(),
            parts: self.parts(found),
            facts: Some(found.facts.clone()),
            provenance: Some(self.provenance(item)),
        })
    }
}

/// A count that no order in memory reaches stays beyond it.
fn size(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl Writer {
    /// The item's prompt: the `attempt`-th of those that belong to its slot and are not excluded,
    /// beginning again with the first when they are spent. Two slots never meet; a slot that comes
    /// back to a prompt comes with another seed for the picture.
    fn at(&self, item: &Item) -> Result<&Combination, Error> {
        let found = match &self.places {
            Places::Prompts(order) => self.prompt_at(order, item),
            Places::Sets(sets) => sets.at(item),
        };
        found.ok_or_else(|| Error::Exhausted {
            ability: self.ability.clone(),
            prompt_count: self.places.count(),
            slot: item.slot,
        })
    }

    fn prompt_at<'a>(&self, order: &'a [Combination], item: &Item) -> Option<&'a Combination> {
        let own = order.iter().skip(size(item.slot));
        let own = own
            .step_by(size(self.wanted.slot_count).max(1))
            .filter(|found| !is_excluded(&self.wanted, found));
        let own: Vec<&Combination> = own.collect();
        let turn = (item.attempt as usize).checked_rem(own.len())?;
        own.get(turn).copied()
    }

    fn text(&self, found: &Combination) -> String {
        match self.wanted.syntax {
            PromptSyntax::Plain => found.plain_text(),
            PromptSyntax::Webui | PromptSyntax::Unspecified => found.webui_text(),
        }
    }

    fn parts(&self, found: &Combination) -> Vec<WeightedText> {
        let first = if self.wanted.syntax == PromptSyntax::Plain {
            1.0
        } else {
            EMPHASIS
        };
        let weights = std::iter::once(first).chain(std::iter::repeat(1.0));
        found
            .parts
            .iter()
            .zip(weights)
            .map(|(text, weight)| WeightedText {
                text: text.clone(),
                weight,
            })
            .collect()
    }

    fn provenance(&self, item: &Item) -> Provenance {
        let mut parameters = BTreeMap::from([
            ("ability_sha256", self.ability_sha256.clone()),
            ("attempt", item.attempt.to_string()),
            ("slot", item.slot.to_string()),
            ("slot_count", self.wanted.slot_count.to_string()),
            ("split", format!("{:?}", self.wanted.split).to_lowercase()),
        ]);
        if matches!(self.places, Places::Sets(_)) {
            parameters.insert("picture", item.picture.to_string());
        }
        Provenance {
            producer: "promptgen/grammar".to_owned(),
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            seed: self.wanted.seed,
            seeded: true,
            parameters: parameters
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            parent_sha256: vec![self.ability_sha256.clone()],
            ..Provenance::default()
        }
    }
}
