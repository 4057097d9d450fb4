//! What of a sample is compared.

use super::{Bounds, table::Owner};
use crate::{
    identity::SampleId,
    image_hash::ImageHash,
    minhash::{Signature, normal},
    shard::encoded_file,
};
use proto::dataset::v1::{Conversation, Prompt, Sample};
use sha2::{Digest as _, Sha256};

/// Hash of a text, long enough that no two of a dataset have the same.
pub type TextKey = [u8; 16];

/// What tells a sample from others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Traits {
    pub(super) owner: Owner,
    pub(super) prompt_key: Option<TextKey>,
    pub(super) prompt: Option<Signature>,
    pub(super) dialogue: Option<Signature>,
    pub(super) pictures: Vec<ImageHash>,
}

impl Traits {
    /// The traits that the bounds ask for. A picture that cannot be decoded is near to none.
    pub(super) fn of(sample: &Sample, bounds: Bounds) -> Self {
        let hash = |file: &[u8]| {
            let picture = image::load_from_memory(file).ok()?;
            Some(ImageHash::of(&picture.to_rgb8()))
        };
        let pictures = bounds.max_picture_distance.map(|_| {
            let files = sample.images.iter().map(encoded_file);
            files.filter_map(hash).collect()
        });
        Self::with_pictures(sample, pictures.unwrap_or_default(), bounds)
    }

    /// As [`of`](Self::of), of a sample whose pictures' hashes are known.
    pub(super) fn with_pictures(
        sample: &Sample,
        mut pictures: Vec<ImageHash>,
        bounds: Bounds,
    ) -> Self {
        if bounds.max_picture_distance.is_none() {
            pictures.clear();
        }
        let words = all_words(&sample.prompts);
        let prompt = bounds
            .max_prompt_similarity
            .and_then(|_| Signature::of_phrases(&words));
        let dialogue = bounds.max_dialogue_similarity.and_then(|_| {
            let conversation = sample.conversation.as_ref()?;
            Signature::of(&dialogue_words(conversation))
        });
        Self {
            owner: Owner {
                // The store takes no other ids.
                id: sample.id.parse().unwrap_or(SampleId::NONE),
                slot: sample.slot,
                attempt: sample.attempt,
            },
            prompt_key: text_key(&words),
            prompt,
            dialogue,
            pictures,
        }
    }
}

/// The words of a sample's prompts, by which they are compared all together.
pub fn all_words(prompts: &[Prompt]) -> String {
    let words: Vec<String> = prompts.iter().map(prompt_words).collect();
    words.join("\n")
}

/// What two samples have in common whose prompts are the same, up to case, punctuation and emphasis;
/// none where they have no words.
pub fn prompts_key(prompts: &[Prompt]) -> Option<TextKey> {
    text_key(&all_words(prompts))
}

fn text_key(words: &str) -> Option<TextKey> {
    let words = normal(words);
    let mut key = TextKey::default();
    key.copy_from_slice(&Sha256::digest(&words)[..16]);
    (!words.is_empty()).then_some(key)
}

/// The words of a prompt without its emphasis.
pub fn prompt_words(prompt: &Prompt) -> String {
    if prompt.parts.is_empty() {
        return prompt.text.clone();
    }
    let parts = prompt.parts.iter();
    let words = parts.map(|part| part.text.trim_matches([' ', ',']));
    let words: Vec<&str> = words.filter(|text| !text.is_empty()).collect();
    words.join(", ")
}

/// All that is said in a conversation, in its order.
pub fn dialogue_words(conversation: &Conversation) -> String {
    let turns = conversation.turns.iter().map(|turn| turn.text.as_str());
    turns.collect::<Vec<_>>().join("\n")
}
