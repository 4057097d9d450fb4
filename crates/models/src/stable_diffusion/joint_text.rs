//! Prompts as the transformers want them: CLIP's words and T5's.

use std::path::Path;

use super::denoiser::Denoiser;
use super::layout::{Family, Index};
use super::prompt::{States, side_by_side};
use super::{Error, Pipeline, PromptSyntax, Request};
use crate::config::LoadError;
use crate::ops::values::values;
use crate::t5::T5;
use crate::t5_tokenizer::T5Tokenizer;

/// T5 with its tokenizer.
pub(super) struct T5Text {
    tokenizer: T5Tokenizer,
    model: T5,
    length: usize,
    /// How its folders end.
    pub(super) end: &'static str,
}

/// Tokens that a family's long text is filled up to: the default of its pipeline in diffusers.
fn long_length(family: Family) -> usize {
    match family {
        Family::Flux => 512,
        Family::Sd | Family::Xl | Family::Sd3 => 256,
    }
}

impl T5Text {
    /// Loads it from the folders that the index says, if it says any.
    pub(super) fn load(folder: &Path, index: &Index) -> Result<Option<Self>, LoadError> {
        let Some(end) = index.t5_end() else {
            return Ok(None);
        };
        Ok(Some(Self {
            tokenizer: T5Tokenizer::load(&folder.join(format!("tokenizer{end}")))?,
            model: T5::load(&folder.join(format!("text_encoder{end}")))?,
            length: long_length(index.family),
            end,
        }))
    }

    /// Width of the states.
    pub(super) fn width(&self) -> usize {
        self.model.config().hidden_size
    }

    /// Tokens that the encoder knows, and that the tokenizer has.
    pub(super) fn vocabularies(&self) -> (usize, usize) {
        (self.model.config().vocab_size, self.tokenizer.vocab_size())
    }

    /// The states of a prompt, `(length, width)`, row-major.
    fn encode(&self, prompt: &str, warnings: &mut Vec<String>) -> Result<Vec<f32>, Error> {
        let tokens = self.tokenizer.encode(prompt)?;
        let over = (tokens.len() + 1).saturating_sub(self.length);
        if over > 0 {
            let warning = format!("the last {over} tokens of the prompt were cut off for T5");
            warnings.push(warning);
        }
        let ids = self.tokenizer.framed(&tokens, self.length);
        Ok(values(&self.model.encode(&ids)?)?.to_vec())
    }
}

impl Pipeline {
    /// What a transformer is told of a prompt; `None` for a UNet.
    pub(super) fn joint_states(
        &self,
        prompt: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Option<States>, Error> {
        let is_sd3 = match self.denoiser {
            Denoiser::Unet(_) => return Ok(None),
            Denoiser::Sd3(_) => true,
            Denoiser::Flux(_) => false,
        };
        let (mut columns, mut pooled) = (Vec::new(), Vec::new());
        for (i, text) in self.texts.iter().enumerate() {
            // What both cut off is said once.
            let mut again = Vec::new();
            let warnings = if i == 0 { &mut *warnings } else { &mut again };
            for chunk in text.chunks(prompt, PromptSyntax::Plain, warnings)? {
                let encoded = text.encode(&chunk, 0)?;
                columns.push((values(&encoded.penultimate)?.to_vec(), text.width()));
                pooled.extend(encoded.pooled);
            }
        }
        // FLUX reads of CLIP the pooled text alone.
        let mut rows = match is_sd3 {
            true => self.short_rows(columns),
            false => Vec::new(),
        };
        rows.extend(match &self.t5 {
            Some(text) => text.encode(prompt, warnings)?,
            None => vec![0.; long_length(Family::Sd3) * self.denoiser.text_dim()],
        });
        Ok(Some(States { rows, pooled }))
    }

    /// The states of CLIP's encoders side by side, filled up with zeros to the width of T5's.
    fn short_rows(&self, mut columns: Vec<(Vec<f32>, usize)>) -> Vec<f32> {
        let count = self.texts.first().map_or(0, |text| text.prompt_length());
        let rest = self.denoiser.text_dim().saturating_sub(self.text_width());
        columns.push((vec![0.; count * rest], rest));
        side_by_side(columns)
    }

    /// Says what a request has and the model does not take.
    pub(super) fn warn(&self, request: &Request, warnings: &mut Vec<String>) {
        if !self.denoiser.takes_negative() && !request.negative_prompt.is_empty() {
            warnings.push("the negative prompt was left out: FLUX takes none".to_owned());
        }
    }
}
