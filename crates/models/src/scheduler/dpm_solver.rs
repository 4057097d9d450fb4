//! DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095): multistep of order 1 to 3 in the clean latents
//! (algorithm 2, and its stochastic form, section 5.2), as diffusers' `DPMSolverMultistepScheduler`.

use super::bound::Bound;
use super::multistep::{Differences, Multistep, Point, read_order};
use super::sigmas::Last;
use super::trajectory::Rule;
use super::{Error, Level, Scheduler, Trajectory, Way};
use crate::config::{self, Fields};
use crate::torch_rng::TorchRng;

mod update;

use update::{Form, update};

/// The multistep solver.
pub(super) struct DpmSolver {
    tables: Multistep,
    settings: Settings,
    lambda_min_clipped: f32,
}

#[derive(Clone, Copy)]
struct Settings {
    form: Form,
    order: usize,
    bound: Bound,
    lower_order_final: bool,
    euler_at_final: bool,
}

impl DpmSolver {
    /// Takes the class's fields.
    ///
    /// # Errors
    /// [`config::Error`], naming the field.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, config::Error> {
        let variance: Option<String> = fields.take("variance_type")?;
        if let Some(learned) = variance.filter(|v| v.starts_with("learned")) {
            return Err(fields.unsupported("variance_type", &learned.into(), "only null"));
        }
        Ok(Self {
            tables: Multistep::read(fields, true)?,
            lambda_min_clipped: read_lambda_min(fields)?,
            settings: Settings {
                form: Form::read(fields)?,
                order: read_order(fields)?,
                bound: Bound::read_thresholding(fields)?,
                lower_order_final: fields.take_or("lower_order_final", true)?,
                euler_at_final: fields.take_or("euler_at_final", false)?,
            },
        })
    }

    /// Time steps from here on are left out: their λ is under the bound.
    fn visited_before(&self) -> usize {
        let alphas = &self.tables.noise.alphas_cumprod;
        let lambda = |a: &f32| a.sqrt().ln() - (1. - a).sqrt().ln();
        let is_clipped = |a: &&f32| lambda(a) < self.lambda_min_clipped;
        alphas.len() - alphas.iter().filter(is_clipped).count()
    }
}

/// Python writes −∞ as a word that is no JSON; [`Fields::open`] makes it a text.
fn read_lambda_min(fields: &mut Fields) -> Result<f32, config::Error> {
    let field = "lambda_min_clipped";
    match fields.take::<serde_json::Value>(field)? {
        None => Ok(f32::NEG_INFINITY),
        Some(value) if value == "-Infinity" => Ok(f32::NEG_INFINITY),
        Some(value) => match value.as_f64() {
            Some(bound) => Ok(bound as f32),
            None => Err(fields.invalid(field, "must be a number or -Infinity")),
        },
    }
}

impl Scheduler for DpmSolver {
    fn name(&self) -> &'static str {
        match self.settings.form.is_stochastic {
            true => "dpmpp_2m_sde",
            false => "dpmpp_2m",
        }
    }

    fn start(&self, way: &Way) -> Result<Trajectory, Error> {
        let differences = Differences {
            visited_before: self.visited_before(),
            rounds: self.tables.is_rounded_spread() && !self.tables.noise.is_cosine,
        };
        let (timesteps, sigmas) = self.tables.tables(way.steps, &differences)?;
        let rule = DpmRule {
            points: sigmas.iter().map(|s| Point::of(*s)).collect(),
            settings: self.settings,
            prediction: self.tables.noise.prediction,
            ends_at_zero: self.tables.last == Last::Zero,
            clean: Vec::new(),
        };
        Ok(Trajectory::new(timesteps, way.skipped()?, rule))
    }
}

struct DpmRule {
    /// One for each step, and where the way ends.
    points: Vec<Point>,
    settings: Settings,
    prediction: super::prediction::Prediction,
    ends_at_zero: bool,
    /// Clean latents of up to three steps, newest first.
    clean: Vec<Vec<f32>>,
}

impl DpmRule {
    /// The order of the step at `index`: lower at the start, and near the end of a short way.
    fn order(&self, index: usize) -> usize {
        let Settings {
            order,
            lower_order_final,
            euler_at_final,
            ..
        } = self.settings;
        let steps = self.points.len() - 1;
        let is_eased = lower_order_final && steps < 15;
        let most = match steps - index {
            1 if euler_at_final || is_eased || self.ends_at_zero => 1,
            2 if is_eased => 2,
            _ => 3,
        };
        order.min(self.clean.len()).min(most)
    }
}

impl Rule for DpmRule {
    fn level(&self, index: usize) -> Level {
        self.points[index].level()
    }

    fn advance(&mut self, index: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) {
        let here = self.level(index);
        let pairs = latents.iter().zip(output);
        let mut clean: Vec<f32> = pairs
            .map(|(x, out)| self.prediction.clean(here, *x, *out))
            .collect();
        self.settings.bound.apply(&mut clean);
        self.clean.insert(0, clean);
        self.clean.truncate(3);
        let order = self.order(index);
        let fresh = match self.settings.form.is_stochastic {
            true => rng.randn(latents.len()),
            false => vec![0.; latents.len()],
        };
        // Where the step goes, where it is, and where it was: newest first.
        let from = (index + 1).saturating_sub(order);
        let points: Vec<Point> = self.points[from..=index + 1]
            .iter()
            .rev()
            .copied()
            .collect();
        update(self.settings.form, &points, &self.clean, &fresh, latents);
    }
}
