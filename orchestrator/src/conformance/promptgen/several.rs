//! Prompts of samples that show several pictures.

use std::collections::BTreeSet;

use proto::{
    dataset::v1::Ability,
    promptgen::v1::{GeneratePromptsRequest, PromptItem},
};

use super::{ITEMS, SLOT_COUNT, Stage};
use crate::conformance::ledger::{Ledger, Miss, Refusal, Rule, holds, sample_id};

impl Stage {
    pub(super) async fn several(&self, ledger: &mut Ledger) {
        let ability = self.ability_of_several().await;
        let rule = Rule::must(
            "pictures_of_a_sample",
            "The pictures of a sample have different prompts, each of which comes again when it is asked for alone; no two samples have the same.",
            "draw one set of pictures for each slot and attempt, and answer an item with its `picture` of that set",
        );
        ledger
            .judge(rule, async {
                let ability = ability.clone()?;
                let count = ability.images_per_sample;
                let request = asking_several(&ability, 0..ITEMS);
                let prompts = self.written(request.clone()).await?;
                let sets = prompts.chunks(count as usize);
                let sets = sets.map(|set| -> BTreeSet<&str> {
                    set.iter().map(|prompt| prompt.text.as_str()).collect()
                });
                let sets: Vec<BTreeSet<&str>> = sets.collect();
                let is_repeated = sets.iter().any(|set| set.len() < count as usize);
                holds(!is_repeated, "a sample has the same prompt twice")?;
                let different: BTreeSet<_> = sets.iter().collect();
                holds(
                    different.len() == ITEMS,
                    "two samples have the same prompts",
                )?;
                let is_seeded = prompts.iter().all(|prompt| {
                    let made = prompt.provenance.as_ref();
                    made.is_some_and(|made| made.seeded)
                });
                if is_seeded {
                    let last = request.items.last().cloned();
                    let alone = GeneratePromptsRequest {
                        items: last.into_iter().collect(),
                        ..request
                    };
                    let alone = self.written(alone).await?;
                    let texts = |prompt: Option<&proto::dataset::v1::Prompt>| {
                        prompt.map(|prompt| prompt.text.clone())
                    };
                    holds(
                        texts(alone.first()) == texts(prompts.last()),
                        "a picture alone differs from what it was among the others",
                    )?;
                }
                Ok(format!("{ITEMS} samples of {count} of {:?}", ability.name))
            })
            .await;
        // Who knows no such ability need not know of pictures.
        if let Ok(ability) = ability {
            let refusal = Refusal::invalid(
                "picture_of_no_sample",
                "A picture that samples of the ability do not have",
                "items.picture",
            );
            let mut beyond = asking_several(&ability, 0..1);
            beyond.items[0].picture = ability.images_per_sample;
            ledger.refused(refusal, self.ask(beyond)).await;
        }
    }

    /// An ability whose samples show several pictures.
    async fn ability_of_several(&self) -> Result<Ability, Miss> {
        let (abilities, _) = self.page(100, String::new()).await?;
        let mut abilities = abilities.into_iter();
        let found = abilities.find(|ability| ability.images_per_sample > 1);
        found.ok_or_else(|| Miss::not_judged("no ability of it shows several pictures"))
    }
}

fn asking_several(ability: &Ability, slots: std::ops::Range<usize>) -> GeneratePromptsRequest {
    let count = ability.images_per_sample;
    let pictures = |slot: usize| {
        (0..count).map(move |picture| PromptItem {
            sample_id: sample_id(40, slot * count as usize + picture as usize),
            slot: slot as u64,
            attempt: 0,
            picture,
        })
    };
    GeneratePromptsRequest {
        ability: ability.name.clone(),
        items: slots.flat_map(pictures).collect(),
        seed: 7,
        slot_count: SLOT_COUNT,
        ..GeneratePromptsRequest::default()
    }
}
