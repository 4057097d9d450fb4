//! Rotary frequencies with the scalings that the three families use (Su et al., 2021).

use std::f64::consts::TAU;

use candle_core::{Device, Result, Tensor};

use super::config::{DecoderConfig, RopeScaling};

/// Cosines and sines for every position.
#[derive(Debug)]
pub(crate) struct Rotary {
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
}

impl Rotary {
    /// Tables for `config.max_positions`. Angles are computed in `f32`, as transformers does, so that
    /// long positions round the same way.
    pub(crate) fn new(config: &DecoderConfig, device: &Device) -> Result<Self> {
        let frequencies = frequencies(config);
        let shape = (config.max_positions, frequencies.len());
        let angles = (0..config.max_positions)
            .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        let angles: Vec<f32> = angles.collect();
        let table = |of: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|&angle| of(angle)).collect();
            Tensor::from_vec(values, shape, device)
        };
        Ok(Self {
            cos: table(f32::cos)?,
            sin: table(f32::sin)?,
            interleaved: config.rope_interleaved,
        })
    }

    /// Rotates `x`, (1, heads, tokens, head_dim), whose first token stands at `position`.
    pub(crate) fn rotate(&self, x: &Tensor, position: usize) -> Result<Tensor> {
        let tokens = x.dim(2)?;
        let cos = self.cos.narrow(0, position, tokens)?;
        let sin = self.sin.narrow(0, position, tokens)?;
        match self.interleaved {
            true => candle_nn::rotary_emb::rope_i(&x.contiguous()?, &cos, &sin),
            false => crate::ops::rope(x, &cos, &sin),
        }
    }
}

fn frequencies(config: &DecoderConfig) -> Vec<f32> {
    let (dim, theta) = (config.head_dim, config.rope_theta as f32);
    let plain = (0..dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / dim as f32));
    match &config.rope_scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear(factor) => plain.map(|f| f / *factor as f32).collect(),
        RopeScaling::Divisors(divisors) => plain.zip(divisors).map(|(f, d)| f / d).collect(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_positions,
        } => plain
            .map(|frequency| {
                let wavelength = TAU / f64::from(frequency);
                if wavelength < original_positions / high_freq_factor {
                    return frequency;
                }
                let slow = f64::from(frequency) / factor;
                if wavelength > original_positions / low_freq_factor {
                    return slow as f32;
                }
                let smooth = (original_positions / wavelength - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                ((1.0 - smooth) * slow + smooth * f64::from(frequency)) as f32
            })
            .collect(),
    }
}
