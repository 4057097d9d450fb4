//! Quantiles of the beta distribution with both parameters 0.6, for `use_beta_sigmas` (Lee et al. 2024,
//! arXiv 2407.12173).

/// Both parameters, as diffusers fixes them.
const SHAPE: f64 = 0.6;
/// Γ(0.6)² / Γ(1.2), as `scipy.special.beta(0.6, 0.6)` prints it.
const COMPLETE: f64 = 2.415_344_208_002_472_3;

/// The x in [0, 1] below which the part `p` lies. The distribution is symmetric, and the root in the
/// lower half is found by halving: 60 times, to the last bit.
pub(super) fn beta_quantile(p: f64) -> f64 {
    if p > 0.5 {
        return 1. - beta_quantile(1. - p);
    }
    let (mut low, mut high) = (0., 0.5);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        match below(middle) < p {
            true => low = middle,
            false => high = middle,
        }
    }
    high
}

/// The regularized incomplete beta function by its power series (Abramowitz and Stegun 1964, 26.5.4),
/// which halves its terms at least for x ≤ ½.
fn below(x: f64) -> f64 {
    if x <= 0. {
        return 0.;
    }
    let (mut term, mut sum) = (1., 1.);
    let mut n = 0.;
    while term > 1e-17 * sum {
        term *= x * (2. * SHAPE + n) / (SHAPE + 1. + n);
        sum += term;
        n += 1.;
    }
    x.powf(SHAPE) * (1. - x).powf(SHAPE) / (SHAPE * COMPLETE) * sum
}
