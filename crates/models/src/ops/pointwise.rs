//! Functions of one number, written so that the compiler vectorises them, and ops made of them alone.
//!
//! diffusers' GELU is the exact one, with the error function, not the tanh form.

use super::math::{erf, exp};
use super::simd::vectorized;

/// x · σ(x).
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1. + exp(-x))
}

/// x · Φ(x), with the error function.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1. + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// x · σ(1.702 x), CLIP's approximation.
#[inline(always)]
pub(crate) fn quick_gelu(x: f32) -> f32 {
    x / (1. + exp(-1.702 * x))
}

/// GELU by the tanh form, which PyTorch calls `tanh`: x · σ(2 √(2/π) (x + 0.044715 x³)).
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    const TWICE_ROOT: f32 = 2. * 0.797_884_6;
    x / (1. + exp(-TWICE_ROOT * (x + 0.044_715 * x * x * x)))
}

vectorized! {
    /// SiLU of every value.
    pub(crate) fn silu_all(values: &mut [f32]) {
        for v in values.iter_mut() {
            *v = silu(*v);
        }
    }
}

vectorized! {
    /// GELU of every value.
    pub(crate) fn gelu_all(values: &mut [f32]) {
        for v in values.iter_mut() {
            *v = gelu(*v);
        }
    }
}

vectorized! {
    /// GELU by the tanh form of every value.
    pub(crate) fn gelu_tanh_all(values: &mut [f32]) {
        for v in values.iter_mut() {
            *v = gelu_tanh(*v);
        }
    }
}

vectorized! {
    /// Quick GELU of every value.
    pub(crate) fn quick_gelu_all(values: &mut [f32]) {
        for v in values.iter_mut() {
            *v = quick_gelu(*v);
        }
    }
}

vectorized! {
    /// `values[i] += right[i]`.
    pub(crate) fn add_assign(values: &mut [f32], right: &[f32]) {
        for (v, r) in values.iter_mut().zip(right) {
            *v += *r;
        }
    }
}

/// Sum of squared distances from `mean`, in sixteen lanes; the order is fixed by the length alone.
#[inline(always)]
pub(crate) fn sum_squared_from(values: &[f32], mean: f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [0f32; 16];
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += (v - mean) * (v - mean);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approximations_agree_with_the_exact_functions() {
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            let sigmoid = 1. / (1. + (-f64::from(x)).exp());
            assert!(
                (f64::from(silu(x)) - f64::from(x) * sigmoid).abs() < 1e-5,
                "silu {x}"
            );
        }
        // Φ from tables: Φ(1) = 0.8413447, Φ(-2) = 0.0227501.
        assert!((gelu(1.) - 0.841_344_7).abs() < 5e-7);
        assert!((gelu(-2.) + 0.045_500_2).abs() < 5e-7);
        assert!(silu(f32::NAN).is_nan());
    }
}
