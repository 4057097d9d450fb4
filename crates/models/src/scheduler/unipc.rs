//! UniPC (Zhao et al. 2023, arXiv 2302.04867): predictor UniP and corrector UniC (algorithms 5 to 8) of
//! order 1 to 3, as diffusers' `UniPCMultistepScheduler`. The corrector costs no evaluation: it sets the
//! last step right with the output that the next step needs anyway.

use super::bound::Bound;
use super::multistep::{Differences, Multistep, Point, read_order};
use super::prediction::Prediction;
use super::sigmas::Last;
use super::trajectory::Rule;
use super::unipc_weights::{Base, Weights};
use super::{Error, Level, Scheduler, Trajectory, Way};
use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

/// The predictor-corrector solver.
pub(super) struct UniPc {
    tables: Multistep,
    settings: Settings,
}

#[derive(Clone)]
struct Settings {
    base: Base,
    order: usize,
    bound: Bound,
    predicts_clean: bool,
    lower_order_final: bool,
    /// Steps that are not corrected.
    uncorrected: Vec<usize>,
}

impl UniPc {
    /// Takes the class's fields.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        for field in ["solver_p", "shift_terminal"] {
            fields.only(field, serde_json::Value::Null)?;
        }
        let found = Self {
            tables: Multistep::read(fields, false)?,
            settings: Settings {
                base: Base::read(fields)?,
                order: read_order(fields)?,
                bound: Bound::read_thresholding(fields)?,
                predicts_clean: fields.take_or("predict_x0", true)?,
                lower_order_final: fields.take_or("lower_order_final", true)?,
                uncorrected: fields.take_or("disable_corrector", Vec::new())?,
            },
        };
        // The last step would be of infinite length: in diffusers this way ends in NaN.
        let needs = "only with final_sigmas_type sigma_min";
        let Settings {
            order,
            predicts_clean,
            lower_order_final,
            ..
        } = found.settings;
        match found.tables.last {
            Last::Zero if !predicts_clean => {
                Err(fields.unsupported("predict_x0", &false.into(), needs))
            }
            Last::Zero if !lower_order_final && order > 1 => {
                Err(fields.unsupported("lower_order_final", &false.into(), needs))
            }
            _ => Ok(found),
        }
    }
}

impl Scheduler for UniPc {
    fn name(&self) -> &'static str {
        "unipc"
    }

    fn start(&self, way: &Way) -> Result<Trajectory, Error> {
        let differences = Differences {
            visited_before: self.tables.noise.count(),
            rounds: self.tables.is_rounded_spread(),
        };
        let (timesteps, sigmas) = self.tables.tables(way.steps, &differences)?;
        let rule = UniPcRule {
            points: sigmas.iter().map(|s| Point::of(*s)).collect(),
            settings: self.settings.clone(),
            prediction: self.tables.noise.prediction,
            outputs: Vec::new(),
            from: Vec::new(),
            order: 0,
        };
        Ok(Trajectory::new(timesteps, way.skipped()?, rule))
    }
}

struct UniPcRule {
    /// One for each step, and where the way ends.
    points: Vec<Point>,
    settings: Settings,
    prediction: Prediction,
    /// Clean latents, or noise, of up to three steps, newest first.
    outputs: Vec<Vec<f32>>,
    /// The latents that the last step went from.
    from: Vec<f32>,
    /// The order of the last step.
    order: usize,
}

impl Rule for UniPcRule {
    fn level(&self, index: usize) -> Level {
        self.points[index].level()
    }

    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) {
        let converted = self.convert(index, output, latents);
        let is_begun = !self.outputs.is_empty();
        if is_begun && !self.settings.uncorrected.contains(&(index - 1)) {
            let corrected = self.step_to(index, Some(&converted));
            latents.copy_from_slice(&corrected);
        }
        self.outputs.insert(0, converted);
        self.outputs.truncate(3);
        let left = match self.settings.lower_order_final {
            true => self.points.len() - 1 - index,
            false => usize::MAX,
        };
        self.order = self.settings.order.min(left).min(self.outputs.len());
        self.from = latents.to_vec();
        latents.copy_from_slice(&self.step_to(index + 1, None));
    }
}

impl UniPcRule {
    /// The model's output as the clean latents, or as the noise in them.
    fn convert(&self, index: usize, output: &[f32], latents: &[f32]) -> Vec<f32> {
        let (here, prediction) = (self.level(index), self.prediction);
        let pairs = latents.iter().zip(output);
        if !self.settings.predicts_clean {
            return pairs
                .map(|(x, out)| prediction.noise(here, *x, *out))
                .collect();
        }
        let mut clean: Vec<f32> = pairs
            .map(|(x, out)| prediction.clean(here, *x, *out))
            .collect();
        self.settings.bound.apply(&mut clean);
        clean
    }

    /// The latents at point `to`, from those of the point before: predicted, or corrected by what the
    /// model gave `there`.
    fn step_to(&self, to: usize, there: Option<&[f32]>) -> Vec<f32> {
        let settings = &self.settings;
        let history: Vec<Point> = (0..self.order).map(|i| self.points[to - 1 - i]).collect();
        let weights = Weights::new(
            settings.base,
            settings.predicts_clean,
            self.points[to],
            &history,
        );
        let mut rhos = weights.rhos(there.is_some());
        let newest = &self.outputs[0];
        let correction = there.and_then(|there| Some((there, rhos.pop()?)));
        let mut next = Vec::with_capacity(newest.len());
        for (i, (x, m0)) in self.from.iter().zip(newest).enumerate() {
            let slopes = rhos.iter().zip(&weights.ratios).zip(&self.outputs[1..]);
            let mut sum: f32 = slopes.map(|((rho, r), m)| rho * ((m[i] - m0) / r)).sum();
            if let Some((there, rho)) = correction {
                sum += rho * (there[i] - m0);
            }
            // Of first order the sum is 0, and its factor may be infinite at the end.
            let bend = if sum == 0. { 0. } else { weights.bend * sum };
            next.push(weights.kept * x - weights.slope * m0 - bend);
        }
        next
    }
}
