//! Attention among tokens of several streams, each with projections of its own.

use candle_core::{Device, Tensor};

use crate::blocks::{Linear, Source};
use crate::ops::norm::rms_norm_rows;
use crate::ops::packed_attention::{KeysValues, Mask, attend};
use crate::ops::values::values;
use crate::weights::Error;

/// Added to the mean square of a query or key.
const EPS: f32 = 1e-6;

/// Heads side by side in the width of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) count: usize,
    pub(super) dim: usize,
    /// Whether queries and keys are normalised, head by head.
    pub(super) are_normalized: bool,
}

impl Heads {
    pub(super) fn width(self) -> usize {
        self.count * self.dim
    }
}

/// What a checkpoint calls the projections of one stream.
pub(super) struct Names {
    query: &'static str,
    key: &'static str,
    value: &'static str,
    query_norm: &'static str,
    key_norm: &'static str,
}

/// The picture's, and those of attention within one stream.
pub(super) const OF_PICTURE: Names = Names {
    query: "to_q",
    key: "to_k",
    value: "to_v",
    query_norm: "norm_q",
    key_norm: "norm_k",
};

/// The text's.
pub(super) const OF_TEXT: Names = Names {
    query: "add_q_proj",
    key: "add_k_proj",
    value: "add_v_proj",
    query_norm: "norm_added_q",
    key_norm: "norm_added_k",
};

/// Queries, keys and values of one stream.
pub(super) struct Project {
    /// Absent where nobody reads what the stream's own tokens see.
    query: Option<(Linear, Option<Vec<f32>>)>,
    key: (Linear, Option<Vec<f32>>),
    value: Linear,
}

impl Project {
    pub(super) fn load(
        at: &Source<'_>,
        names: &Names,
        heads: Heads,
        has_queries: bool,
    ) -> Result<Self, Error> {
        let width = heads.width();
        let linear = |name: &str| Linear::load(&at.at(name), width, width, true);
        let norm = |name: &str| {
            let load = || at.at(name).values("weight", &[heads.dim]);
            heads.are_normalized.then(load).transpose()
        };
        // Checkpoints have unused queries too: they are read and let go.
        let query = (linear(names.query)?, norm(names.query_norm)?);
        Ok(Self {
            query: has_queries.then_some(query),
            key: (linear(names.key)?, norm(names.key_norm)?),
            value: linear(names.value)?,
        })
    }

    /// Of `(tokens, width)`; with `turns`, queries and keys are turned by their places.
    pub(super) fn forward(
        &self,
        input: &Tensor,
        turns: Option<&Turns>,
    ) -> candle_core::Result<Tokens> {
        let project = |(layer, norm): &(Linear, Option<Vec<f32>>)| {
            let rows = layer.forward(input)?;
            let rows = values(&rows)?;
            let mut rows = match norm {
                Some(weight) => rms_norm_rows(&rows, weight, EPS),
                None => rows.to_vec(),
            };
            if let Some(turns) = turns {
                turns.apply(&mut rows, input.dim(1)?);
            }
            candle_core::Result::Ok(rows)
        };
        Ok(Tokens {
            queries: self.query.as_ref().map_or(Ok(Vec::new()), project)?,
            keys: project(&self.key)?,
            values: values(&self.value.forward(input)?)?.to_vec(),
        })
    }
}

/// Projected tokens, each `(tokens, width)` row-major; the queries may be fewer than the keys.
pub(super) struct Tokens {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Tokens {
    /// With the tokens of another stream behind its own.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.queries.extend_from_slice(&other.queries);
        self.keys.extend_from_slice(&other.keys);
        self.values.extend_from_slice(&other.values);
        self
    }

    /// What each query sees of all tokens, `(queries, width)`.
    pub(super) fn attend(self, heads: Heads) -> candle_core::Result<Tensor> {
        let width = heads.width();
        let memory = KeysValues::pack(&self.keys, &self.values, width, heads.count);
        let count = self.queries.len() / width;
        let queries = Tensor::from_vec(self.queries, (1, count, width), &Device::Cpu)?;
        attend(&queries, &[&memory], Mask::None)?.squeeze(0)
    }
}

/// Rotary places (Su et al. 2021, arXiv 2104.09864) on a plane: neighbouring numbers of a head are turned
/// together, some by the row, some by the column. Tokens behind the last are not turned.
pub(super) struct Turns {
    /// `(tokens, head_dim / 2)` of (cosine, sine), row-major.
    angles: Vec<(f32, f32)>,
    /// Pairs of one head.
    pairs: usize,
}

impl Turns {
    /// For `height` × `width` tokens, row by row. `dims` are numbers of a head for the text's place (which
    /// is 0 for a picture), the row and the column.
    pub(super) fn on_plane(height: usize, width: usize, dims: [usize; 3]) -> Self {
        const THETA: f64 = 10_000.;
        let mut angles = Vec::new();
        for place in (0..height * width).map(|token| [0, token / width, token % width]) {
            for (place, dim) in place.into_iter().zip(dims) {
                angles.extend((0..dim / 2).map(|i| {
                    let rate = 1. / THETA.powf((2 * i) as f64 / dim as f64);
                    let (sine, cosine) = (place as f64 * rate).sin_cos();
                    (cosine as f32, sine as f32)
                }));
            }
        }
        let pairs = dims.iter().map(|dim| dim / 2).sum();
        Self { angles, pairs }
    }

    /// Turns all heads of rows of `width`.
    fn apply(&self, rows: &mut [f32], width: usize) {
        for (row, angles) in rows.chunks_mut(width).zip(self.angles.chunks(self.pairs)) {
            for head in row.chunks_mut(2 * self.pairs) {
                for (pair, (cosine, sine)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    let [x, y] = *pair;
                    *pair = [x * cosine - y * sine, y * cosine + x * sine];
                }
            }
        }
    }
}
