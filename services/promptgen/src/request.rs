//! A request for prompts, checked.

use crate::error::Error;
use dataset::{
    ability::{Ability, Split},
    identity::{MalformedId, SampleId},
};
use proto::{
    dataset::v1::PromptSyntax,
    promptgen::v1::{GeneratePromptsRequest, PromptItem, PromptSplit},
};
use std::collections::{BTreeMap, BTreeSet};

/// Prompts wanted of one ability.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) ability: String,
    pub(crate) seed: u64,
    /// Slots of the whole run, 1 or more; every item's slot is below it.
    pub(crate) slot_count: u64,
    pub(crate) split: Split,
    pub(crate) style_weights: BTreeMap<String, f64>,
    pub(crate) excluded_texts: BTreeSet<String>,
    pub(crate) syntax: PromptSyntax,
    pub(crate) items: Vec<Item>,
}

/// One prompt wanted.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) sample_id: SampleId,
    pub(crate) slot: u64,
    pub(crate) attempt: u32,
    /// Picture of the sample, from 0.
    pub(crate) picture: usize,
}

/// Most texts that one request may exclude.
const MAX_EXCLUDED_TEXTS: usize = 100_000;

impl Wanted {
    /// Checks a request; `max_items` is the endpoint's bound.
    pub(crate) fn try_from_request(
        request: GeneratePromptsRequest,
        max_items: usize,
    ) -> Result<Self, Error> {
        let split = request.split();
        let syntax = request.syntax();
        let GeneratePromptsRequest {
            ability,
            items,
            seed,
            slot_count,
            style_weights,
            excluded_texts,
            ..
        } = request;
        let item_count = items.len();
        if item_count == 0 {
            return Err(Error::field("items", "ask for at least one prompt"));
        }
        if item_count > max_items {
            let rule = format!(
                "{item_count} prompts are more than this endpoint writes in one request ({max_items}); ask in parts"
            );
            return Err(Error::field("items", rule));
        }
        if excluded_texts.len() > MAX_EXCLUDED_TEXTS {
            return Err(Error::field(
                "excluded_texts",
                format!("at most {MAX_EXCLUDED_TEXTS} texts"),
            ));
        }
        let slot_count = if slot_count == 0 {
            item_count as u64
        } else {
            slot_count
        };
        Ok(Self {
            ability,
            seed,
            slot_count,
            split: match split {
                PromptSplit::Benchmark => Split::Benchmark,
                PromptSplit::Training | PromptSplit::Unspecified => Split::Training,
            },
            style_weights: style_weights
                .into_iter()
                .map(|(style, weight)| (style, f64::from(weight)))
                .collect(),
            excluded_texts: excluded_texts.into_iter().collect(),
            syntax: match syntax {
                PromptSyntax::Unspecified => PromptSyntax::Webui,
                given => given,
            },
            items: checked_items(items, slot_count)?,
        })
    }

    /// Refuses a picture that samples of the ability do not have.
    pub(crate) fn check_pictures(&self, ability: &Ability) -> Result<(), Error> {
        let count = ability.images_per_sample();
        match self.items.iter().position(|item| item.picture >= count) {
            None => Ok(()),
            Some(index) => Err(Error::field(
                format!("items[{index}].picture"),
                format!(
                    "{} is not below the {count} pictures of a sample of ability `{}`",
                    self.items[index].picture,
                    ability.name()
                ),
            )),
        }
    }
}

fn checked_items(items: Vec<PromptItem>, slot_count: u64) -> Result<Vec<Item>, Error> {
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    let mut checked = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let PromptItem {
            sample_id,
            slot,
            attempt,
            picture,
        } = item;
        let at = |field: &str| format!("items[{index}].{field}");
        let sample_id: SampleId = sample_id
            .parse()
            .map_err(|error: MalformedId| Error::field(at("sample_id"), error.to_string()))?;
        if !ids.insert(sample_id) {
            return Err(Error::field(
                at("sample_id"),
                format!("{sample_id} stands there twice"),
            ));
        }
        if slot >= slot_count {
            let rule = format!(
                "slot {slot} is not below the {slot_count} slots of the run (slot_count; 0 means the number of items)"
            );
            return Err(Error::field(at("slot"), rule));
        }
        if !places.insert((slot, attempt, picture)) {
            return Err(Error::field(
                at("slot"),
                format!("picture {picture} of slot {slot} at attempt {attempt} stands there twice"),
            ));
        }
        checked.push(Item {
            sample_id,
            slot,
            attempt,
            picture: picture as usize,
        });
    }
    Ok(checked)
}
