//! AdamW with a state that can be saved, clipping by the global norm, learning-rate schedules, and
//! the self-test that every trained tensor gets a gradient and no frozen one does.

use candle_core::backprop::GradStore;
use rayon::prelude::*;

use crate::llava_error::Error;
use crate::ops::storage::read;
use crate::parameter::{Parameter, Piece};

/// Settings of AdamW (Loshchilov and Hutter, 2019); the defaults are PyTorch's without decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of matrices per unit of learning rate; norms and biases never decay.
    pub weight_decay: f64,
}

impl Default for AdamwSettings {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// First and second moments of one parameter, in its memory order.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Running mean of the gradient.
    pub first: Vec<f32>,
    /// Running mean of its square.
    pub second: Vec<f32>,
}

/// The optimizer. Its parameters are those that are trained, in the model's order.
#[derive(Debug)]
pub struct Adamw {
    settings: AdamwSettings,
    step_count: u64,
    moments: Vec<Moments>,
}

impl Adamw {
    /// An optimizer for the trained ones among `parameters`, at step 0.
    pub fn new<'a>(
        parameters: impl Iterator<Item = &'a Parameter>,
        settings: AdamwSettings,
    ) -> Self {
        let moments = trained(parameters).map(|parameter| {
            let count = parameter.tensor().elem_count();
            Moments {
                first: vec![0.0; count],
                second: vec![0.0; count],
            }
        });
        Self {
            settings,
            step_count: 0,
            moments: moments.collect(),
        }
    }

    /// An optimizer that goes on from a saved state.
    ///
    /// # Errors
    /// Refuses a state of other parameters.
    pub fn resume<'a>(
        parameters: impl Iterator<Item = &'a Parameter>,
        settings: AdamwSettings,
        step_count: u64,
        moments: Vec<Moments>,
    ) -> Result<Self, Error> {
        let fresh = Self::new(parameters, settings);
        let sizes = |all: &[Moments]| {
            all.iter()
                .map(|m| (m.first.len(), m.second.len()))
                .collect::<Vec<_>>()
        };
        if sizes(&fresh.moments) != sizes(&moments) {
            return Err(Error::Input(
                "the optimizer state belongs to another model or stage".into(),
            ));
        }
        Ok(Self {
            settings,
            step_count,
            moments,
        })
    }

    /// Steps made.
    pub fn step_count(&self) -> u64 {
        self.step_count
    }

    /// The state, in the order of the trained parameters.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// One step at the learning rate of each parameter; gives the global norm of the gradient
    /// before clipping.
    ///
    /// # Errors
    /// [`Error::Gradient`] when the norm is not finite; nothing is changed then.
    pub fn step<'a>(
        &mut self,
        parameters: impl Iterator<Item = &'a Parameter> + Clone,
        grads: &GradStore,
        learning_rate: impl Fn(&Parameter) -> f64,
        max_norm: Option<f64>,
    ) -> Result<f64, Error> {
        let norm = global_norm(parameters.clone(), grads)?;
        if !norm.is_finite() {
            return Err(Error::Gradient(
                "the norm of the gradient is not finite".into(),
            ));
        }
        // PyTorch's clip_grad_norm_, its 1e-6 included.
        let scale = max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        self.step_count += 1;
        for (parameter, moments) in trained(parameters).zip(&mut self.moments) {
            let Some(grad) = grads.get(parameter.tensor()) else {
                continue;
            };
            let grad = grad.contiguous()?;
            let update = Update::new(
                &self.settings,
                self.step_count,
                learning_rate(parameter),
                scale,
            );
            let mut values = parameter.values()?;
            read(&grad, |grad| {
                for piece in parameter.pieces() {
                    update.apply(piece, &mut values, moments, grad);
                }
                Ok(())
            })?;
            let new =
                candle_core::Tensor::from_vec(values, parameter.tensor().shape(), grad.device())?;
            parameter
                .var()
                .ok_or_else(|| Error::Input("a frozen parameter".into()))?
                .set(&new)?;
        }
        Ok(norm)
    }
}

/// How the learning rate goes; all rise linearly during warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// Steps in total.
    pub total_steps: u64,
    /// What follows warm-up.
    pub shape: ScheduleShape,
}

/// What follows warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleShape {
    /// Half a cosine down to 0.
    Cosine,
    /// A straight line down to 0.
    Linear,
    /// The peak.
    Constant,
}

impl Schedule {
    /// The learning rate of step `step`, counted from 0, as transformers computes it (so the first
    /// step of a warm-up has rate 0).
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let rest = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / rest as f64).min(1.0);
        match self.shape {
            ScheduleShape::Cosine => {
                self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            ScheduleShape::Linear => self.peak * (1.0 - progress),
            ScheduleShape::Constant => self.peak,
        }
    }
}

/// Checks that each piece of each trained parameter has a finite gradient that is not all zero, and
/// that no frozen parameter has one. candle drops gradients of some operations without a word; this
/// is where it would show.
///
/// # Errors
/// [`Error::Gradient`] with the name of the first tensor that is wrong.
pub fn check_gradients<'a>(
    parameters: impl Iterator<Item = &'a Parameter>,
    grads: &GradStore,
) -> Result<(), Error> {
    for parameter in parameters {
        let name = parameter
            .pieces()
            .first()
            .map_or("", |piece| piece.name.as_str());
        match (parameter.var(), grads.get(parameter.tensor())) {
            (None, Some(_)) => {
                return Err(Error::Gradient(format!("frozen `{name}` got a gradient")));
            }
            (Some(_), None) => return Err(Error::Gradient(format!("`{name}` got no gradient"))),
            (None, None) => {}
            (Some(_), Some(grad)) => read(&grad.contiguous()?, |grad| {
                Ok(parameter
                    .pieces()
                    .iter()
                    .try_for_each(|piece| check_piece(piece, grad)))
            })??,
        }
    }
    Ok(())
}

