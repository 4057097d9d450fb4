//! From image features to token embeddings: LLaVA's `linear` and `mlp2x_gelu` projectors.

use candle_core::{Result, Tensor};

use crate::llava_error::Error;
use crate::ops::gelu::gelu;
use crate::ops::linear::linear;
use crate::parameter::Parameter;

/// One linear layer (LLaVA v1) or two with the exact GELU between them (LLaVA 1.5).
#[derive(Debug)]
pub struct Projector {
    first: Layer,
    second: Option<Layer>,
}

#[derive(Debug)]
struct Layer {
    weight: Parameter,
    bias: Parameter,
}

impl Projector {
    /// Builds a projector from `inputs` to `outputs` features, with a second layer if the checkpoint
    /// has one; `take(name, shape)` gives the values of a tensor by canonical name.
    ///
    /// # Errors
    /// What `take` gives, and candle's.
    pub(crate) fn load(
        inputs: usize,
        outputs: usize,
        is_two_layers: bool,
        mut take: impl FnMut(&str, &[usize]) -> std::result::Result<Vec<f32>, Error>,
    ) -> std::result::Result<Self, Error> {
        let mut layer = |index: usize, inputs: usize| {
            let weight = format!("multi_modal_projector.linear_{index}.weight");
            let bias = format!("multi_modal_projector.linear_{index}.bias");
            let values = take(&weight, &[outputs, inputs])?;
            Ok::<_, Error>(Layer {
                weight: Parameter::single(&weight, &[outputs, inputs], values)?,
                bias: Parameter::single(&bias, &[outputs], take(&bias, &[outputs])?)?,
            })
        };
        let first = layer(1, inputs)?;
        let second = if is_two_layers {
            Some(layer(2, outputs)?)
        } else {
            None
        };
        Ok(Self { first, second })
    }

    /// `features`: (rows, vision width); gives (rows, hidden).
    pub(crate) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let x = self.first.forward(features)?;
        match &self.second {
            Some(second) => second.forward(&gelu(&x)?),
            None => Ok(x),
        }
    }

    /// Whether it has the second layer.
    pub fn is_two_layers(&self) -> bool {
        self.second.is_some()
    }

    /// All parameters, in a fixed order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> + Clone {
        std::iter::once(&self.first)
            .chain(&self.second)
            .flat_map(|l| [&l.weight, &l.bias])
    }

    /// All parameters, to be changed.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        std::iter::once(&mut self.first)
            .chain(&mut self.second)
            .flat_map(|l| [&mut l.weight, &mut l.bias])
    }
}

impl Layer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, self.weight.tensor(), self.bias.tensor())
    }
}
