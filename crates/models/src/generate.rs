//! Greedy answers with a key–value cache.
//!
//! Every question is answered on one thread by itself, so an answer is the same tokens, from the
//! same bits, alone and among others; many questions are answered in parallel.

use image::RgbImage;
use rayon::prelude::*;

use crate::conversation::render_question;
use crate::llava::{Aspect, ImageFeatures, Llava};
use crate::llava_error::Error;
use crate::llava_tokenizer::IMAGE_MARK;

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The model said so.
    EndOfAnswer,
    /// `max_new_tokens` or the model's last position was reached.
    Length,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text, without special tokens and surrounding space.
    pub text: String,
    /// The tokens, the end token not included.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt, pictures expanded.
    pub prompt_token_count: usize,
    /// Why it ended.
    pub stop: Stop,
}

/// A question about pictures that the tower has seen.
#[derive(Debug, Clone)]
pub struct Question {
    /// The text; if it has no `<image>`, the pictures stand before it.
    pub text: String,
    /// One per picture.
    pub features: Vec<ImageFeatures>,
}

impl Llava {
    /// Answers a question on pictures (padded to squares, as LLaVA 1.5 evaluates).
    ///
    /// `keep_going` is asked before every token.
    ///
    /// # Errors
    /// [`Error::Input`] for a prompt that does not fit, [`Error::Cancelled`].
    pub fn answer(
        &self,
        pictures: &[RgbImage],
        question: &str,
        max_new_tokens: usize,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Answer, Error> {
        let features = self.image_features(pictures, Aspect::Pad);
        self.answer_one(
            &Question {
                text: question.to_owned(),
                features,
            },
            max_new_tokens,
            keep_going,
        )
    }

    /// Answers many questions, in order, on all threads; each fails or succeeds on its own.
    pub fn answer_all(
        &self,
        questions: &[Question],
        max_new_tokens: usize,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Vec<Result<Answer, Error>> {
        let answer = |question: &Question| self.answer_one(question, max_new_tokens, keep_going);
        questions.par_iter().map(answer).collect()
    }

    /// Answers one question; see [`Llava::answer`].
    ///
    /// # Errors
    /// As [`Llava::answer`].
    pub fn answer_one(
        &self,
        question: &Question,
        max_new_tokens: usize,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<Answer, Error> {
        let marks = question.features.len();
        let text = match question.text.contains(IMAGE_MARK) {
            true => render_question(&question.text),
            false => render_question(&(format!("{IMAGE_MARK}\n").repeat(marks) + &question.text)),
        };
        let prompt: Vec<u32> = self
            .tokenizer()
            .encode(&text)?
            .iter()
            .map(|token| token.id)
            .collect();
        let x = self.embed_prompt(&prompt, &question.features)?;
        let prompt_token_count = x.len() / self.config().text_config.hidden_size;
        let (tokens, stop) = self.decode_greedily(x, max_new_tokens, keep_going)?;
        Ok(Answer {
            text: self.tokenizer().decode(&tokens)?,
            tokens,
            prompt_token_count,
            stop,
        })
    }

    fn decode_greedily(
        &self,
        mut x: Vec<f32>,
        max_new_tokens: usize,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Result<(Vec<u32>, Stop), Error> {
        let language = self.language();
        let ends = language.config().stop_tokens();
        let limit = language.config().max_position_embeddings;
        let (mut cache, mut tokens) = (language.cache(), Vec::new());
        while tokens.len() < max_new_tokens && cache.token_count() < limit {
            if !keep_going() {
                return Err(Error::Cancelled);
            }
            let logits = language.extend(&mut cache, std::mem::take(&mut x))?;
            let token = arg_max(&logits);
            if ends.contains(&token) {
                return Ok((tokens, Stop::EndOfAnswer));
            }
            language.embed_token(token, &mut x)?;
            tokens.push(token);
        }
        Ok((tokens, Stop::Length))
    }
}

/// The first of the largest values.
fn arg_max(values: &[f32]) -> u32 {
    let mut best = 0;
    for (index, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = index;
        }
    }
    best as u32
}
