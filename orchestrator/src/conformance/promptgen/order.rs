//! How seed, slot and split decide a prompt.

use std::collections::BTreeSet;

use prost::Message as _;
use proto::{
    dataset::v1::Prompt,
    promptgen::v1::{
        GeneratePromptsRequest, PromptSplit, generate_prompts_response::Result as Outcome,
    },
};

use super::{ITEMS, SLOT_COUNT, Stage};
use crate::conformance::ledger::{Ledger, Miss, Rule, holds};

impl Stage {
    pub(super) async fn seeds(&self, ledger: &mut Ledger) {
        let first = self.written(self.asking(20, 0..ITEMS)).await;
        let first = first.and_then(|prompts| {
            let is_seeded =
                |prompt: &Prompt| prompt.provenance.as_ref().is_some_and(|made| made.seeded);
            match prompts.iter().all(is_seeded) {
                true => Ok(prompts),
                false => Err(Miss::not_judged(
                    "its provenance says that it is not seeded",
                )),
            }
        });
        let rule = Rule::must(
            "same_seed_same_prompt",
            "Where provenance says seeded, the same seed and items give the same bytes.",
            "draw from a generator of seed, ability, slot and attempt alone",
        );
        ledger
            .judge(rule, async {
                let again = self.written(self.asking(20, 0..ITEMS)).await?;
                holds(
                    bytes(&again) == bytes(&first.clone()?),
                    "the prompts differ",
                )?;
                Ok(format!("{ITEMS} equal prompts"))
            })
            .await;
        let rule = Rule::must(
            "other_seed_other_prompts",
            "Where provenance says seeded, another seed gives other prompts.",
            "let the request's seed decide the order of combinations",
        );
        ledger
            .judge(rule, async {
                let request = GeneratePromptsRequest {
                    seed: 8,
                    ..self.asking(20, 0..ITEMS)
                };
                let other = texts(&self.written(request).await?);
                let same = texts(&first.clone()?).intersection(&other).count();
                holds(same < ITEMS, "all prompts are the same")?;
                Ok(format!("{} of {ITEMS} differ", ITEMS - same))
            })
            .await;
        let rule = Rule::must(
            "alone_or_in_company",
            "Where provenance says seeded, an item alone, or asked for again as missing, gives what it gave among others.",
            "let nothing depend on the other items of a request",
        );
        ledger
            .judge(rule, async {
                let first = first.clone()?;
                for missing in [0..1, 3..4, 5..8] {
                    let again = self.written(self.asking(20, missing.clone())).await?;
                    let among = first.get(missing.clone()).unwrap_or_default();
                    let same = !again.is_empty() && bytes(&again) == bytes(among);
                    holds(
                        same,
                        format!("items {missing:?} differ from what they were among {ITEMS}"),
                    )?;
                }
                Ok("items 0, 3 and 5 to 7 as among 8".to_owned())
            })
            .await;
    }

    pub(super) async fn order(&self, ledger: &mut Ledger) {
        let rule = Rule::must(
            "slots_share_no_prompt",
            "No two slots of a run get the same prompt.",
            "give place i + k * slot_count of one seeded order to attempt k of slot i",
        );
        ledger
            .judge(rule, async {
                let prompts = self
                    .written(self.asking(30, 0..SLOT_COUNT as usize))
                    .await?;
                let different = texts(&prompts).len();
                holds(
                    different == prompts.len(),
                    format!("{different} different texts in {} slots", prompts.len()),
                )?;
                Ok(format!("{different} different texts"))
            })
            .await;
        let rule = Rule::must(
            "splits_share_no_prompt",
            "The training and the benchmark part share no prompt.",
            "draw PROMPT_SPLIT_BENCHMARK from combinations that training never gets",
        );
        ledger
            .judge(rule, async {
                let training = self
                    .written(self.asking(31, 0..SLOT_COUNT as usize))
                    .await?;
                let request = GeneratePromptsRequest {
                    split: PromptSplit::Benchmark.into(),
                    ..self.asking(31, 0..ITEMS)
                };
                let held_out = texts(&self.written(request).await?);
                let shared: Vec<String> =
                    texts(&training).intersection(&held_out).cloned().collect();
                holds(shared.is_empty(), format!("both have {shared:?}"))?;
                Ok(format!(
                    "{} and {} texts, none shared",
                    training.len(),
                    held_out.len()
                ))
            })
            .await;
        let rule = Rule::must(
            "excluded_texts",
            "A text that the request excludes is not written again.",
            "pass to the next combination, or fail the item, where a text is excluded",
        );
        ledger
            .judge(rule, async {
                let excluded = texts(&self.written(self.asking(32, 0..1)).await?);
                let request = GeneratePromptsRequest {
                    excluded_texts: excluded.iter().cloned().collect(),
                    ..self.asking(32, 0..1)
                };
                // A failure is an answer too: it is not the text.
                let results = self.ask(request).await?;
                let again = results.iter().any(|(_, result)| {
                matches!(result, Some(Outcome::Prompt(prompt)) if excluded.contains(&prompt.text))
            });
                holds(!again, format!("{excluded:?} came again"))?;
                Ok("another text, or a failure".to_owned())
            })
            .await;
    }
}

fn bytes(prompts: &[Prompt]) -> Vec<Vec<u8>> {
    // The one map of a prompt has no order of its own; it is compared as a message.
    let plain = |prompt: &Prompt| {
        let mut prompt = prompt.clone();
        let made = prompt
            .provenance
            .as_mut()
            .map(|made| std::mem::take(&mut made.parameters));
        let mut parameters: Vec<_> = made.unwrap_or_default().into_iter().collect();
        parameters.sort();
        [
            prompt.encode_to_vec(),
            format!("{parameters:?}").into_bytes(),
        ]
        .concat()
    };
    prompts.iter().map(plain).collect()
}

fn texts(prompts: &[Prompt]) -> BTreeSet<String> {
    prompts.iter().map(|prompt| prompt.text.clone()).collect()
}
