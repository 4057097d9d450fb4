//! The weights of one UniPC step (Zhao et al. 2023, arXiv 2302.04867, theorem 3.1 and appendix A).

use super::multistep::Point;
use crate::config::{self, Fields};

/// B(h), which the weights are measured in.
#[derive(Clone, Copy)]
pub(super) enum Base {
    /// B₁(h) = h.
    Linear,
    /// B₂(h) = e^h − 1.
    Exponential,
}

impl Base {
    /// Takes `solver_type`; other solvers' types count as diffusers counts them.
    ///
    /// # Errors
    /// [`config::Error`].
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let solver = fields.take_or("solver_type", "bh2".to_owned())?;
        match solver.as_str() {
            "bh1" => Ok(Self::Linear),
            "bh2" | "midpoint" | "heun" | "logrho" => Ok(Self::Exponential),
            other => Err(fields.unsupported("solver_type", &other.into(), "bh1, bh2")),
        }
    }
}

/// A step is `kept · x − slope · m₀ − bend · Σ ρ D`.
pub(super) struct Weights {
    /// Factor of the latents.
    pub(super) kept: f32,
    /// Factor of the newest output.
    pub(super) slope: f32,
    /// Factor of the differences.
    pub(super) bend: f32,
    /// Places of the older outputs, in lengths of this step.
    pub(super) ratios: Vec<f32>,
    /// Right side of the order conditions.
    conditions: Vec<f32>,
}

impl Weights {
    /// From the first of `history` (newest first; as many as the order) to `to`.
    pub(super) fn new(base: Base, predicts_clean: bool, to: Point, history: &[Point]) -> Self {
        let from = history[0];
        let h = to.lambda - from.lambda;
        let signed = if predicts_clean { -h } else { h };
        let growth = signed.exp_m1();
        let measure = match base {
            Base::Linear => signed,
            Base::Exponential => growth,
        };
        let (kept, scale) = match predicts_clean {
            true => (to.sigma / from.sigma, to.alpha),
            false => (to.alpha / from.alpha, to.sigma),
        };
        let ratio = |point: &Point| (point.lambda - from.lambda) / h;
        Self {
            kept,
            slope: scale * growth,
            bend: scale * measure,
            ratios: history[1..].iter().map(ratio).collect(),
            conditions: conditions(signed, growth, measure, history.len()),
        }
    }

    /// ρ of the older outputs, and with `is_corrector` of the output at the step's end.
    pub(super) fn rhos(&self, is_corrector: bool) -> Vec<f32> {
        let mut places = self.ratios.clone();
        places.extend(is_corrector.then_some(1.));
        match places.len() {
            0 => Vec::new(),
            // As published: exact only in the limit of short steps, and better than exact for long ones.
            1 => vec![0.5],
            _ => solve(&places, &self.conditions),
        }
    }
}

/// φ-functions by their recursion, in f32 as PyTorch computes them.
fn conditions(h: f32, growth: f32, measure: f32, order: usize) -> Vec<f32> {
    let (mut phi, mut factorial) = (growth / h - 1., 1f32);
    let mut found = Vec::with_capacity(order);
    for i in 1..=order {
        found.push(phi * factorial / measure);
        factorial *= (i + 1) as f32;
        phi = phi / h - 1. / factorial;
    }
    found
}

/// Solves Σₖ placeₖⁱ · ρₖ = conditionᵢ for i = 0, 1, …: a Vandermonde system of two or three rows, by
/// elimination in f64.
fn solve(places: &[f32], conditions: &[f32]) -> Vec<f32> {
    let count = places.len();
    let row = |i: usize| -> Vec<f64> {
        let powers = places.iter().map(|p| f64::from(*p).powi(i as i32));
        powers.chain([f64::from(conditions[i])]).collect()
    };
    let mut rows: Vec<Vec<f64>> = (0..count).map(row).collect();
    for pivot in 0..count {
        // Places differ, so that no pivot of such a system is 0.
        let divided: Vec<f64> = rows[pivot].iter().map(|v| v / rows[pivot][pivot]).collect();
        for (i, row) in rows.iter_mut().enumerate() {
            let factor = row[pivot];
            if i != pivot {
                row.iter_mut()
                    .zip(&divided)
                    .for_each(|(v, d)| *v -= factor * d);
            }
        }
        rows[pivot] = divided;
    }
    rows.iter().map(|row| row[count] as f32).collect()
}
