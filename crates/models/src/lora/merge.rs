//! The product of an adapter's two factors, added to a weight.

use rayon::prelude::*;

use super::{Module, refusal};
use crate::weights::{Error, Weights};

/// Adds scale · alpha / rank · up · down to `values`, a weight of `shape` `(outputs, …)`.
///
/// A linear layer has `down` `(rank, inputs)` and `up` `(outputs, rank)`; a convolution has `down`
/// `(rank, inputs, height, width)` and `up` `(outputs, rank, 1, 1)`, and the product is the same.
pub(super) fn add(
    weights: &Weights,
    module: &Module,
    scale: f32,
    shape: &[usize],
    values: &mut [f32],
) -> Result<(), Error> {
    let down = whole(weights, module.down.as_deref(), module, "down")?;
    let up = whole(weights, module.up.as_deref(), module, "up")?;
    let outputs = shape.first().copied().unwrap_or_default();
    let inputs = shape.iter().skip(1).product::<usize>();
    let rank = down.shape.first().copied().unwrap_or_default();
    let fits = |factor: &Factor, rows: usize, columns: usize| {
        if rows == 0 || factor.shape.first() != Some(&rows) || factor.values.len() != rows * columns
        {
            let reason = format!(
                "has shape {:?}, which does not fit a layer of {shape:?} at rank {rank}",
                factor.shape
            );
            return Err(refusal(weights.path(), factor.key, reason));
        }
        Ok(())
    };
    fits(&down, rank, inputs)?;
    fits(&up, outputs, rank)?;
    let scale = scale * alpha(weights, module)?.map_or(1., |alpha| alpha / rank as f32);
    values
        .par_chunks_mut(inputs.max(1))
        .zip(up.values.par_chunks(rank))
        .for_each(|(row, factors)| {
            for (factor, line) in factors.iter().zip(down.values.chunks(inputs.max(1))) {
                let factor = scale * factor;
                row.iter_mut().zip(line).for_each(|(v, d)| *v += factor * d);
            }
        });
    Ok(())
}

struct Factor<'a> {
    key: &'a str,
    shape: Vec<usize>,
    values: Vec<f32>,
}

fn whole<'a>(
    weights: &Weights,
    key: Option<&'a str>,
    module: &Module,
    role: &str,
) -> Result<Factor<'a>, Error> {
    let Some(key) = key else {
        let other = [&module.down, &module.up, &module.alpha];
        let other = other.into_iter().flatten().next();
        let reason = format!("stands without the {role} factor of its layer");
        return Err(refusal(
            weights.path(),
            other.map_or("", String::as_str),
            reason,
        ));
    };
    let shape = weights.shape(key).unwrap_or_default().to_vec();
    let values = weights.values(key, &shape)?;
    Ok(Factor { key, shape, values })
}

fn alpha(weights: &Weights, module: &Module) -> Result<Option<f32>, Error> {
    let Some(key) = &module.alpha else {
        return Ok(module.stated_alpha);
    };
    let shape = weights.shape(key).unwrap_or_default().to_vec();
    match weights.values(key, &shape)?.as_slice() {
        [alpha] => Ok(Some(*alpha)),
        more => {
            let reason = format!("holds {} numbers, one is expected", more.len());
            Err(refusal(weights.path(), key, reason))
        }
    }
}
