//! Candidates that services write: prompts of the ability's order, pictures and dialogues of them.
//!
//! A slot that fails costs itself alone: the others go on, more are asked in its place, and what was
//! wrong is told at the end.

use std::ops::Range;

use anyhow::Result;
use dataset::identity::{SampleId, SampleKey};
use proto::{
    dataset::v1::{Conversation, Image, ItemFailure, Prompt, PromptSyntax, Sample},
    dialogue::v1::DialogueItem,
    diffusion::v1::ImageItem,
    promptgen::v1::{GeneratePromptsRequest, PromptItem, PromptSplit},
};

use super::{Curation, gather::add};
use crate::{
    bad_input::refusal,
    cli::CurateKind,
    progress::{Progress, warn},
    recipe::{DialogueSettings, ImageSettings},
    suite::{ServiceName, Suite},
    synth::stages,
};

/// What services are asked for.
pub(crate) struct Errand {
    pub(crate) suite: Suite,
    pub(crate) seed: u64,
    pub(crate) kind: CurateKind,
    /// Model of the pictures, where there are to be any.
    pub(crate) image_model: Option<String>,
}

/// Slots that a curation may ask for: more than any ability has prompts, so that no slot has a
/// second place.
const SLOT_COUNT: u64 = 1 << 32;
/// Requests after which too few candidates are what there is.
const MAX_REQUESTS: usize = 8;
/// Requests in turn that bring nothing and not for want of prompts, after which no more are made.
const MAX_BARREN_REQUESTS: usize = 3;
/// Most slots of one request: twice as many are asked each time that none of them is new.
const MAX_SLOTS: usize = 512;

/// What a slot's failure is called where the ability's file, or a person, has its prompt already.
const EXHAUSTED: &str = "PROMPTS_EXHAUSTED";

/// What samples of the ability show.
#[derive(Clone, Copy)]
struct Shape {
    /// Pictures of a sample, 1 or more.
    picture_count: u32,
    /// Rounds of a dialogue, enough to show them all.
    round_count: u32,
}

/// A candidate in the making.
struct Draft {
    slot: u64,
    id: SampleId,
    prompts: Vec<Prompt>,
    /// One for each prompt, or none.
    images: Vec<Image>,
    conversation: Option<Conversation>,
}

impl Errand {
    /// Asks until `wanted` candidates are open, within bounds, and tells what failed.
    ///
    /// # Errors
    /// A service failed as a whole, or the disk; or every slot failed, and why.
    pub(super) async fn run(
        &self,
        curation: &mut Curation,
        wanted: usize,
        progress: &Progress,
    ) -> Result<()> {
        let shape = self.shape(curation).await?;
        let mut next = self.first_slot(curation);
        let (mut failures, mut slot_count, mut barren_count) = (Vec::new(), 0, 0);
        for _ in 0..MAX_REQUESTS {
            let before = curation.open_count();
            if before >= wanted || barren_count == MAX_BARREN_REQUESTS {
                break;
            }
            slot_count = slot_count.max(wanted - before).min(MAX_SLOTS);
            let slots = next..next + slot_count as u64;
            next = slots.end;
            let failed = self.ask(curation, shape, slots, wanted - before).await?;
            let now = curation.open_count();
            progress.set(now as u64, wanted as u64, "");
            let is_used_up = failed.iter().all(|failure| failure.reason == EXHAUSTED);
            match (now > before, is_used_up) {
                (true, _) => (slot_count, barren_count) = (0, 0),
                (false, true) => slot_count *= 2,
                (false, false) => barren_count += 1,
            }
            failures.extend(failed);
        }
        failures.retain(|failure| failure.reason != EXHAUSTED || curation.open_count() == 0);
        report(&failures, curation.open_count())
    }

    async fn shape(&self, curation: &Curation) -> Result<Shape> {
        let ability = stages::ability(&self.suite, curation.ability()).await?;
        let picture_count = ability.images_per_sample.max(1);
        let round_count = DialogueSettings::default().rounds;
        Ok(Shape {
            picture_count,
            round_count: match ability.shows_one_image_per_turn {
                true => round_count.max(picture_count),
                false => round_count,
            },
        })
    }

    /// The first place of this seed's order behind those that became candidates.
    fn first_slot(&self, curation: &Curation) -> u64 {
        let origin = self.origin();
        let own = curation.journal.candidates().iter();
        let own = own.filter(|found| found.origin == origin);
        let last = own.filter_map(|found| found.slot).max();
        last.map_or(0, |slot| slot + 1)
    }

    fn origin(&self) -> String {
        format!("seed {}", self.seed)
    }

    /// Asks for the candidates of these slots, `limit` at most, and gives the failures of the others.
    async fn ask(
        &self,
        curation: &mut Curation,
        shape: Shape,
        slots: Range<u64>,
        limit: usize,
    ) -> Result<Vec<ItemFailure>> {
        let mut failures = Vec::new();
        let request = self.prompt_request(curation, shape, slots.clone());
        let mut prompts = stages::prompts(&self.suite, request).await?;
        let ability = curation.ability().to_owned();
        let mut drafts = Vec::new();
        for slot in slots {
            let id = self.id(&ability, slot);
            let own = (0..shape.picture_count).map(|index| id.picture(index).to_string());
            let own = own.filter_map(|name| prompts.remove(&name));
            match own.collect::<Result<Vec<Prompt>, ItemFailure>>() {
                // The prompts of a sample stand or fall together.
                Ok(prompts) if prompts.len() < shape.picture_count as usize => {}
                Ok(prompts) => drafts.push(Draft::new(slot, id, prompts)),
                Err(failure) => failures.push(failure),
            }
        }
        drafts.truncate(limit);
        self.render(&mut drafts, &mut failures).await?;
        self.converse(shape, &mut drafts, &mut failures).await?;
        for draft in drafts {
            let slot = draft.slot;
            add(curation, &draft.sample(), self.origin(), Some(slot))?;
        }
        Ok(failures)
    }

