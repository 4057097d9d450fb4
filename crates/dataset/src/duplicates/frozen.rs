//! The accepted samples of earlier rounds, to hold those of a later one against. Pictures' hashes are
//! in memory (32 bytes each); texts are on the disk, and looked through from end to end: a later
//! round has few samples, and a million signatures are half a gigabyte.

use super::{
    Bounds, Error, blocking,
    table::{Items, Stored},
};
use crate::{image_hash::ImageHash, minhash::Signature, store::Reader};
use futures::StreamExt as _;
use std::{collections::BTreeMap, sync::Arc};

/// Prompts kept of each ability.
const TEXTS_PER_ABILITY: usize = 8;

/// Samples of earlier rounds.
pub struct Frozen {
    prompts: Arc<Stored<Signature>>,
    dialogues: Arc<Stored<Signature>>,
    pictures: Vec<ImageHash>,
    texts: BTreeMap<String, Vec<String>>,
}

impl Frozen {
    /// The accepted samples of a dataset's rounds before `round`, as far as the bounds ask for them.
    ///
    /// # Errors
    /// A shard is missing or damaged, or the disk is full.
    pub async fn read(reader: &Reader, round: u32, bounds: Bounds) -> Result<Self, Error> {
        let (mut prompts, mut dialogues) = (Items::new()?, Items::new()?);
        let mut pictures = Vec::new();
        let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut found = std::pin::pin!(super::traits(reader, round, bounds));
        // Whose they are is of no interest here.
        let place = (0, 0);
        while let Some(samples) = found.next().await {
            for traits in samples? {
                if let Some(mark) = &traits.prompt {
                    prompts.push(place, mark)?;
                }
                if let Some(mark) = &traits.dialogue {
                    dialogues.push(place, mark)?;
                }
                pictures.extend(traits.pictures);
                let texts = texts.entry(traits.ability).or_default();
                if texts.len() < TEXTS_PER_ABILITY && !traits.words.is_empty() {
                    texts.push(traits.words);
                }
            }
        }
        Ok(Self {
            prompts: Arc::new(prompts.seal()?),
            dialogues: Arc::new(dialogues.seal()?),
            pictures,
            texts,
        })
    }

    /// The first prompts of an ability, [`TEXTS_PER_ABILITY`] at most.
    pub fn texts(&self, ability: &str) -> &[String] {
        self.texts.get(ability).map_or(&[], Vec::as_slice)
    }

    /// The picture that looks most like the given one.
    pub fn nearest_picture(&self, hash: &ImageHash) -> Option<ImageHash> {
        let pictures = self.pictures.iter();
        pictures.min_by_key(|known| known.distance(hash)).copied()
    }

    /// Highest similarity of each text with the prompts; 0 where there are none, and for a text
    /// without a word.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub async fn prompt_similarities(&self, texts: Texts) -> Result<Vec<f64>, Error> {
        similarities(self.prompts.clone(), texts).await
    }

    /// As [`prompt_similarities`](Self::prompt_similarities), with the dialogues.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub async fn dialogue_similarities(&self, texts: Texts) -> Result<Vec<f64>, Error> {
        similarities(self.dialogues.clone(), texts).await
    }
}

/// Signatures of texts; none for one without a word.
type Texts = Vec<Option<Signature>>;

async fn similarities(known: Arc<Stored<Signature>>, texts: Texts) -> Result<Vec<f64>, Error> {
    let found = blocking(move || {
        let mut highest = vec![0_f64; texts.len()];
        known.scan(|_, known| {
            for (highest, text) in highest.iter_mut().zip(&texts) {
                let similarity = text.as_ref().map_or(0.0, |text| text.similarity(&known));
                *highest = highest.max(similarity);
            }
        })?;
        Ok(highest)
    });
    found.await?
}