/// Adds the gradients of a micro-batch to those of the ones before it.
///
/// # Errors
/// candle's.
pub fn accumulate<'a>(
    parameters: impl Iterator<Item = &'a Parameter>,
    total: &mut GradStore,
    part: &GradStore,
) -> Result<(), Error> {
    for parameter in trained(parameters) {
        let sum = match (total.get(parameter.tensor()), part.get(parameter.tensor())) {
            (Some(total), Some(part)) => (total + part)?,
            (None, Some(part)) => part.clone(),
            (_, None) => continue,
        };
        total.insert(parameter.tensor(), sum);
    }
    Ok(())
}

fn check_piece(piece: &Piece, grad: &[f32]) -> Result<(), Error> {
    let grad = &grad[piece.offset..piece.offset + piece.element_count()];
    if grad.iter().any(|g| !g.is_finite()) {
        return Err(Error::Gradient(format!(
            "the gradient of `{}` is not finite",
            piece.name
        )));
    }
    if grad.iter().all(|&g| g == 0.0) {
        return Err(Error::Gradient(format!(
            "the loss does not reach `{}`",
            piece.name
        )));
    }
    Ok(())
}

fn trained<'a>(
    parameters: impl Iterator<Item = &'a Parameter>,
) -> impl Iterator<Item = &'a Parameter> {
    parameters.filter(|parameter| parameter.var().is_some())
}

/// The root of the sum of squares over all gradients, in blocks of fixed size.
fn global_norm<'a>(
    parameters: impl Iterator<Item = &'a Parameter>,
    grads: &GradStore,
) -> Result<f64, Error> {
    let mut total = 0.0;
    for parameter in trained(parameters) {
        if let Some(grad) = grads.get(parameter.tensor()) {
            let squares: Vec<f64> = read(&grad.contiguous()?, |grad| {
                let block =
                    |block: &[f32]| block.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
                Ok(grad.par_chunks(4096).map(block).collect())
            })?;
            total += squares.iter().sum::<f64>();
        }
    }
    Ok(total.sqrt())
}

/// The numbers of one step, in the order of operations of PyTorch's AdamW.
struct Update {
    grad_scale: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    step_size: f32,
    root_correction: f32,
    decay: f32,
}

impl Update {
    fn new(settings: &AdamwSettings, step: u64, learning_rate: f64, grad_scale: f64) -> Self {
        let step = i32::try_from(step).unwrap_or(i32::MAX);
        Self {
            grad_scale: grad_scale as f32,
            beta1: settings.beta1 as f32,
            beta2: settings.beta2 as f32,
            epsilon: settings.epsilon as f32,
            step_size: (learning_rate / (1.0 - settings.beta1.powi(step))) as f32,
            root_correction: (1.0 - settings.beta2.powi(step)).sqrt() as f32,
            decay: (learning_rate * settings.weight_decay) as f32,
        }
    }

    fn apply(&self, piece: &Piece, values: &mut [f32], moments: &mut Moments, grad: &[f32]) {
        const BLOCK: usize = 16_384;
        let range = piece.offset..piece.offset + piece.element_count();
        let decay = if piece.is_decayed() { self.decay } else { 0.0 };
        values[range.clone()]
            .par_chunks_mut(BLOCK)
            .zip(moments.first[range.clone()].par_chunks_mut(BLOCK))
            .zip(moments.second[range.clone()].par_chunks_mut(BLOCK))
            .zip(grad[range].par_chunks(BLOCK))
            .for_each(|(((values, first), second), grad)| {
                for (((value, m), v), g) in values.iter_mut().zip(first).zip(second).zip(grad) {
                    let g = g * self.grad_scale;
                    *m += (g - *m) * (1.0 - self.beta1);
                    *v = *v * self.beta2 + (1.0 - self.beta2) * g * g;
                    let root = v.sqrt() / self.root_correction + self.epsilon;
                    *value = *value * (1.0 - decay) - self.step_size * *m / root;
                }
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_rise_to_the_peak_and_fall_to_zero() {
        let schedule = |shape| Schedule {
            peak: 2.0,
            warmup_steps: 4,
            total_steps: 14,
            shape,
        };
        let cosine = schedule(ScheduleShape::Cosine);
        assert_eq!((cosine.at(0), cosine.at(2), cosine.at(4)), (0.0, 1.0, 2.0));
        assert!(
            (cosine.at(9) - 1.0).abs() < 1e-12
                && cosine.at(14).abs() < 1e-12
                && cosine.at(99).abs() < 1e-12
        );
        assert_eq!(schedule(ScheduleShape::Linear).at(9), 1.0);
        assert_eq!(schedule(ScheduleShape::Constant).at(99), 2.0);
        let without = Schedule {
            warmup_steps: 0,
            ..cosine
        };
        assert_eq!(without.at(0), 2.0);
    }
}
