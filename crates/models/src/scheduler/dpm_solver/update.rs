//! One step of DPM-Solver++, as a weighted sum of the latents, the clean latents and their differences.

use super::super::multistep::Point;
use crate::config::{self, Fields};

/// Which of the paper's updates.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// SDE-DPM-Solver++ rather than DPM-Solver++.
    pub(super) is_stochastic: bool,
    /// Whether the second order takes the exact integral ("heun") rather than the midpoint's.
    is_heun: bool,
}

impl Form {
    /// Takes `algorithm_type` and `solver_type`; other solvers' types count as diffusers counts them.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let field = "algorithm_type";
        let algorithm = fields.take_or(field, "dpmsolver++".to_owned())?;
        let is_stochastic = match algorithm.as_str() {
            "dpmsolver++" | "deis" => false,
            "sde-dpmsolver++" => true,
            other => {
                let offered = "dpmsolver++, sde-dpmsolver++";
                return Err(fields.unsupported(field, &other.into(), offered));
            }
        };
        let solver = fields.take_or("solver_type", "midpoint".to_owned())?;
        match solver.as_str() {
            "midpoint" | "logrho" | "bh1" | "bh2" | "heun" => Ok(Self {
                is_stochastic,
                is_heun: solver == "heun",
            }),
            other => Err(fields.unsupported("solver_type", &other.into(), "midpoint, heun")),
        }
    }

    /// Weights of the clean latents D0 and of their first and second difference, for a step of `h`.
    fn differences(self, h: f32, order: usize) -> [f32; 3] {
        let is_exact = self.is_heun || order == 3;
        // The stochastic integral is that of twice the step.
        let (h, sign) = match self.is_stochastic {
            true => (2. * h, 1.),
            false => (h, -1.),
        };
        let decay = match self.is_stochastic {
            true => 1. - (-h).exp(),
            false => (-h).exp() - 1.,
        };
        let second = match (is_exact, self.is_stochastic) {
            (false, _) => sign * 0.5 * decay,
            (true, true) => decay / -h + 1.,
            (true, false) => decay / h + 1.,
        };
        let third = match self.is_stochastic {
            true => (decay - h) / (h * h) - 0.5,
            false => -((decay + h) / (h * h) - 0.5),
        };
        [sign * decay, second, third]
    }
}

/// Moves `latents` from the second of `points` to the first; the others are where the way was before.
/// `clean` has the clean latents of all but the first, newest first.
pub(super) fn update(
    form: Form,
    points: &[Point],
    clean: &[Vec<f32>],
    fresh: &[f32],
    latents: &mut [f32],
) {
    let (to, from) = (points[0], points[1]);
    let h = to.lambda - from.lambda;
    let order = points.len() - 1;
    let [zeroth, first, second] = form.differences(h, order).map(|w| to.alpha * w);
    let (kept, noise) = match form.is_stochastic {
        true => (
            to.sigma / from.sigma * (-h).exp(),
            to.sigma * (1. - (-2. * h).exp()).sqrt(),
        ),
        false => (to.sigma / from.sigma, 0.),
    };
    // Steps before this one, in steps of this length.
    let ratio = |i: usize| (points[i].lambda - points[i + 1].lambda) / h;
    for (i, x) in latents.iter_mut().enumerate() {
        let mut sum = kept * *x + zeroth * clean[0][i];
        if order > 1 {
            let near = 1. / ratio(1) * (clean[0][i] - clean[1][i]);
            let (slope, bend) = match order {
                2 => (near, 0.),
                _ => {
                    let far = 1. / ratio(2) * (clean[1][i] - clean[2][i]);
                    let both = ratio(1) + ratio(2);
                    (
                        near + ratio(1) / both * (near - far),
                        1. / both * (near - far),
                    )
                }
            };
            sum += first * slope;
            if order > 2 {
                sum += second * bend;
            }
        }
        *x = sum + noise * fresh[i];
    }
}
