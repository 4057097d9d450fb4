//! In a later round: how near a draft comes to what the rounds before it accepted. In the first round
//! there is nothing to come near to.

use anyhow::Result;
use dataset::{
    duplicates::{TextKey, all_words, prompts_key},
    image_hash::ImageHash,
    minhash::Signature,
};
use proto::dataset::v1::GateResult;

use super::{Draft, Work};
use crate::synth::gates;

/// How near the prompts of a draft, taken together, come to those of earlier samples.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Earlier {
    /// The highest similarity.
    pub(super) similarity: f64,
    /// What those of another sample have in common with them where they are the same.
    pub(super) key: Option<TextKey>,
    is_same: bool,
}

impl Work<'_> {
    /// How near each draft's prompts come to earlier ones.
    pub(super) async fn earlier_prompts(&self, drafts: &[Draft]) -> Result<Vec<Earlier>> {
        let Some(frozen) = &self.frozen else {
            return Ok(vec![Earlier::default(); drafts.len()]);
        };
        let texts = drafts.iter().map(|draft| all_words(&draft.prompts));
        let signatures = texts.map(|text| Signature::of_phrases(&text)).collect();
        let similarities = frozen.prompt_similarities(signatures).await?;
        let keys = drafts.iter().map(|draft| prompts_key(&draft.prompts));
        let keys: Vec<_> = keys.collect();
        let are_same = frozen.have_prompts(keys.clone()).await?;
        let all = similarities.into_iter().zip(keys).zip(are_same);
        let all = all.map(|((similarity, key), is_same)| Earlier {
            similarity,
            key,
            is_same,
        });
        Ok(all.collect())
    }

    /// Refuses the very prompts of another sample: the next comparison would drop it, picture and all.
    /// What passes is not noted, as it is not in the first round.
    pub(super) fn same_prompts(&self, earlier: Earlier) -> Option<GateResult> {
        let is_here = earlier.key.is_some_and(|key| self.held.has_prompts(key));
        let problem = "it is the prompt of another sample".to_owned();
        (earlier.is_same || is_here).then(|| gates::judged(gates::SAME_PROMPT, Some(problem)))
    }

    /// Highest similarity of a dialogue with the earlier ones.
    pub(super) async fn earlier_dialogue(&self, own: Option<&Signature>) -> Result<f64> {
        let Some(frozen) = &self.frozen else {
            return Ok(0.0);
        };
        let found = frozen.dialogue_similarities(vec![own.cloned()]).await?;
        Ok(found.into_iter().fold(0.0, f64::max))
    }

    /// The earlier picture that is most like this one.
    pub(super) async fn earlier_picture(&self, own: ImageHash) -> Result<Option<ImageHash>> {
        match &self.frozen {
            Some(frozen) => Ok(frozen.nearest_picture(own).await?),
            None => Ok(None),
        }
    }
}
