//! One partition, from its slots to its accepted samples: a pure function of the recipe, so
//! that any number of processes gives the same dataset.
//!
//! Attempt by attempt: prompts for the slots that are still open, their pictures, the picture
//! gates in slot order, dialogues for what passed, the dialogue gate. A slot whose sample is
//! rejected stays open for the next attempt, until the attempts are spent.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use dataset::{
    identity::{SampleId, SampleKey},
    image_hash::ImageHash,
    plan::Partition,
    store::PartitionTally,
};
use image::RgbImage;
use proto::{
    dataset::v1::{Conversation, GateResult, Image, ItemFailure, Prompt, Sample, image::Content},
    dialogue::v1::DialogueItem,
    diffusion::v1::ImageItem,
    promptgen::v1::{GeneratePromptsRequest, PromptItem},
};

use super::{
    Plan, Watcher,
    gates::{self, NOT_MADE},
    stages::{self, Outcomes, Rendered},
};
use crate::suite::Suite;

/// What one partition became.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Accepted samples, by slot.
    pub(super) samples: Vec<Sample>,
    /// Examples of rejected ones, [`EXAMPLES_PER_GATE`] of each gate.
    pub(super) rejected: Vec<Sample>,
    /// What became of the attempts.
    pub(super) tally: PartitionTally,
}

/// Makes one partition.
///
/// # Errors
/// A stage that failed for good. A failed item is no error: it is counted and tried again.
pub(super) async fn make(
    suite: &Suite,
    plan: &Plan,
    partition: &Partition,
    watcher: &dyn Watcher,
) -> Result<Outcome> {
    let mut work = Work {
        suite,
        plan,
        partition,
        watcher,
        outcome: Outcome::default(),
        hashes: Vec::new(),
        texts: Vec::new(),
    };
    let mut open: Vec<u64> = partition.slots().collect();
    for attempt in 0..plan.max_attempts {
        if open.is_empty() {
            break;
        }
        open = work
            .attempt(&open, attempt)
            .await
            .with_context(|| format!("partition {partition}"))?;
    }
    work.outcome.tally.unfilled_slot_count = open.len() as u64;
    work.outcome.samples.sort_by_key(|sample| sample.slot);
    Ok(work.outcome)
}

struct Work<'a> {
    suite: &'a Suite,
    plan: &'a Plan,
    partition: &'a Partition,
    watcher: &'a dyn Watcher,
    outcome: Outcome,
    /// Hashes of the accepted pictures, in order of acceptance.
    hashes: Vec<ImageHash>,
    /// Prompts of the first attempt, against which alignment is measured.
    texts: Vec<String>,
}

/// A sample on its way.
struct Draft {
    slot: u64,
    id: SampleId,
    prompt: Prompt,
    image: Image,
    gates: Vec<GateResult>,
    hash: ImageHash,
}

