//! Where candidates come from: the services, or a dataset that exists.

use std::collections::{BTreeSet, HashSet};

use anyhow::{Context as _, Result, anyhow};
use dataset::{
    identity::{SampleId, SampleKey},
    store::{Location, Reader},
};
use futures::StreamExt as _;
use proto::{
    dataset::v1::{Conversation, Image, ItemFailure, Prompt, PromptSyntax, Sample, image::Content},
    dialogue::v1::DialogueItem,
    diffusion::v1::ImageItem,
    promptgen::v1::{GeneratePromptsRequest, PromptItem, PromptSplit},
};

use super::{
    Candidate, Curation,
    candidate::{Plate, entries, lines},
};
use crate::{
    bad_input::{BadInput, refusal},
    cli::CurateKind,
    progress::{Progress, warn},
    recipe::{DialogueSettings, ImageSettings},
    suite::{ServiceName, Suite},
    synth::stages::{self, Outcomes},
};

/// Candidates wanted.
pub(crate) struct Request {
    /// So many with something to decide.
    pub(crate) open_count: usize,
    /// From where.
    pub(crate) source: Source,
}

/// Where candidates are taken from.
pub(crate) enum Source {
    /// Services write them.
    Services(Box<Errand>),
    /// A dataset has them.
    Dataset(Box<Reader>, Location),
}

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

/// Fills the journal until as many candidates as asked for wait for a decision, or the source has no
/// more.
///
/// # Errors
/// A service or the disk failed, or the dataset has nothing of this ability.
pub(crate) async fn gather(curation: &mut Curation, request: &Request) -> Result<()> {
    let wanted = request.open_count;
    if curation.open_count() >= wanted {
        return Ok(());
    }
    let progress = Progress::start("candidates", wanted as u64);
    match &request.source {
        Source::Services(errand) => errand.run(curation, wanted, &progress).await?,
        Source::Dataset(reader, place) => take(curation, reader, place, wanted).await?,
    }
    let found = curation.open_count();
    progress.finish(&format!("{found} to decide on"));
    if found < wanted {
        warn(&format!(
            "{found} of {wanted} candidates were found; there are no others"
        ));
    }
    Ok(())
}

impl Errand {
    async fn run(&self, curation: &mut Curation, wanted: usize, progress: &Progress) -> Result<()> {
        let mut failure = None;
        for _ in 0..MAX_REQUESTS {
            let before = curation.open_count();
            if before >= wanted {
                return Ok(());
            }
            let slots = self.next_slots(curation, wanted - before);
            failure = self.ask(curation, slots).await?.or(failure);
            let now = curation.open_count();
            progress.set(now as u64, wanted as u64, "");
            if now == before {
                break;
            }
        }
        match failure {
            Some(failure) if curation.open_count() == 0 => Err(refusal(&failure)),
            _ => Ok(()),
        }
    }

    /// Places of this seed's order that nobody was asked for yet.
    fn next_slots(&self, curation: &Curation, count: usize) -> std::ops::Range<u64> {
        let origin = self.origin();
        let own = curation.journal.candidates().iter();
        let own = own.filter(|found| found.origin == origin);
        let first = own
            .filter_map(|found| found.slot)
            .max()
            .map_or(0, |slot| slot + 1);
        first..first + count as u64
    }

    fn origin(&self) -> String {
        format!("seed {}", self.seed)
    }

    /// Asks for the candidates of these slots; a failure of one of them is given, and the others stay.
    async fn ask(
        &self,
        curation: &mut Curation,
        slots: std::ops::Range<u64>,
    ) -> Result<Option<ItemFailure>> {
        let ability = curation.ability().to_owned();
        let ids = slots.map(|slot| (slot, self.id(&ability, slot)));
        let ids: Vec<(u64, SampleId)> = ids.collect();
        let request = self.prompt_request(curation, &ids);
        let mut failures = Vec::new();
        let prompts = stages::prompts(&self.suite, request).await?;
        let prompts = in_order(&ids, prompts, &mut failures);
        let images = self.images(&prompts, &mut failures).await?;
        let dialogues = self.dialogues(&prompts, &images, &mut failures).await?;
        for (slot, id, prompt) in prompts {
            let image = images.iter().find(|(of, _)| *of == id);
            let conversation = dialogues.iter().find(|(of, _)| *of == id);
            let sample = Sample {
                id: id.to_string(),
                prompts: vec![prompt],
                images: image.map(|(_, image)| image.clone()).into_iter().collect(),
                conversation: conversation.map(|(_, written)| written.clone()),
                ..Sample::default()
            };
            add(curation, &sample, self.origin(), Some(slot))?;
        }
        Ok(failures.into_iter().next())
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
        ids: &[(u64, SampleId)],
    ) -> GeneratePromptsRequest {
        let item = |&(slot, id): &(u64, SampleId)| PromptItem {
            sample_id: id.to_string(),
            slot,
            attempt: 0,
            picture: 0,
        };
        // What stands in the file already is no candidate.
        let held = curation.held.prompts.iter().flat_map(|entry| entry.texts());
        GeneratePromptsRequest {
            ability: curation.ability().to_owned(),
            items: ids.iter().map(item).collect(),
            seed: self.seed,
            slot_count: SLOT_COUNT,
            split: PromptSplit::Training.into(),
            excluded_texts: held.map(str::to_owned).collect(),
            syntax: PromptSyntax::Webui.into(),
            ..GeneratePromptsRequest::default()
        }
    }

