//! Prompts as the UNet wants them.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{Error, Pipeline, PromptSyntax};
use crate::ops::values::values;
use crate::prompt_weighting as weighting;
use crate::unet::Context;

impl Pipeline {
    /// Text states of a prompt, laid out for the UNet.
    pub(super) fn context(
        &self,
        prompt: &str,
        syntax: PromptSyntax,
        warnings: &mut Vec<String>,
    ) -> Result<Arc<Context>, Error> {
        let length = self.prompt_length();
        let chunks = match syntax {
            PromptSyntax::Plain => {
                let mut tokens = self.tokenizer.encode(prompt)?;
                let over = tokens.len().saturating_sub(length - 2);
                if over > 0 {
                    warnings.push(format!("the last {over} tokens of the prompt were cut off"));
                    tokens.truncate(length - 2);
                }
                let weights = vec![1.; tokens.len()];
                vec![weighting::Chunk { tokens, weights }]
            }
            PromptSyntax::Webui => self.weighted_chunks(prompt)?,
        };
        let width = self.text.config().hidden_size;
        let mut states = Vec::new();
        for chunk in &chunks {
            let encoded = self
                .text
                .encode(&self.tokenizer.framed(&chunk.tokens, length))?;
            let mut rows = values(&encoded.hidden)?.to_vec();
            // Start, end and padding keep the weight 1.
            let mut weights = vec![1.; length];
            weights[1..=chunk.weights.len()].copy_from_slice(&chunk.weights);
            weighting::apply(&mut rows, width, &weights);
            states.extend(rows);
        }
        let states = Tensor::from_vec(states, (chunks.len() * length, width), &Device::Cpu)?;
        Ok(Arc::new(self.unet.context(&states)?))
    }

    pub(super) fn weighted_chunks(&self, prompt: &str) -> Result<Vec<weighting::Chunk>, Error> {
        let capacity = self.prompt_length() - 2;
        let pieces = weighting::parse(prompt);
        Ok(weighting::chunks(&pieces, capacity, |text| {
            self.tokenizer.encode(text)
        })?)
    }

    /// Tokens that the text encoder takes at a time.
    pub(super) fn prompt_length(&self) -> usize {
        let most = self.text.config().max_position_embeddings;
        self.tokenizer.max_length.map_or(most, |n| n.min(most))
    }
}
