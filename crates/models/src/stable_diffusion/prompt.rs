//! Prompts as a UNet wants them, and where those of the transformers go.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::denoiser::{Context, Denoiser};
use super::{Error, Pipeline, PromptSyntax, Request};
use crate::clip_text::{ClipText, TextStates};
use crate::clip_tokenizer::ClipTokenizer;
use crate::config::LoadError;
use crate::ops::values::values;
use crate::prompt_weighting::{self as weighting, Chunk};
use crate::unet::Addition;
use crate::weights::Adapters;

/// A text encoder with its tokenizer.
pub(super) struct TextEncoder {
    pub(super) tokenizer: ClipTokenizer,
    pub(super) model: ClipText,
}

/// What the denoiser is told of a prompt.
pub(super) struct States {
    /// `(tokens, width)`, row-major: for a UNet the states of all encoders side by side.
    pub(super) rows: Vec<f32>,
    /// For a UNet the last encoder's, of the first chunk.
    pub(super) pooled: Vec<f32>,
}

impl TextEncoder {
    /// Loads `text_encoder` and `tokenizer`, with `end` behind both names.
    pub(super) fn load(folder: &Path, end: &str, adapters: Adapters) -> Result<Self, LoadError> {
        Ok(Self {
            tokenizer: ClipTokenizer::load(&folder.join(format!("tokenizer{end}")))?,
            model: ClipText::load_adapted(&folder.join(format!("text_encoder{end}")), adapters)?,
        })
    }

    /// Tokens that it takes at a time.
    pub(super) fn prompt_length(&self) -> usize {
        let most = self.model.config().max_position_embeddings;
        self.tokenizer.max_length.map_or(most, |n| n.min(most))
    }

    pub(super) fn width(&self) -> usize {
        self.model.config().hidden_size
    }

    /// A prompt's words, in as many pieces as it takes.
    pub(super) fn chunks(
        &self,
        prompt: &str,
        syntax: PromptSyntax,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Chunk>, Error> {
        let capacity = self.prompt_length() - 2;
        if syntax == PromptSyntax::Webui {
            let pieces = weighting::parse(prompt);
            let encode = |text: &str| self.tokenizer.encode(text);
            return Ok(weighting::chunks(&pieces, capacity, encode)?);
        }
        let mut tokens = self.tokenizer.encode(prompt)?;
        let over = tokens.len().saturating_sub(capacity);
        if over > 0 {
            warnings.push(format!("the last {over} tokens of the prompt were cut off"));
            tokens.truncate(capacity);
        }
        let weights = vec![1.; tokens.len()];
        Ok(vec![Chunk { tokens, weights }])
    }

    pub(super) fn encode(&self, chunk: &Chunk, clip_skip: usize) -> Result<TextStates, Error> {
        let ids = self.tokenizer.framed(&chunk.tokens, self.prompt_length());
        Ok(self.model.encode_skipping(&ids, clip_skip)?)
    }
}

impl Pipeline {
    /// Text states of the prompt, laid out for the denoiser, with what else `request` says to it.
    pub(super) fn context(
        &self,
        request: &Request,
        warnings: &mut Vec<String>,
    ) -> Result<Arc<Context>, Error> {
        let how = (request.syntax, request.clip_skip);
        let states = self.encode(&request.prompt, how, warnings)?;
        self.prepare(states, request)
    }

    /// The same for the negative prompt, of which diffusers skips no layers.
    pub(super) fn negative_context(
        &self,
        request: &Request,
        warnings: &mut Vec<String>,
    ) -> Result<Arc<Context>, Error> {
        if !(self.zeros_for_empty_prompt && request.negative_prompt.is_empty()) {
            let states = self.encode(&request.negative_prompt, (request.syntax, 0), warnings)?;
            return self.prepare(states, request);
        }
        let pooled = self.denoiser.addition().map_or(0, |a| a.pooled_dim);
        let states = States {
            rows: vec![0.; self.texts[0].prompt_length() * self.text_width()],
            pooled: vec![0.; pooled],
        };
        self.prepare(states, request)
    }

