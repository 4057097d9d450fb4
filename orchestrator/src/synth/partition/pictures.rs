//! The second stage of an attempt: pictures, and what they must pass.

use anyhow::Result;
use dataset::{identity::SampleId, image_hash::ImageHash};
use image::RgbImage;
use proto::{
    dataset::v1::{GateResult, Image, ItemFailure, Prompt, image::Content},
    diffusion::v1::{ImageItem, SafetyVerdict},
};

use super::{Draft, Kept, Work, prompts::plain_text};
use crate::synth::{
    Plan,
    gates::{self, picture},
    stages::{self, Rendered},
};

/// Prompts of the partition that a picture is held against beside its own.
const OTHER_PROMPTS: usize = 7;

/// The place of a picture: its sample, its name and its prompt.
#[derive(Clone, Copy)]
struct Own<'a> {
    draft: &'a Draft,
    name: SampleId,
    prompt: &'a Prompt,
}

/// One of the pictures of a prompt, judged.
struct Candidate {
    image: Image,
    hash: ImageHash,
    vector: Vec<f32>,
    gates: Vec<GateResult>,
    /// How well it fits its prompt, to choose among several.
    fit: f32,
}

impl Work<'_> {
    /// Renders the drafts and holds every picture against the gates, in slot order.
    pub(super) async fn render(&mut self, drafts: Vec<Draft>) -> Result<Vec<Draft>> {
        let watcher = self.watcher;
        let items = drafts.iter().flat_map(|draft| self.image_items(draft));
        let settings = &self.plan.image;
        let images = stages::images(self.suite, settings, items.collect(), || {
            watcher.image_done()
        })
        .await?;
        let mut images = Kept::of(images);
        let mut passed = Vec::new();
        for draft in drafts {
            passed.extend(self.choose_pictures(draft, &mut images).await?);
        }
        Ok(passed)
    }

    /// The draft with the best picture for each of its prompts, if all of them pass.
    async fn choose_pictures(
        &mut self,
        mut draft: Draft,
        images: &mut Kept<Rendered>,
    ) -> Result<Option<Draft>> {
        for index in 0..draft.prompts.len() {
            let name = draft.id.picture(index as u32);
            let own = Own {
                draft: &draft,
                name,
                prompt: &draft.prompts[index],
            };
            let best = match self.best_candidate(own, images).await? {
                Ok(best) => best,
                Err(failure) => {
                    self.fail(&draft, failure.as_ref());
                    return Ok(None);
                }
            };
            draft.images.push(best.image);
            draft.gates.extend(best.gates);
            if let Some(rejection) = gates::rejection(&draft.gates).cloned() {
                self.reject(&rejection, draft, None);
                return Ok(None);
            }
            if let Some(traits) = self.held.of(name) {
                traits.picture = Some(best.hash);
                traits.picture_vector = Some(best.vector).filter(|vector| !vector.is_empty());
            }
        }
        Ok(Some(draft))
    }

    fn candidate_ids(&self, picture: SampleId) -> impl Iterator<Item = SampleId> + use<> {
        (0..self.plan.seeds_per_prompt).map(move |index| picture.candidate(index))
    }

    fn image_items(&self, draft: &Draft) -> Vec<ImageItem> {
        let item = |id: SampleId, prompt: &Prompt| ImageItem {
            sample_id: id.to_string(),
            prompt: prompt.text.clone(),
            negative_prompt: self.plan.image.negative_prompt.clone(),
            seed: id.image_seed().into(),
            ..ImageItem::default()
        };
        let candidates = |(name, prompt)| {
            let ids = self.candidate_ids(name);
            ids.map(move |id| item(id, prompt))
        };
        draft.pictures().flat_map(candidates).collect()
    }

    /// Of the pictures of one prompt, the one that fits it best among those that pass, or else
    /// among all; why the first could not be made, where none could.
    async fn best_candidate(
        &self,
        own: Own<'_>,
        images: &mut Kept<Rendered>,
    ) -> Result<Result<Candidate, Option<ItemFailure>>> {
        let mut best: Option<Candidate> = None;
        let mut first_failure = None;
        for id in self.candidate_ids(own.name) {
            let candidate = match images.take(id) {
                Some(rendered) => self.candidate(own, id, rendered).await?.map_err(Some),
                None => Err(images.first_failure([id]).cloned()),
            };
            match candidate {
                Ok(found) if best.as_ref().is_none_or(|best| found.is_better_than(best)) => {
                    best = Some(found);
                }
                Ok(_) => {}
                Err(failure) => first_failure = first_failure.or(failure),
            }
        }
        Ok(best.ok_or(first_failure))
    }

    async fn candidate(
        &self,
        own: Own<'_>,
        id: SampleId,
        rendered: Rendered,
    ) -> Result<Result<Candidate, ItemFailure>> {
        let Rendered { mut image, safety } = rendered;
        let pixels = match decode(&image, &id.to_string()) {
            Ok(pixels) => pixels,
            Err(failure) => return Ok(Err(failure)),
        };
        // From here on it is the sample's picture.
        image.sample_id = own.draft.id.to_string();
        let mut candidate = Candidate {
            hash: ImageHash::of(&pixels),
            image,
            vector: Vec::new(),
            gates: picture::blank(&self.plan.gates, &pixels)
                .into_iter()
                .collect(),
            fit: 0.0,
        };
        let is_blank = gates::rejection(&candidate.gates).is_some();
        if !is_blank && let Err(failure) = self.measure(own, &mut candidate).await? {
            return Ok(Err(failure));
        }
        self.compare(&mut candidate).await?;
        match self.plan.gates.refuse_unsafe {
            false => candidate.gates.push(picture::safety(safety)),
            true => {
                let told = match is_blank {
                    // Refused already, and not worth a model's time.
                    true => Ok(SafetyVerdict::NotChecked),
                    false => self.told_safety(candidate.image.clone()).await?,
                };
                match told {
                    Ok(told) => candidate.gates.push(picture::asked_safety(safety, told)),
                    Err(failure) => return Ok(Err(failure)),
                }
            }
        }
        Ok(Ok(candidate))
    }

    /// What the model that the recipe names, or the endpoint's own, says of a picture.
    async fn told_safety(&self, image: Image) -> Result<Result<SafetyVerdict, ItemFailure>> {
        let Plan { measure, .. } = self.plan;
        stages::safety(self.suite, measure, image).await
    }

    /// The gates that need a model.
    async fn measure(
        &self,
        own: Own<'_>,
        candidate: &mut Candidate,
    ) -> Result<Result<(), ItemFailure>> {
        let rules = &self.plan.gates;
        let measures_alignment =
            rules.min_alignment.is_some() || rules.min_alignment_lead.is_some();
        let wants_vector = rules.max_image_cosine.is_some();
        if !(measures_alignment || wants_vector || self.plan.seeds_per_prompt > 1) {
            return Ok(Ok(()));
        }
        // What belongs together is alike by design: nothing to be told from.
        let together: Vec<String> = own.draft.prompts.iter().map(plain_text).collect();
        let others = self.texts.iter().filter(|text| !together.contains(text));
        let others = others.take(OTHER_PROMPTS).cloned();
        let texts = std::iter::once(plain_text(own.prompt)).chain(others);
        let texts = texts.collect();
        let image = candidate.image.clone();
        let model = &self.plan.measure.scoring_model;
        let measured = stages::measure(self.suite, model, image, texts, wants_vector).await?;
        let measured = match measured {
            Ok(measured) => measured.unwrap_or_default(),
            Err(failure) => return Ok(Err(failure)),
        };
        let (own, others) = measured
            .cosines
            .split_first()
            .map_or((None, &[][..]), |(own, others)| (Some(*own), others));
        candidate
            .gates
            .extend(picture::alignment(rules, own, others));
        candidate.fit = own.unwrap_or_default();
        candidate.vector = measured.vector;
        Ok(Ok(()))
    }

    /// The gates that hold a picture against others.
    async fn compare(&self, candidate: &mut Candidate) -> Result<()> {
        let rules = &self.plan.gates;
        let Candidate { hash, vector, .. } = candidate;
        let mut accepted = self.held.pictures();
        accepted.extend(self.earlier_picture(*hash).await?);
        let duplicate = picture::duplicate(rules, *hash, &accepted);
        let nearest = (!vector.is_empty()).then(|| {
            self.held
                .cosine(vector, |traits| traits.picture_vector.as_ref())
        });
        let content = picture::content(rules, nearest);
        let sets = self.plan.evaluation_sets.as_deref();
        let leak = picture::leak(rules, *hash, sets.map(|sets| sets.pictures.as_slice()));
        candidate
            .gates
            .extend([duplicate, content, leak].into_iter().flatten());
        Ok(())
    }
}

impl Candidate {
    fn is_better_than(&self, other: &Self) -> bool {
        let passes = |candidate: &Self| gates::rejection(&candidate.gates).is_none();
        match (passes(self), passes(other)) {
            (true, false) => true,
            (false, true) => false,
            _ => self.fit > other.fit,
        }
    }
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
