//! The third stage of an attempt: dialogues, and what they must pass.

use anyhow::Result;
use dataset::minhash::Signature;
use proto::{
    dataset::v1::{Conversation, GateResult, Sample},
    dialogue::v1::DialogueItem,
};

use super::{Draft, Kept, Work};
use crate::synth::{
    gates::{self, dialogue},
    stages,
};

impl Work<'_> {
    /// Writes the drafts' dialogues and gives the samples that pass.
    pub(super) async fn write_dialogues(&mut self, drafts: Vec<Draft>) -> Result<Vec<Sample>> {
        let items = drafts.iter().map(|draft| DialogueItem {
            sample_id: draft.id.to_string(),
            prompts: draft.prompts.clone(),
            images: draft.images.clone(),
        });
        let seed = self.plan.wanted.recipe_seed;
        let settings = &self.plan.dialogue;
        let written = stages::dialogues(self.suite, seed, settings, items.collect()).await?;
        let mut conversations = Kept::of(written);
        let mut samples = Vec::new();
        for draft in drafts {
            match conversations.take(draft.id) {
                None => self.fail(&draft, conversations.first_failure([draft.id])),
                Some(conversation) => samples.extend(self.accept(draft, conversation).await?),
            }
        }
        Ok(samples)
    }

    /// The sample, if its dialogue passes.
    async fn accept(
        &mut self,
        mut draft: Draft,
        conversation: Conversation,
    ) -> Result<Option<Sample>> {
        let own = Signature::of(&dialogue::words(&conversation));
        let judged = self
            .judge_dialogue(&draft, &conversation, own.as_ref())
            .await?;
        draft.gates.extend(judged);
        let whole = self.sample(draft.clone(), Some(conversation.clone()));
        if let Some(fault) = dataset::store::fault(&whole) {
            let failure = stages::failure("MALFORMED_ITEM", fault);
            self.fail(&draft, Some(&failure));
            return Ok(None);
        }
        if let Some(rejection) = gates::rejection(&draft.gates).cloned() {
            self.reject(&rejection, draft, Some(conversation));
            return Ok(None);
        }
        let names: Vec<_> = draft.pictures().map(|(name, _)| name).collect();
        let hashes = names
            .into_iter()
            .filter_map(|name| self.held.of(name)?.picture);
        self.outcome.pictures.insert(draft.slot, hashes.collect());
        if let Some(traits) = self.held.of(draft.id) {
            traits.dialogue = own;
        }
        Ok(Some(whole))
    }

    async fn judge_dialogue(
        &self,
        draft: &Draft,
        conversation: &Conversation,
        own: Option<&Signature>,
    ) -> Result<Vec<GateResult>> {
        let rules = &self.plan.gates;
        let similarity = self
            .held
            .text_similarity(own, |traits| traits.dialogue.as_ref());
        let similarity = similarity.max(self.earlier_dialogue(own).await?);
        let repetition = dialogue::repetition(rules, similarity);
        let questions = self.plan.evaluation_sets.as_deref();
        let questions = questions.map(|sets| sets.questions.as_slice());
        let leak = dialogue::leak(rules, conversation, questions);
        let disagreements = match rules.dialogue_agrees {
            true => {
                let prompts = draft.prompts.clone();
                stages::disagreements(self.suite, conversation.clone(), prompts).await?
            }
            false => Vec::new(),
        };
        let agreement = dialogue::agreement(rules, &disagreements);
        Ok([repetition, leak, agreement]
            .into_iter()
            .flatten()
            .collect())
    }
}
