//! The second stage of an attempt: pictures, and what they must pass.

use std::collections::BTreeMap;

use anyhow::Result;
use dataset::{identity::SampleId, image_hash::ImageHash};
use image::RgbImage;
use proto::{
    dataset::v1::{GateResult, Image, ItemFailure, image::Content},
    diffusion::v1::{ImageItem, SafetyVerdict},
};

use super::{Draft, Work, prompts::plain_text};
use crate::synth::{
    Plan,
    gates::{self, picture},
    stages::{self, Rendered},
};

/// Prompts of the partition that a picture is held against beside its own.
const OTHER_PROMPTS: usize = 7;

/// One of a draft's pictures, judged.
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
        let mut images = self.keep(images);
        let mut passed = Vec::new();
        for mut draft in drafts {
            let Some(best) = self.best_candidate(&draft, &mut images).await? else {
                self.give_up(&draft);
                continue;
            };
            draft.image = Some(best.image);
            draft.gates.extend(best.gates);
            if let Some(rejection) = gates::rejection(&draft.gates).cloned() {
                self.reject(&rejection, draft, None);
                continue;
            }
            if let Some(traits) = self.held.of(draft.id) {
                traits.picture = Some(best.hash);
                traits.picture_vector = Some(best.vector).filter(|vector| !vector.is_empty());
            }
            passed.push(draft);
        }
        Ok(passed)
    }

    fn candidate_ids(&self, draft: &Draft) -> impl Iterator<Item = SampleId> + use<> {
        let id = draft.id;
        (0..self.plan.seeds_per_prompt).map(move |index| id.candidate(index))
    }

    fn image_items(&self, draft: &Draft) -> Vec<ImageItem> {
        let item = |id: SampleId| ImageItem {
            sample_id: id.to_string(),
            prompt: draft.prompt.text.clone(),
            negative_prompt: self.plan.image.negative_prompt.clone(),
            seed: id.image_seed().into(),
            ..ImageItem::default()
        };
        self.candidate_ids(draft).map(item).collect()
    }

    /// Of a draft's pictures, the one that fits its prompt best among those that pass, or else
    /// among all. None where none could be made; that is counted here.
    async fn best_candidate(
        &mut self,
        draft: &Draft,
        images: &mut BTreeMap<String, Rendered>,
    ) -> Result<Option<Candidate>> {
        let mut best: Option<Candidate> = None;
        for id in self.candidate_ids(draft) {
            let Some(rendered) = images.remove(&id.to_string()) else {
                continue;
            };
            let candidate = match self.candidate(draft, id, rendered).await? {
                Ok(candidate) => candidate,
                Err(failure) => {
                    self.count_failure(&failure);
                    continue;
                }
            };
            if best
                .as_ref()
                .is_none_or(|best| candidate.is_better_than(best))
            {
                best = Some(candidate);
            }
        }
        Ok(best)
    }

    async fn candidate(
        &self,
        draft: &Draft,
        id: SampleId,
        rendered: Rendered,
    ) -> Result<Result<Candidate, ItemFailure>> {
        let Rendered { mut image, safety } = rendered;
        let pixels = match decode(&image, &id.to_string()) {
            Ok(pixels) => pixels,
            Err(failure) => return Ok(Err(failure)),
        };
        // From here on it is the sample's picture.
        image.sample_id = draft.id.to_string();
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
        if !is_blank && let Err(failure) = self.measure(draft, &mut candidate).await? {
            return Ok(Err(failure));
        }
        self.compare(&mut candidate);
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
        draft: &Draft,
        candidate: &mut Candidate,
    ) -> Result<Result<(), ItemFailure>> {
        let rules = &self.plan.gates;
        let measures_alignment =
            rules.min_alignment.is_some() || rules.min_alignment_lead.is_some();
        let wants_vector = rules.max_image_cosine.is_some();
        if !(measures_alignment || wants_vector || self.plan.seeds_per_prompt > 1) {
            return Ok(Ok(()));
        }
        let own = plain_text(&draft.prompt);
        let others = self.texts.iter().filter(|text| **text != own);
        let others = others.take(OTHER_PROMPTS).cloned();
        let texts = std::iter::once(own.clone()).chain(others).collect();
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
    fn compare(&self, candidate: &mut Candidate) {
        let rules = &self.plan.gates;
        let Candidate { hash, vector, .. } = candidate;
        let accepted = self.held.pictures();
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
