//! The gates of dialogues.

use dataset::minhash::Signature;
use diptych::synth::gates::{self, Held, dialogue};

use super::{Bench, Row, held_with};
use crate::{COUNT, defects, made::held_out_questions};

impl Bench {
    pub(crate) fn dialogue_repetition(&self) -> Row {
        let words: Vec<String> = self
            .samples
            .iter()
            .map(|sample| dialogue::words(sample.conversation.as_ref().unwrap()))
            .collect();
        let held = |words: &[String]| {
            held_with(words, |traits, words: &String| {
                traits.dialogue = Signature::of(words);
            })
        };
        let verdict = |known: &Held, words: &str| {
            let own = Signature::of(words);
            let similarity = known.text_similarity(own.as_ref(), |traits| traits.dialogue.as_ref());
            dialogue::repetition(&self.rules, similarity)
        };
        let all = held(&words);
        let planted = words
            .iter()
            .enumerate()
            .map(|(index, words)| verdict(&all, &defects::near_dialogue(words, index)));
        let clean = words.iter().enumerate();
        let clean = clean.map(|(index, own)| verdict(&held(&words[..index]), own));
        Row::of(gates::NEAR_DIALOGUE, planted, clean)
    }

    /// A question of the evaluation set, with its answer, in the place of a dialogue's first.
    pub(crate) fn text_leak(&self) -> Row {
        let questions = held_out_questions();
        let signature =
            |(text, answer): &(String, String)| Signature::of(&format!("{text} {answer}")).unwrap();
        let signatures: Vec<Signature> = questions.iter().map(signature).collect();
        let conversation = |index: usize| self.samples[index].conversation.clone().unwrap();
        let verdict =
            |conversation: &_| dialogue::leak(&self.rules, conversation, Some(&signatures));
        let planted = (0..COUNT).map(|index| {
            let told = &questions[index * questions.len() / COUNT];
            verdict(&defects::leaking(conversation(index), told, index))
        });
        let clean = (0..COUNT).map(|index| verdict(&conversation(index)));
        Row::of(gates::TEXT_LEAK, planted, clean)
    }
}
