//! The operations of the table, by name, each on the shape where Stable Diffusion 1.5 meets it.

use std::time::Instant;

use anyhow::bail;
use candle_core::Tensor;
use models::ops::conv::{Addends, Kernel, Placement};
use models::ops::geglu::geglu;
use models::ops::group_norm::{GroupNorm, LayerNorm};
use models::ops::packed_attention::{KeysValues, Mask, attend};
use models::ops::product::{Matrix, Packed, add_product};
use models::torch_rng::TorchRng;

use super::noise;

/// Runs of which the fastest counts.
const RUNS: usize = 5;

/// Seconds of the operation `name`: `conv3x3-CIN-COUT-SIDE-BATCH`, `linear-ROWS-IN-OUT`,
/// `attention-BATCH-TOKENS-WIDTH-HEADS`, `geglu-ROWS-WIDTH`, `group_norm_silu-CHANNELS-SIDE-BATCH`,
/// `layer_norm-ROWS-WIDTH`.
pub(crate) fn seconds(name: &str) -> anyhow::Result<f64> {
    let mut parts = name.split('-');
    let kind = parts.next().unwrap_or_default();
    let sizes = parts.map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    match (kind, sizes.as_slice()) {
        ("conv3x3", &[inputs, outputs, side, batch]) => conv(inputs, outputs, side, batch),
        ("linear", &[rows, inputs, outputs]) => linear(rows, inputs, outputs),
        ("attention", &[batch, tokens, width, heads]) => attention(batch, tokens, width, heads),
        ("geglu", &[rows, width]) => {
            let input = noise(&[rows, 2 * width])?;
            fastest(|| geglu(&input))
        }
        ("group_norm_silu", &[channels, side, batch]) => group_norm(channels, side, batch),
        ("layer_norm", &[rows, width]) => {
            let input = noise(&[rows, width])?;
            let norm = LayerNorm {
                eps: 1e-5,
                weight: vec![1.; width],
                bias: vec![0.; width],
            };
            fastest(|| norm.forward(&input))
        }
        _ => bail!("no such operation: {name}"),
    }
}

fn fastest<T>(mut run: impl FnMut() -> candle_core::Result<T>) -> anyhow::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let begun = Instant::now();
        run()?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn conv(inputs: usize, outputs: usize, side: usize, batch: usize) -> anyhow::Result<f64> {
    let input = noise(&[batch, side, side, inputs])?;
    let weight = TorchRng::new(1).randn(outputs * inputs * 9);
    let kernel = Kernel::new(&weight, vec![0.; outputs], inputs, 3);
    fastest(|| kernel.forward(&input, Placement::same(3), Addends::default()))
}

fn linear(rows: usize, inputs: usize, outputs: usize) -> anyhow::Result<f64> {
    let weights = Packed::from_out_in(&TorchRng::new(1).randn(outputs * inputs), outputs, inputs);
    let input = TorchRng::new(2).randn(rows * inputs);
    fastest(|| {
        let mut out = vec![0.; rows * outputs];
        add_product(&Matrix::whole(&input, inputs), &weights, &mut out);
        Ok(out)
    })
}

fn attention(batch: usize, tokens: usize, width: usize, heads: usize) -> anyhow::Result<f64> {
    let queries = noise(&[batch, tokens, width])?;
    let keys = TorchRng::new(3).randn(tokens * width);
    fastest(|| -> candle_core::Result<Tensor> {
        let memory: Vec<KeysValues> = (0..batch)
            .map(|_| KeysValues::pack(&keys, &keys, width, heads))
            .collect();
        attend(&queries, &memory.iter().collect::<Vec<_>>(), Mask::None)
    })
}

fn group_norm(channels: usize, side: usize, batch: usize) -> anyhow::Result<f64> {
    let input = noise(&[batch, side * side, channels])?;
    let (weight, bias) = (vec![1.; channels], vec![0.; channels]);
    let norm = GroupNorm {
        groups: 32,
        eps: 1e-5,
        weight,
        bias,
    };
    fastest(|| norm.forward(&input, true))
}
