//! The first stage of an attempt: prompts, and what they must pass before a picture is rendered.

use anyhow::Result;
pub(super) use dataset::duplicates::prompt_words as plain_text;
use dataset::{identity::SampleId, minhash::Signature};
use proto::{
    dataset::v1::{GateResult, Prompt},
    promptgen::v1::{GeneratePromptsRequest, PromptItem},
};

use super::{Draft, Kept, Work, earlier::Earlier};
use crate::synth::{
    gates::{self, Traits},
    stages,
};

impl Work<'_> {
    /// A draft for each slot whose prompt passes, in slot order.
    pub(super) async fn write_prompts(
        &mut self,
        ids: &[(u64, SampleId)],
        attempt: u32,
    ) -> Result<Vec<Draft>> {
        let prompts = stages::prompts(self.suite, self.prompt_request(ids, attempt)).await?;
        let mut prompts = Kept::of(prompts);
        let mut drafts = Vec::new();
        for &(slot, id) in ids {
            let names: Vec<SampleId> = (0..self.picture_count).map(|n| id.picture(n)).collect();
            // The prompts of a sample stand or fall together.
            let own = names.iter().map(|&name| prompts.take(name));
            let Some(own) = own.collect::<Option<Vec<Prompt>>>() else {
                self.count_failure(prompts.first_failure(names));
                continue;
            };
            drafts.push(Draft {
                slot,
                attempt,
                id,
                prompts: own.into_iter().map(|prompt| named(prompt, id)).collect(),
                images: Vec::new(),
                gates: Vec::new(),
            });
        }
        if attempt == 0 {
            let all = drafts.iter().flat_map(|draft| &draft.prompts);
            self.texts = all.map(plain_text).collect();
        }
        let mut vectors = self.prompt_vectors(&drafts).await?.map(Vec::into_iter);
        let earlier = self.earlier_prompts(&drafts).await?;
        let mut passed = Vec::new();
        for (mut draft, earlier) in drafts.into_iter().zip(earlier) {
            let own = vectors.as_mut();
            let own = own.map(|vectors| vectors.take(draft.prompts.len()).collect());
            match self.judge_prompts(&mut draft, own, earlier) {
                Some(rejection) => self.reject(&rejection, draft, None),
                None => passed.push(draft),
            }
        }
        Ok(passed)
    }

    fn prompt_request(&self, ids: &[(u64, SampleId)], attempt: u32) -> GeneratePromptsRequest {
        let pictures = |&(slot, id): &(u64, SampleId)| {
            (0..self.picture_count).map(move |picture| PromptItem {
                sample_id: id.picture(picture).to_string(),
                slot,
                attempt,
                picture,
            })
        };
        GeneratePromptsRequest {
            ability: self.partition.ability.clone(),
            items: ids.iter().flat_map(pictures).collect(),
            seed: self.plan.wanted.recipe_seed,
            slot_count: self.plan.slot_count(&self.partition.ability),
            split: self.plan.split.into(),
            style_weights: self.plan.style_weights.clone().into_iter().collect(),
            excluded_texts: self.failed_texts.clone(),
            syntax: self.plan.image.prompt_syntax.into_proto().into(),
        }
    }

    /// Vectors of all the drafts' prompts, where a gate compares them and a model makes them.
    async fn prompt_vectors(&self, drafts: &[Draft]) -> Result<Option<Vec<Vec<f32>>>> {
        if self.plan.gates.max_prompt_cosine.is_none() || drafts.is_empty() {
            return Ok(None);
        }
        let all = drafts.iter().flat_map(|draft| &draft.prompts);
        let texts = all.map(plain_text);
        let model = &self.plan.measure.embedding_model;
        stages::embeddings(self.suite, model, texts.collect()).await
    }

    /// Holds the prompts of a draft against the gates, each against those before it too, and enters
    /// them; the rejection of the first that does not pass. `earlier` is how near all of them come to
    /// those of a sample of an earlier round, and counts as the first one's.
    fn judge_prompts(
        &mut self,
        draft: &mut Draft,
        vectors: Option<Vec<Vec<f32>>>,
        earlier: Earlier,
    ) -> Option<GateResult> {
        // Looked for before they are entered, and counted where no other gate speaks.
        let same_prompts = self.same_prompts(earlier);
        let mut vectors = vectors.map(Vec::into_iter);
        for index in 0..draft.prompts.len() {
            let prompt = &draft.prompts[index];
            let vector = vectors.as_mut().and_then(Iterator::next);
            let (similarity, prompts_key) = match index {
                0 => (earlier.similarity, earlier.key),
                _ => (0.0, None),
            };
            let (results, traits) = self.judge_prompt(prompt, vector, similarity);
            draft.gates.extend(results);
            if let Some(rejection) = gates::rejection(&draft.gates) {
                return Some(rejection.clone());
            }
            let traits = Traits {
                prompts_key,
                ..traits
            };
            self.held.enter(draft.id.picture(index as u32), traits);
        }
        draft.gates.extend(same_prompts.clone());
        same_prompts
    }

    /// What the gates say of a prompt, and what tells it from others.
    fn judge_prompt(
        &self,
        prompt: &Prompt,
        vector: Option<Vec<f32>>,
        earlier: f64,
    ) -> (Vec<GateResult>, Traits) {
        let rules = &self.plan.gates;
        let mut results: Vec<GateResult> = gates::prompt::form(rules, prompt).into_iter().collect();
        let own = Signature::of_phrases(&plain_text(prompt));
        let known = &self.held;
        let similarity = known.text_similarity(own.as_ref(), |traits| traits.prompt.as_ref());
        let cosine = vector
            .as_ref()
            .map(|vector| known.cosine(vector, |traits| traits.prompt_vector.as_ref()));
        let similarity = similarity.max(earlier);
        results.extend(gates::prompt::repetition(rules, similarity, cosine));
        let traits = Traits {
            prompt: own,
            prompt_vector: vector,
            ..Traits::default()
        };
        (results, traits)
    }
}

/// The prompt as one of the sample: those of further pictures come under names of their own.
fn named(mut prompt: Prompt, id: SampleId) -> Prompt {
    prompt.sample_id = id.to_string();
    prompt
}