    /// Width of the states of CLIP's encoders side by side.
    pub(super) fn text_width(&self) -> usize {
        self.texts.iter().map(TextEncoder::width).sum()
    }

    fn prepare(&self, states: States, request: &Request) -> Result<Arc<Context>, Error> {
        let width = self.denoiser.text_dim();
        let tokens = states.rows.len() / width;
        let rows = Tensor::from_vec(states.rows, (tokens, width), &Device::Cpu)?;
        let unet = match &self.denoiser {
            Denoiser::Unet(unet) => unet,
            joint => return joint.joint_context(&rows, &states.pooled, request),
        };
        if unet.config().addition.is_none() {
            return Ok(Arc::new(Context::Unet(unet.context(&rows)?)));
        }
        let (height, width) = (request.height_px as f32, request.width_px as f32);
        // As diffusers' defaults: an original of the size that is wanted, not cropped.
        let addition = Addition {
            pooled: &states.pooled,
            sizes: [height, width, 0., 0., height, width],
        };
        let context = unet.context_with(&rows, &addition)?;
        Ok(Arc::new(Context::Unet(context)))
    }

    fn encode(
        &self,
        prompt: &str,
        (syntax, clip_skip): (PromptSyntax, usize),
        warnings: &mut Vec<String>,
    ) -> Result<States, Error> {
        if let Some(states) = self.joint_states(prompt, warnings)? {
            return Ok(states);
        }
        let mut chunks = Vec::new();
        for (i, text) in self.texts.iter().enumerate() {
            // What both cut off is said once.
            let mut again = Vec::new();
            let warnings = if i == 0 { &mut *warnings } else { &mut again };
            chunks.push(text.chunks(prompt, syntax, warnings)?);
        }
        // Vocabularies of their own may need more room for the same words.
        let count = chunks.iter().map(Vec::len).max().unwrap_or_default();
        let (mut columns, mut pooled) = (Vec::new(), Vec::new());
        for (text, mut chunks) in self.texts.iter().zip(chunks) {
            chunks.resize(count, Chunk::default());
            let (rows, first) = self.rows(text, &chunks, clip_skip)?;
            columns.push((rows, text.width()));
            pooled = first;
        }
        let rows = side_by_side(columns);
        Ok(States { rows, pooled })
    }

    /// The states of one encoder, weighted, and the pooled state of the first chunk.
    fn rows(
        &self,
        text: &TextEncoder,
        chunks: &[Chunk],
        clip_skip: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let (mut states, mut pooled) = (Vec::new(), Vec::new());
        for (i, chunk) in chunks.iter().enumerate() {
            let encoded = text.encode(chunk, clip_skip)?;
            let hidden = match self.denoiser.addition() {
                Some(_) => &encoded.penultimate,
                None => &encoded.hidden,
            };
            let mut rows = values(hidden)?.to_vec();
            // Start, end and padding keep the weight 1.
            let mut weights = vec![1.; text.prompt_length()];
            weights[1..=chunk.weights.len()].copy_from_slice(&chunk.weights);
            weighting::apply(&mut rows, text.width(), &weights);
            states.extend(rows);
            if i == 0 {
                pooled = encoded.pooled;
            }
        }
        Ok((states, pooled))
    }
}

/// Matrices of as many rows, each with its width, as one.
pub(super) fn side_by_side(mut columns: Vec<(Vec<f32>, usize)>) -> Vec<f32> {
    if columns.len() == 1 {
        return columns.pop().map(|(rows, _)| rows).unwrap_or_default();
    }
    let count = columns
        .first()
        .map_or(0, |(rows, width)| rows.len() / width);
    let mut all = Vec::with_capacity(columns.iter().map(|(rows, _)| rows.len()).sum());
    for row in 0..count {
        for (rows, width) in &columns {
            all.extend_from_slice(&rows[row * width..(row + 1) * width]);
        }
    }
    all
}
