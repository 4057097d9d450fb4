//! The first stage of an attempt: prompts, and what they must pass before a picture is rendered.

use anyhow::Result;
use dataset::{identity::SampleId, minhash::Signature};
use proto::{
    dataset::v1::Prompt,
    promptgen::v1::{GeneratePromptsRequest, PromptItem},
};

use super::{Draft, Work};
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
        let mut prompts = self.keep(prompts);
        let mut drafts = Vec::new();
        for &(slot, id) in ids {
            drafts.extend(prompts.remove(&id.to_string()).map(|prompt| Draft {
                slot,
                attempt,
                id,
                prompt,
                image: None,
                gates: Vec::new(),
            }));
        }
        if attempt == 0 {
            self.texts = drafts
                .iter()
                .map(|draft| plain_text(&draft.prompt))
                .collect();
        }
        let vectors = self.prompt_vectors(&drafts).await?;
        let mut passed = Vec::new();
        for (index, mut draft) in drafts.into_iter().enumerate() {
            let vector = vectors.as_ref().map(|vectors| vectors[index].clone());
            let traits = self.judge_prompt(&mut draft, vector);
            match gates::rejection(&draft.gates).cloned() {
                Some(rejection) => self.reject(&rejection, draft, None),
                None => {
                    self.held.enter(draft.id, traits);
                    passed.push(draft);
                }
            }
        }
        Ok(passed)
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
            excluded_texts: self.failed_texts.clone(),
            syntax: self.plan.image.prompt_syntax.into_proto().into(),
        }
    }

    /// Vectors of the drafts' prompts, where a gate compares them and a model makes them.
    async fn prompt_vectors(&self, drafts: &[Draft]) -> Result<Option<Vec<Vec<f32>>>> {
        if self.plan.gates.max_prompt_cosine.is_none() || drafts.is_empty() {
            return Ok(None);
        }
        let texts = drafts.iter().map(|draft| plain_text(&draft.prompt));
        let model = &self.plan.measure.embedding_model;
        stages::embeddings(self.suite, model, texts.collect()).await
    }

    /// Holds a prompt against the gates, and gives what tells it from others.
    fn judge_prompt(&self, draft: &mut Draft, vector: Option<Vec<f32>>) -> Traits {
        let rules = &self.plan.gates;
        draft
            .gates
            .extend(gates::prompt::form(rules, &draft.prompt));
        let own = Signature::of(&plain_text(&draft.prompt));
        let known = &self.held;
        let similarity = known.text_similarity(own.as_ref(), |traits| traits.prompt.as_ref());
        let cosine = vector
            .as_ref()
            .map(|vector| known.cosine(vector, |traits| traits.prompt_vector.as_ref()));
        let repetition = gates::prompt::repetition(rules, similarity, cosine);
        draft.gates.extend(repetition);
        Traits {
            prompt: own,
            prompt_vector: vector,
            ..Traits::default()
        }
    }
}

/// The words of a prompt without its emphasis.
pub(super) fn plain_text(prompt: &Prompt) -> String {
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