impl Work<'_> {
    /// Tries the open slots once and returns those that stay open.
    async fn attempt(&mut self, open: &[u64], attempt: u32) -> Result<Vec<u64>> {
        self.outcome.tally.attempt_count += open.len() as u64;
        let ids: Vec<(u64, SampleId)> = open
            .iter()
            .map(|&slot| (slot, self.sample_id(slot, attempt)))
            .collect();
        let prompts = stages::prompts(self.suite, self.prompt_request(&ids, attempt)).await?;
        let prompts = self.keep(prompts);
        if attempt == 0 {
            self.texts = ids
                .iter()
                .filter_map(|(_, id)| prompts.get(&id.to_string()))
                .map(plain_text)
                .collect();
        }
        let watcher = self.watcher;
        let items = ids
            .iter()
            .filter_map(|(_, id)| Some(self.image_item(id, prompts.get(&id.to_string())?)))
            .collect();
        let images =
            stages::images(self.suite, &self.plan.image, items, || watcher.image_done()).await?;
        let images = self.keep(images);
        let drafts = self
            .pass_image_gates(&ids, prompts, images, attempt)
            .await?;
        let accepted = self.write_dialogues(drafts, attempt).await?;
        let filled: Vec<u64> = accepted.iter().map(|sample| sample.slot).collect();
        for _ in &accepted {
            self.watcher.sample_accepted();
        }
        self.outcome.samples.extend(accepted);
        Ok(open
            .iter()
            .copied()
            .filter(|slot| !filled.contains(slot))
            .collect())
    }

    fn sample_id(&self, slot: u64, attempt: u32) -> SampleId {
        let ability = self.partition.ability.as_str();
        SampleKey {
            recipe_seed: self.plan.wanted.recipe_seed,
            ability,
            slot,
            attempt,
        }
        .id()
    }

    /// Keeps the results and counts the failures.
    fn keep<T>(&mut self, outcomes: Outcomes<T>) -> BTreeMap<String, T> {
        let mut kept = BTreeMap::new();
        for (id, outcome) in outcomes {
            match outcome {
                Ok(value) => {
                    kept.insert(id, value);
                }
                Err(failure) => self.count_failure(&failure),
            }
        }
        kept
    }

    fn count_failure(&mut self, failure: &ItemFailure) {
        tracing::debug!(
            reason = failure.reason,
            message = failure.message,
            "an item failed"
        );
        self.outcome
            .tally
            .reject(&format!("{NOT_MADE}:{}", failure.reason));
    }

    /// Counts a rejected sample, and keeps it as an example where its gate has few.
    fn reject(&mut self, rejection: &GateResult, sample: Sample) {
        tracing::debug!(
            gate = rejection.gate,
            reason = rejection.reason,
            "a sample was rejected"
        );
        let tally = &mut self.outcome.tally;
        tally.reject(&rejection.gate);
        if tally.rejected_counts[&rejection.gate] <= EXAMPLES_PER_GATE {
            self.outcome.rejected.push(sample);
        }
    }

    fn prompt_request(&self, ids: &[(u64, SampleId)], attempt: u32) -> GeneratePromptsRequest {
        let items = ids
            .iter()
            .map(|(slot, id)| PromptItem {
                sample_id: id.to_string(),
                slot: *slot,
                attempt,
            })
            .collect();
        GeneratePromptsRequest {
            ability: self.partition.ability.clone(),
            items,
            seed: self.plan.wanted.recipe_seed,
            slot_count: self.plan.slot_count(&self.partition.ability),
            split: self.plan.split.into(),
            style_weights: self.plan.style_weights.clone().into_iter().collect(),
            excluded_texts: Vec::new(),
            syntax: self.plan.image.prompt_syntax.into_proto().into(),
        }
    }

    fn image_item(&self, id: &SampleId, prompt: &Prompt) -> ImageItem {
        ImageItem {
            sample_id: id.to_string(),
            prompt: prompt.text.clone(),
            negative_prompt: self.plan.image.negative_prompt.clone(),
            seed: id.image_seed().into(),
            ..ImageItem::default()
        }
    }

    /// Holds every picture against the gates, in slot order.
    async fn pass_image_gates(
        &mut self,
        ids: &[(u64, SampleId)],
        mut prompts: BTreeMap<String, Prompt>,
        mut images: BTreeMap<String, Rendered>,
        attempt: u32,
    ) -> Result<Vec<Draft>> {
        let mut drafts = Vec::new();
        for (slot, id) in ids {
            let key = id.to_string();
            let (Some(prompt), Some(rendered)) = (prompts.remove(&key), images.remove(&key)) else {
                continue;
            };
            let Rendered { image, safety } = rendered;
            let picture = match decode(&image, &key) {
                Ok(picture) => picture,
                Err(failure) => {
                    self.count_failure(&failure);
                    continue;
                }
            };
            let hash = ImageHash::of(&picture);
            let mut gates = match self.judge_image(&prompt, &image, &picture, hash).await? {
                Ok(gates) => gates,
                Err(failure) => {
                    self.count_failure(&failure);
                    continue;
                }
            };
            gates.push(gates::safety(safety));
            let rejection = gates::rejection(&gates).cloned();
            let draft = Draft {
                slot: *slot,
                id: *id,
                prompt,
                image,
                gates,
                hash,
            };
            if let Some(rejection) = rejection {
                let sample = self.sample(draft, None, attempt);
                self.reject(&rejection, sample);
                continue;
            }
            self.hashes.push(hash);
            drafts.push(draft);
        }
        Ok(drafts)
    }

    async fn judge_image(
        &self,
        prompt: &Prompt,
        image: &Image,
        picture: &RgbImage,
        hash: ImageHash,
    ) -> Result<Result<Vec<GateResult>, ItemFailure>> {
        let rules = &self.plan.gates;
        let mut results: Vec<GateResult> = gates::blank(rules, picture).into_iter().collect();
        if gates::rejection(&results).is_none()
            && (rules.min_alignment.is_some() || rules.min_alignment_lead.is_some())
        {
            let own = plain_text(prompt);
            let others = self
                .texts
                .iter()
                .filter(|text| **text != own)
                .take(OTHER_PROMPTS)
                .cloned();
            let texts = std::iter::once(own.clone()).chain(others).collect();
            let cosines = match stages::alignment(self.suite, image.clone(), texts).await? {
                Ok(cosines) => cosines.unwrap_or_default(),
                Err(failure) => return Ok(Err(failure)),
            };
            let (own, others) = cosines
                .split_first()
                .map_or((None, &[][..]), |(own, others)| (Some(*own), others));
            results.extend(gates::alignment(rules, own, others));
        }
        results.extend(gates::duplicate(rules, hash, &self.hashes));
        let evaluation_pictures = self.plan.evaluation_pictures.as_deref();
        results.extend(gates::leak(rules, hash, evaluation_pictures));
        Ok(Ok(results))
    }

    async fn write_dialogues(&mut self, drafts: Vec<Draft>, attempt: u32) -> Result<Vec<Sample>> {
        let items = drafts
            .iter()
            .map(|draft| DialogueItem {
                sample_id: draft.id.to_string(),
                prompts: vec![draft.prompt.clone()],
                images: vec![draft.image.clone()],
            })
            .collect();
        let written = stages::dialogues(
            self.suite,
            self.plan.wanted.recipe_seed,
            &self.plan.dialogue,
            items,
        )
        .await?;
        let mut conversations = self.keep(written);
        let mut samples = Vec::new();
        for mut draft in drafts {
            let hash = draft.hash;
            let Some(conversation) = conversations.remove(&draft.id.to_string()) else {
                self.make_room(hash);
                continue;
            };
            let judged = self.judge_dialogue(&draft.prompt, &conversation).await?;
            draft.gates.extend(judged);
            let rejection = gates::rejection(&draft.gates).cloned();
            let sample = self.sample(draft, Some(conversation), attempt);
            if let Some(fault) = dataset::store::fault(&sample) {
                self.count_failure(&stages::failure("MALFORMED_ITEM", fault));
                self.make_room(hash);
                continue;
            }
            match rejection {
                None => samples.push(sample),
                Some(rejection) => {
                    self.reject(&rejection, sample);
                    self.make_room(hash);
                }
            }
        }
        Ok(samples)
    }

    /// The picture of a sample that came to nothing makes room for another one like it.
    fn make_room(&mut self, hash: ImageHash) {
        self.hashes.retain(|accepted| *accepted != hash);
    }

    async fn judge_dialogue(
        &self,
        prompt: &Prompt,
        conversation: &Conversation,
    ) -> Result<Option<GateResult>> {
        if !self.plan.gates.dialogue_agrees {
            return Ok(None);
        }
        let found =
            stages::disagreements(self.suite, conversation.clone(), vec![prompt.clone()]).await?;
        let problem = (!found.is_empty()).then(|| found.join("; "));
        Ok(Some(gates::judged(gates::DIALOGUE, problem)))
    }

    fn sample(&self, draft: Draft, conversation: Option<Conversation>, attempt: u32) -> Sample {
        Sample {
            id: draft.id.to_string(),
            ability: self.partition.ability.clone(),
            slot: draft.slot,
            attempt,
            prompts: vec![draft.prompt],
            images: vec![draft.image],
            conversation,
            gates: draft.gates,
        }
    }
}

/// Rejected samples kept per partition and gate, for people to look at.
const EXAMPLES_PER_GATE: u64 = 2;
/// Prompts of the partition that a picture is held against beside its own.
const OTHER_PROMPTS: usize = 7;

/// The words of a prompt without its emphasis.
fn plain_text(prompt: &Prompt) -> String {
    if prompt.parts.is_empty() {
        return prompt.text.clone();
    }
    let words: Vec<&str> = prompt
        .parts
        .iter()
        .map(|part| part.text.trim_matches([' ', ',']))
        .collect();
    words
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

/// The pixels of a picture, as long as it is the one that was asked for.
fn decode(image: &Image, sample_id: &str) -> Result<RgbImage, ItemFailure> {
    let Some(Content::Data(data)) = &image.content else {
        return Err(stages::failure(
            "NOT_INLINE",
            "the picture did not come inline",
        ));
    };
    if image.sample_id != sample_id {
        return Err(stages::failure(
            "MALFORMED_ITEM",
            "the picture names another sample",
        ));
    }
    let picture = image::load_from_memory(data);
    let picture =
        picture.map_err(|error| stages::failure("UNDECODABLE_PICTURE", &error.to_string()))?;
    Ok(picture.to_rgb8())
}
