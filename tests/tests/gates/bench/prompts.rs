//! The gates of prompts.

use dataset::minhash::Signature;
use diptych::synth::gates::{self, Held, prompt};

use super::{Bench, Row, held_with};
use crate::defects;

impl Bench {
    pub(crate) fn prompt_form(&self) -> Row {
        let broken = self.samples.iter().enumerate().map(|(index, sample)| {
            let broken = defects::out_of_form(&sample.prompts[0], index);
            prompt::form(&self.rules, &broken)
        });
        let clean = self.samples.iter();
        let clean = clean.map(|sample| prompt::form(&self.rules, &sample.prompts[0]));
        Row::of(gates::PROMPT_FORM, broken, clean)
    }

    pub(crate) fn prompt_repetition(&self) -> Row {
        let texts: Vec<String> = self.texts().collect();
        let held = |texts: &[String]| {
            held_with(texts, |traits, text: &String| {
                traits.prompt = Signature::of_phrases(text);
            })
        };
        let verdict = |known: &Held, text: &str| {
            let own = Signature::of_phrases(text);
            let similarity = known.text_similarity(own.as_ref(), |traits| traits.prompt.as_ref());
            prompt::repetition(&self.rules, similarity, None)
                .into_iter()
                .next()
        };
        let all = held(&texts);
        let planted = texts
            .iter()
            .enumerate()
            .map(|(index, text)| verdict(&all, &defects::near_prompt(text, index)));
        let clean = texts.iter().enumerate();
        let clean = clean.map(|(index, text)| verdict(&held(&texts[..index]), text));
        Row::of(gates::NEAR_PROMPT, planted, clean)
    }

    pub(crate) fn prompt_meaning(&self) -> Row {
        let texts: Vec<String> = self.texts().collect();
        let vector = |text: &str| self.clip.embed_text(text).unwrap();
        let vectors: Vec<Vec<f32>> = texts.iter().map(|text| vector(text)).collect();
        let held = |vectors: &[Vec<f32>]| {
            held_with(vectors, |traits, vector: &Vec<f32>| {
                traits.prompt_vector = Some(vector.clone());
            })
        };
        let verdict = |known: &Held, vector: &[f32]| {
            let cosine = known.cosine(vector, |traits| traits.prompt_vector.as_ref());
            prompt::repetition(&self.rules, 0.0, Some(cosine))
                .into_iter()
                .nth(1)
        };
        let all = held(&vectors);
        let planted = texts
            .iter()
            .enumerate()
            .map(|(index, text)| verdict(&all, &vector(&defects::same_meaning(text, index))));
        let clean = vectors.iter().enumerate();
        let clean = clean.map(|(index, own)| verdict(&held(&vectors[..index]), own));
        Row::of(gates::NEAR_MEANING, planted, clean)
    }
}
