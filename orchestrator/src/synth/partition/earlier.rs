//! In a later round: how near a draft comes to what the rounds before it accepted. In the first round
//! there is nothing to come near to.

use anyhow::Result;
use dataset::{image_hash::ImageHash, minhash::Signature};

use super::{Draft, Work, prompts::plain_text};

impl Work<'_> {
    /// Highest similarity of each draft's prompts, taken together, with those of earlier samples.
    pub(super) async fn earlier_prompts(&self, drafts: &[Draft]) -> Result<Vec<f64>> {
        let Some(frozen) = &self.frozen else {
            return Ok(vec![0.0; drafts.len()]);
        };
        let texts = drafts.iter().map(|draft| {
            let texts: Vec<String> = draft.prompts.iter().map(plain_text).collect();
            texts.join("\n")
        });
        let signatures = texts.map(|text| Signature::of_phrases(&text)).collect();
        Ok(frozen.prompt_similarities(signatures).await?)
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
    pub(super) fn earlier_picture(&self, own: &ImageHash) -> Option<ImageHash> {
        self.frozen.as_ref()?.nearest_picture(own)
    }
}
