//! Blocks: attention among a picture's and its text's tokens, then a feed-forward for each.

use candle_core::{D, Device, Tensor};
use rayon::prelude::*;

use super::attention::{Heads, OF_PICTURE, OF_TEXT, Project, Turns};
use super::modulation::{Modulate, Rows};
use crate::blocks::{Linear, Source};
use crate::ops::pointwise::gelu_tanh_all;
use crate::ops::values::values;
use crate::weights::Error;

/// Numbers that one thread activates at a time.
const BLOCK: usize = 1 << 14;

/// Both streams, `(tokens, dim)` each.
pub(super) struct Streams {
    pub(super) picture: Tensor,
    pub(super) text: Tensor,
}

/// What a block can be.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) heads: Heads,
    /// Whether it is the last: nothing reads its text.
    pub(super) is_last: bool,
    /// Whether the picture attends to itself a second time, as in some layers of Stable Diffusion 3.5.
    pub(super) is_dual: bool,
}

/// diffusers' `JointTransformerBlock` and `FluxTransformerBlock`.
pub(super) struct JointBlock {
    heads: Heads,
    picture: Stream,
    text: Stream,
    own: Option<(Project, Linear)>,
}

impl JointBlock {
    pub(super) fn load(at: &Source<'_>, shape: Shape) -> Result<Self, Error> {
        let Shape {
            heads,
            is_last,
            is_dual,
        } = shape;
        let dim = heads.width();
        let own = || {
            let at = at.at("attn2");
            let out = Linear::load(&at.at("to_out.0"), dim, dim, true)?;
            Ok((Project::load(&at, &OF_PICTURE, heads, true)?, out))
        };
        let attention = at.at("attn");
        Ok(Self {
            heads,
            picture: Stream {
                modulate: Modulate::load(&at.at("norm1"), dim, if is_dual { 9 } else { 6 })?,
                project: Project::load(&attention, &OF_PICTURE, heads, true)?,
                after: Some(After::load(at, "attn.to_out.0", "ff", dim)?),
            },
            text: Stream {
                modulate: Modulate::load(
                    &at.at("norm1_context"),
                    dim,
                    if is_last { 2 } else { 6 },
                )?,
                project: Project::load(&attention, &OF_TEXT, heads, !is_last)?,
                after: (!is_last)
                    .then(|| After::load(at, "attn.to_add_out", "ff_context", dim))
                    .transpose()?,
            },
            own: is_dual.then(own).transpose()?,
        })
    }

    /// The text goes on as it came from the last block.
    pub(super) fn forward(
        &self,
        streams: Streams,
        condition: &Tensor,
        turns: Option<&Turns>,
    ) -> candle_core::Result<Streams> {
        let Streams { picture, text } = streams;
        let (of_picture, of_text) = (
            self.picture.modulate.rows(condition)?,
            self.text.modulate.rows(condition)?,
        );
        let normal = of_picture.normalize(&picture, 0, 1)?;
        let normal_text = match self.text.after {
            Some(_) => of_text.normalize(&text, 0, 1)?,
            // Scale before shift in the last.
            None => of_text.normalize(&text, 1, 0)?,
        };
        let text_tokens = self.text.project.forward(&normal_text, None)?;
        let tokens = self.picture.project.forward(&normal, turns)?;
        let mixed = tokens.and(&text_tokens).attend(self.heads)?;
        let count = picture.dim(0)?;
        let seconds = self.attend_to_itself(&picture, &of_picture)?;
        let picture = self.picture.forward(
            &picture,
            &mixed.narrow(0, 0, count)?,
            seconds.as_ref(),
            &of_picture,
        )?;
        let text = match &self.text.after {
            Some(_) => {
                let mixed = mixed.narrow(0, count, text.dim(0)?)?;
                self.text.forward(&text, &mixed, None, &of_text)?
            }
            None => text,
        };
        Ok(Streams { picture, text })
    }

    fn attend_to_itself(
        &self,
        picture: &Tensor,
        rows: &Rows,
    ) -> candle_core::Result<Option<Tensor>> {
        let Some((project, out)) = &self.own else {
            return Ok(None);
        };
        let tokens = project.forward(&rows.normalize(picture, 6, 7)?, None)?;
        Ok(Some(out.forward(&tokens.attend(self.heads)?)?))
    }
}

struct Stream {
    /// Shift, scale and gate of attention, the same of the feed-forward, and of a second attention.
    modulate: Modulate,
    project: Project,
    after: Option<After>,
}

struct After {
    out: Linear,
    widen: Linear,
    narrow: Linear,
}

impl After {
    fn load(at: &Source<'_>, out: &str, feed: &str, dim: usize) -> Result<Self, Error> {
        let (feed, inner) = (at.at(feed), 4 * dim);
        Ok(Self {
            out: Linear::load(&at.at(out), dim, dim, true)?,
            widen: Linear::load(&feed.at("net.0.proj"), dim, inner, true)?,
            narrow: Linear::load(&feed.at("net.2"), inner, dim, true)?,
        })
    }
}

impl Stream {
    /// Adds what was `mixed` by attention, what a second attention gave, and the feed-forward.
    fn forward(
        &self,
        input: &Tensor,
        mixed: &Tensor,
        seconds: Option<&Tensor>,
        rows: &Rows,
    ) -> candle_core::Result<Tensor> {
        let Some(after) = &self.after else {
            return Ok(input.clone());
        };
        let mut hidden = rows.add_gated(input, &after.out.forward(mixed)?, 2)?;
        if let Some(seconds) = seconds {
            hidden = rows.add_gated(&hidden, seconds, 8)?;
        }
        let wide = activated(&after.widen.forward(&rows.normalize(&hidden, 3, 4)?)?)?;
        rows.add_gated(&hidden, &after.narrow.forward(&wide)?, 5)
    }
}

/// diffusers' `FluxSingleTransformerBlock`: attention and feed-forward side by side, over all tokens.
pub(super) struct SingleBlock {
    heads: Heads,
    modulate: Modulate,
    project: Project,
    widen: Linear,
    out: Linear,
}

impl SingleBlock {
    pub(super) fn load(at: &Source<'_>, heads: Heads) -> Result<Self, Error> {
        let dim = heads.width();
        Ok(Self {
            heads,
            modulate: Modulate::load(&at.at("norm"), dim, 3)?,
            project: Project::load(&at.at("attn"), &OF_PICTURE, heads, true)?,
            widen: Linear::load(&at.at("proj_mlp"), dim, 4 * dim, true)?,
            out: Linear::load(&at.at("proj_out"), 5 * dim, dim, true)?,
        })
    }

    /// `(tokens, dim)`, the picture's first.
    pub(super) fn forward(
        &self,
        input: &Tensor,
        condition: &Tensor,
        turns: &Turns,
    ) -> candle_core::Result<Tensor> {
        let rows = self.modulate.rows(condition)?;
        let normal = rows.normalize(input, 0, 1)?;
        let mixed = self.project.forward(&normal, Some(turns))?;
        let mixed = mixed.attend(self.heads)?;
        let wide = activated(&self.widen.forward(&normal)?)?;
        let both = Tensor::cat(&[mixed, wide], D::Minus1)?;
        rows.add_gated(input, &self.out.forward(&both)?, 2)
    }
}

/// GELU by the tanh form.
fn activated(input: &Tensor) -> candle_core::Result<Tensor> {
    let mut out = values(input)?.to_vec();
    out.par_chunks_mut(BLOCK).for_each(gelu_tanh_all);
    Tensor::from_vec(out, input.shape(), &Device::Cpu)
}