    async fn images(
        &self,
        prompts: &[Written],
        failures: &mut Vec<ItemFailure>,
    ) -> Result<Vec<(SampleId, Image)>> {
        let Some(model) = &self.image_model else {
            return Ok(Vec::new());
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
        let item = |(_, id, prompt): &Written| ImageItem {
            sample_id: id.to_string(),
            prompt: prompt.text.clone(),
            negative_prompt: prompt.negative_text.clone(),
            seed: id.image_seed().into(),
            ..ImageItem::default()
        };
        let items = prompts.iter().map(item).collect();
        let images = stages::images(&self.suite, &settings, items, || ()).await?;
        let ids: Vec<(u64, SampleId)> = prompts.iter().map(|&(slot, id, _)| (slot, id)).collect();
        let images = in_order(&ids, images, failures).into_iter();
        Ok(images
            .map(|(_, id, rendered)| (id, rendered.image))
            .collect())
    }

    async fn dialogues(
        &self,
        prompts: &[Written],
        images: &[(SampleId, Image)],
        failures: &mut Vec<ItemFailure>,
    ) -> Result<Vec<(SampleId, Conversation)>> {
        if self.kind == CurateKind::Prompts || prompts.is_empty() {
            return Ok(Vec::new());
        }
        let item = |(_, id, prompt): &Written| DialogueItem {
            sample_id: id.to_string(),
            prompts: vec![prompt.clone()],
            images: images
                .iter()
                .filter(|(of, _)| of == id)
                .map(|(_, image)| image.clone())
                .collect(),
        };
        let items = prompts.iter().map(item).collect();
        let settings = DialogueSettings::default();
        let written = stages::dialogues(&self.suite, self.seed, &settings, items).await?;
        let ids: Vec<(u64, SampleId)> = prompts.iter().map(|&(slot, id, _)| (slot, id)).collect();
        let written = in_order(&ids, written, failures).into_iter();
        Ok(written
            .map(|(_, id, conversation)| (id, conversation))
            .collect())
    }
}

type Written = (u64, SampleId, Prompt);

/// Outcomes in the order of their slots, and the failures apart.
fn in_order<T>(
    ids: &[(u64, SampleId)],
    mut outcomes: Outcomes<T>,
    failures: &mut Vec<ItemFailure>,
) -> Vec<(u64, SampleId, T)> {
    let mut done = Vec::new();
    for &(slot, id) in ids {
        match outcomes.remove(&id.to_string()) {
            Some(Ok(made)) => done.push((slot, id, made)),
            Some(Err(failure)) => failures.push(failure),
            None => {}
        }
    }
    done
}

/// Takes a dataset's samples that were not taken before.
async fn take(
    curation: &mut Curation,
    reader: &Reader,
    place: &Location,
    wanted: usize,
) -> Result<()> {
    let known = curation.journal.candidates().iter();
    let known: HashSet<String> = known.map(|found| found.sample_id.clone()).collect();
    let (mut abilities, ability) = (BTreeSet::new(), curation.ability().to_owned());
    let mut samples = std::pin::pin!(reader.samples());
    while curation.open_count() < wanted
        && let Some(sample) = samples.next().await
    {
        let sample = sample.map_err(|error| anyhow::Error::new(error).context(BadInput))?;
        if sample.ability == ability && !known.contains(&sample.id) {
            add(curation, &sample, place.to_string(), None)?;
        }
        abilities.insert(sample.ability);
    }
    if abilities.contains(&ability) {
        return Ok(());
    }
    let abilities: Vec<String> = abilities.into_iter().collect();
    let none = anyhow!(
        "{place} has no sample of the ability `{ability}`; it has {}",
        abilities.join(", ")
    );
    Err(none.context(BadInput))
}

/// Puts a sample into the journal, its pictures first: their files have the sample's id, which a
/// dataset of somebody's making may have as anything.
fn add(curation: &mut Curation, sample: &Sample, origin: String, slot: Option<u64>) -> Result<()> {
    let id: SampleId = sample.id.parse().context(BadInput)?;
    let mut pictures = Vec::new();
    for (index, image) in sample.images.iter().enumerate() {
        let Some(Content::Data(data)) = &image.content else {
            continue;
        };
        let Some(extension) = extension(&image.media_type) else {
            continue;
        };
        let plate = Plate {
            file: format!("{id}-{index}.{extension}"),
            media_type: image.media_type.clone(),
            width_px: image.width_px,
        };
        curation.journal.add_picture(&plate, data)?;
        pictures.push(plate);
    }
    let prompts = sample.prompts.iter().map(|prompt| prompt.text.as_str());
    let prompt = prompts.collect::<Vec<_>>().join(" / ");
    let facts = sample
        .prompts
        .iter()
        .filter_map(|prompt| prompt.facts.as_ref());
    curation.journal.add(Candidate {
        sample_id: sample.id.clone(),
        origin,
        slot,
        entries: entries(&prompt, sample.conversation.as_ref()),
        facts: facts.flat_map(lines).collect(),
        prompt,
        pictures,
    })
}

/// What a browser shows without asking what it is.
fn extension(media_type: &str) -> Option<&'static str> {
    match media_type {
        "image/png" => Some("png"),
        "image/jpeg" => Some("jpg"),
        _ => None,
    }
}
