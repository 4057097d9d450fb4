//! What a partition has accepted so far, to tell repetitions from news.
//!
//! A sample is entered when its prompt has passed, is completed as it goes on, and is taken out when
//! it comes to nothing, so that it stands in nobody's way.

use dataset::{duplicates::TextKey, identity::SampleId, image_hash::ImageHash, minhash::Signature};

/// What tells a sample from others; a part is there once it has been measured.
#[derive(Debug, Clone, Default)]
pub struct Traits {
    /// Of all the sample's prompts, where they are looked for: with its first picture.
    pub prompts_key: Option<TextKey>,
    /// Of the prompt's words.
    pub prompt: Option<Signature>,
    /// Unit vector of the prompt.
    pub prompt_vector: Option<Vec<f32>>,
    /// Of the picture.
    pub picture: Option<ImageHash>,
    /// Unit vector of the picture.
    pub picture_vector: Option<Vec<f32>>,
    /// Of the dialogue's words.
    pub dialogue: Option<Signature>,
}

/// The samples of a partition, in the order in which they were entered.
#[derive(Debug, Default)]
pub struct Held {
    samples: Vec<(SampleId, Traits)>,
}

impl Held {
    /// Enters a sample.
    pub fn enter(&mut self, id: SampleId, traits: Traits) {
        self.samples.push((id, traits));
    }

    /// The traits of a sample, to complete them.
    pub fn of(&mut self, id: SampleId) -> Option<&mut Traits> {
        let found = self.samples.iter_mut().find(|(entered, _)| *entered == id);
        found.map(|(_, traits)| traits)
    }

    /// Takes a sample out.
    pub fn forget(&mut self, id: SampleId) {
        self.samples.retain(|(entered, _)| *entered != id);
    }

    /// Whether a sample has these very prompts.
    pub fn has_prompts(&self, key: TextKey) -> bool {
        let mut traits = self.samples.iter().map(|(_, traits)| traits);
        traits.any(|traits| traits.prompts_key == Some(key))
    }

    /// Hashes of the pictures that are there.
    pub fn pictures(&self) -> Vec<ImageHash> {
        let traits = self.samples.iter().map(|(_, traits)| traits);
        traits.filter_map(|traits| traits.picture).collect()
    }

    /// Highest similarity of a text with those of the same kind; 0 where there are none, and for a
    /// text without a word.
    pub fn text_similarity(
        &self,
        signature: Option<&Signature>,
        kind: impl Fn(&Traits) -> Option<&Signature>,
    ) -> f64 {
        let Some(signature) = signature else {
            return 0.0;
        };
        let known = self.samples.iter().filter_map(|(_, traits)| kind(traits));
        known
            .map(|known| signature.similarity(known))
            .fold(0.0, f64::max)
    }

    /// Highest cosine of a unit vector with those of the same kind; −1 where there are none.
    pub fn cosine(&self, vector: &[f32], kind: impl Fn(&Traits) -> Option<&Vec<f32>>) -> f64 {
        let known = self.samples.iter().filter_map(|(_, traits)| kind(traits));
        let cosine = |known: &Vec<f32>| -> f64 {
            let products = vector
                .iter()
                .zip(known)
                .map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum()
        };
        known.map(cosine).fold(-1.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataset::identity::SampleKey;

    #[test]
    fn a_sample_that_came_to_nothing_stands_in_nobodys_way() {
        let id = |slot| {
            SampleKey {
                recipe_seed: 1,
                ability: "animal",
                slot,
                attempt: 0,
            }
            .id()
        };
        let mut held = Held::default();
        let fox = Signature::of("a fox in the snow").unwrap();
        let traits = || Traits {
            prompt: Some(fox.clone()),
            prompt_vector: Some(vec![0.6, 0.8]),
            ..Traits::default()
        };
        assert_eq!(
            held.text_similarity(Some(&fox), |traits| traits.prompt.as_ref()),
            0.0
        );
        held.enter(id(0), traits());
        held.enter(id(1), Traits::default());
        let similarity = held.text_similarity(Some(&fox), |traits| traits.prompt.as_ref());
        let cosine = held.cosine(&[1.0, 0.0], |traits| traits.prompt_vector.as_ref());
        assert_eq!(similarity, 1.0);
        assert!((cosine - 0.6).abs() < 1e-6);
        held.forget(id(0));
        assert_eq!(
            held.text_similarity(Some(&fox), |traits| traits.prompt.as_ref()),
            0.0
        );
        assert_eq!(
            held.cosine(&[1.0, 0.0], |traits| traits.prompt_vector.as_ref()),
            -1.0
        );
        assert!(held.of(id(0)).is_none() && held.of(id(1)).is_some());
    }
}
