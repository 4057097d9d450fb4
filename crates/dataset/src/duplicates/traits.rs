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
pub(super) type TextKey = [u8; 16];

/// What tells a sample from others.
pub(super) struct Traits {
    pub(super) owner: Owner,
    pub(super) ability: String,
    /// Words of the prompts; empty where there are none.
    pub(super) words: String,
    pub(super) prompt_key: Option<TextKey>,
    pub(super) prompt: Option<Signature>,
    pub(super) dialogue: Option<Signature>,
    pub(super) pictures: Vec<ImageHash>,
}

impl Traits {
    /// The traits that the bounds ask for. A picture that cannot be decoded is near to none.
    pub(super) fn of(sample: &Sample, bounds: Bounds) -> Self {
        let words: Vec<String> = sample.prompts.iter().map(prompt_words).collect();
        let words = words.join("\n");
        let prompt = bounds
            .max_prompt_similarity
            .and_then(|_| Signature::of_phrases(&words));
        let dialogue = bounds.max_dialogue_similarity.and_then(|_| {
            let conversation = sample.conversation.as_ref()?;
            Signature::of(&dialogue_words(conversation))
        });
        let hash = |file: &[u8]| {
            let picture = image::load_from_memory(file).ok()?;
            Some(ImageHash::of(&picture.to_rgb8()))
        };
        let pictures = bounds.max_picture_distance.map(|_| {
            let files = sample.images.iter().map(encoded_file);
            files.filter_map(hash).collect()
        });
        Self {
            owner: Owner {
                // The store takes no other ids.
                id: sample.id.parse().unwrap_or(SampleId::NONE),
                slot: sample.slot,
                attempt: sample.attempt,
            },
            ability: sample.ability.clone(),
            prompt_key: text_key(&words),
            words,
            prompt,
            dialogue,
            pictures: pictures.unwrap_or_default(),
        }
    }
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