    fn id(&self, ability: &str, slot: u64) -> SampleId {
        let key = SampleKey {
            recipe_seed: self.seed,
            ability,
            slot,
            attempt: 0,
        };
        key.id()
    }

    fn prompt_request(
        &self,
        curation: &Curation,
        shape: Shape,
        slots: Range<u64>,
    ) -> GeneratePromptsRequest {
        let items = slots.flat_map(|slot| {
            let id = self.id(curation.ability(), slot);
            (0..shape.picture_count).map(move |picture| PromptItem {
                sample_id: id.picture(picture).to_string(),
                slot,
                attempt: 0,
                picture,
            })
        });
        // What stands in the file already is no candidate; beside other pictures it is a new one.
        let held = curation.held.prompts.iter().flat_map(|entry| entry.texts());
        let held = held.filter(|_| shape.picture_count == 1);
        GeneratePromptsRequest {
            ability: curation.ability().to_owned(),
            items: items.collect(),
            seed: self.seed,
            slot_count: SLOT_COUNT,
            split: PromptSplit::Training.into(),
            excluded_texts: held.map(str::to_owned).collect(),
            syntax: PromptSyntax::Webui.into(),
            ..GeneratePromptsRequest::default()
        }
    }

    /// Puts a picture beside every prompt, where there are to be any. A sample of which one fails has
    /// none.
    async fn render(&self, drafts: &mut [Draft], failures: &mut Vec<ItemFailure>) -> Result<()> {
        let Some(model) = &self.image_model else {
            return Ok(());
        };
        // A service in this process was started with the model; a remote one is told its name.
        let model = match self.suite.is_embedded(ServiceName::Diffusion) {
            true => String::new(),
            false => model.clone(),
        };
        let settings = ImageSettings {
            model,
            ..ImageSettings::default()
        };
        let items = drafts.iter().flat_map(Draft::image_items).collect();
        let mut images = stages::images(&self.suite, &settings, items, || ()).await?;
        for draft in drafts {
            let own = draft.picture_names();
            let own = own.filter_map(|name| images.remove(&name.to_string()));
            let own: Result<Vec<Image>, ItemFailure> = own
                .map(|found| found.map(|rendered| rendered.image))
                .collect();
            match own {
                Ok(images) if images.len() == draft.prompts.len() => draft.images = images,
                Ok(_) => {}
                Err(failure) => failures.push(failure),
            }
        }
        Ok(())
    }

    /// Has a dialogue written about every sample, where they are curated.
    async fn converse(
        &self,
        shape: Shape,
        drafts: &mut [Draft],
        failures: &mut Vec<ItemFailure>,
    ) -> Result<()> {
        if self.kind == CurateKind::Prompts || drafts.is_empty() {
            return Ok(());
        }
        let item = |draft: &Draft| DialogueItem {
            sample_id: draft.id.to_string(),
            prompts: draft.prompts.clone(),
            images: draft.images.clone(),
        };
        let settings = DialogueSettings {
            rounds: shape.round_count,
            ..DialogueSettings::default()
        };
        let items = drafts.iter().map(item).collect();
        let mut written = stages::dialogues(&self.suite, self.seed, &settings, items).await?;
        for draft in drafts {
            match written.remove(&draft.id.to_string()) {
                Some(Ok(conversation)) => draft.conversation = Some(conversation),
                Some(Err(failure)) => failures.push(failure),
                None => {}
            }
        }
        Ok(())
    }
}

impl Draft {
    fn new(slot: u64, id: SampleId, prompts: Vec<Prompt>) -> Self {
        Self {
            slot,
            id,
            prompts,
            images: Vec::new(),
            conversation: None,
        }
    }

    /// The names of its pictures, in their order.
    fn picture_names(&self) -> impl Iterator<Item = SampleId> + use<> {
        let id = self.id;
        (0..self.prompts.len() as u32).map(move |index| id.picture(index))
    }

    fn image_items(&self) -> impl Iterator<Item = ImageItem> {
        let named = self.picture_names().zip(&self.prompts);
        named.map(|(name, prompt)| ImageItem {
            sample_id: name.to_string(),
            prompt: prompt.text.clone(),
            negative_prompt: prompt.negative_text.clone(),
            seed: name.image_seed().into(),
            ..ImageItem::default()
        })
    }

    fn sample(self) -> Sample {
        Sample {
            id: self.id.to_string(),
            prompts: self.prompts,
            images: self.images,
            conversation: self.conversation,
            ..Sample::default()
        }
    }
}

/// Tells what failed; where nothing came of it all, that is the error.
fn report(failures: &[ItemFailure], open_count: usize) -> Result<()> {
    let Some(first) = failures.first() else {
        return Ok(());
    };
    if open_count == 0 {
        return Err(refusal(first));
    }
    warn(&format!(
        "{} places gave nothing or less than was asked; the first: {}",
        failures.len(),
        first.message
    ));
    Ok(())
}
