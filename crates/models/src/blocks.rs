//! The layers that UNet, VAE and text encoder share because they are the same by definition, for
//! inference. Tensors are channels last: `(batch, height, width, channels)` or
//! `(batch, tokens, channels)`.

use candle_core::{D, Tensor, bail};

use crate::ops::conv::{Addends, Kernel, Placement};
use crate::ops::group_norm::{GroupNorm, LayerNorm};
use crate::ops::precision::{LayerWeights, Precision, round_all};
use crate::ops::product::{Matrix, add_product};
use crate::ops::values::values;
use crate::weights::{Error, Weights};

/// A place in a checkpoint: the tensors under one prefix.
#[derive(Clone)]
pub struct Source<'a> {
    weights: &'a Weights,
    prefix: String,
    precision: Precision,
}

impl<'a> Source<'a> {
    /// The whole checkpoint.
    pub fn new(weights: &'a Weights) -> Self {
        Self {
            weights,
            prefix: String::new(),
            precision: Precision::F32,
        }
    }

    /// The same place; linear layers and convolutions of it compute in `precision`.
    #[must_use]
    pub fn computing_in(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The part called `name`.
    #[must_use]
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self {
            weights: self.weights,
            prefix: format!("{}{name}.", self.prefix),
            precision: self.precision,
        }
    }

    /// Whether tensor `name` exists here.
    pub fn has(&self, name: &str) -> bool {
        self.weights.contains(&format!("{}{name}", self.prefix))
    }

    /// The values of tensor `name`.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.weights
            .values(&format!("{}{name}", self.prefix), shape)
    }

    /// The shape of tensor `name`, if it exists here.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.weights.shape(&format!("{}{name}", self.prefix))
    }
}

/// `x Wᵀ + b` over the last dimension. A 1×1 convolution is the same thing, channels last.
pub struct Linear {
    weights: LayerWeights,
    bias: Vec<f32>,
}

impl Linear {
    /// Loads `weight` `(outputs, inputs)`, or `(outputs, inputs, 1, 1)`, and `bias` if `has_bias`.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub fn load(
        at: &Source<'_>,
        inputs: usize,
        outputs: usize,
        has_bias: bool,
    ) -> Result<Self, Error> {
        let as_kernel = at.shape("weight").is_some_and(|shape| shape.len() == 4);
        let shape: &[usize] = if as_kernel {
            &[outputs, inputs, 1, 1]
        } else {
            &[outputs, inputs]
        };
        let weight = at.values("weight", shape)?;
        let bias = if has_bias {
            at.values("bias", &[outputs])?
        } else {
            vec![0.; outputs]
        };
        Ok(Self::new(&weight, bias, inputs, at.precision))
    }

    /// A layer of `weight` `(outputs, inputs)`, row-major, and one `bias` for each output.
    ///
    /// # Panics
    /// When `weight` is not as long as its measures say.
    pub fn from_values(weight: &[f32], bias: Vec<f32>, inputs: usize) -> Self {
        Self::new(weight, bias, inputs, Precision::F32)
    }

    fn new(weight: &[f32], bias: Vec<f32>, inputs: usize, precision: Precision) -> Self {
        assert_eq!(weight.len(), bias.len() * inputs, "(outputs, inputs)");
        let at = |k: usize, column: usize| weight[column * inputs + k];
        Self {
            weights: LayerWeights::from_fn(precision, (1, inputs), bias.len(), at),
            bias,
        }
    }

    /// `(…, inputs)` to `(…, outputs)`.
    ///
    /// # Errors
    /// When the last dimension is not `inputs`.
    pub fn forward(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        self.run(input, None)
    }

    /// The same, plus `residual` `(…, outputs)`.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn forward_add(&self, input: &Tensor, residual: &Tensor) -> candle_core::Result<Tensor> {
        self.run(input, Some(residual))
    }

    fn run(&self, input: &Tensor, residual: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let (inputs, outputs) = (self.weights.depth(), self.weights.width());
        if input.dim(D::Minus1)? != inputs {
            bail!(
                "a linear layer of {inputs} inputs was given {:?}",
                input.shape()
            );
        }
        let from = values(input)?;
        let rows = from.len() / inputs;
        let mut out = self.bias.repeat(rows);
        if let Some(residual) = residual {
            if residual.elem_count() != out.len() {
                bail!(
                    "a residual of {:?} for {rows} rows of {outputs}",
                    residual.shape()
                );
            }
            crate::ops::pointwise::add_assign(&mut out, &values(residual)?);
        }
        match &self.weights {
            LayerWeights::F32(w) => add_product(&Matrix::whole(&from, inputs), w, &mut out),
            LayerWeights::Bf16(w) => {
                add_product(&Matrix::whole(&round_all(&from), inputs / 2), w, &mut out);
            }
        }
        let mut shape = input.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        Tensor::from_vec(out, shape, input.device())
    }
}

/// A convolution with bias.
pub struct Conv {
    kernel: Kernel,
    place: Placement,
}

impl Conv {
    /// Loads a convolution of `size` × `size` that keeps height and width.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub fn load(
        at: &Source<'_>,
        inputs: usize,
        outputs: usize,
        size: usize,
    ) -> Result<Self, Error> {
        Self::load_placed(at, (inputs, outputs), size, Placement::same(size))
    }

    /// Loads one with a placement of its own.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub fn load_placed(
        at: &Source<'_>,
        (inputs, outputs): (usize, usize),
        size: usize,
        place: Placement,
    ) -> Result<Self, Error> {
        let weight = at.values("weight", &[outputs, inputs, size, size])?;
        let bias = at.values("bias", &[outputs])?;
        let kernel = Kernel::with_precision(&weight, bias, inputs, size, at.precision);
        Ok(Self { kernel, place })
    }

    /// `(batch, height, width, inputs)` to `(batch, out_height, out_width, outputs)`.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn forward(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        self.kernel.forward(input, self.place, Addends::default())
    }

    /// The same after stretching the input to `height` × `width` by nearest neighbour.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn forward_upsampled(
        &self,
        input: &Tensor,
        height: usize,
        width: usize,
    ) -> candle_core::Result<Tensor> {
        let place = Placement {
            upsampled: Some((height, width)),
            ..self.place
        };
        self.kernel.forward(input, place, Addends::default())
    }
}

/// Loads a group norm.
///
/// # Errors
/// As [`Weights::values`].
pub fn group_norm(
    at: &Source<'_>,
    channels: usize,
    groups: usize,
    eps: f32,
) -> Result<GroupNorm, Error> {
    let (weight, bias) = (
        at.values("weight", &[channels])?,
        at.values("bias", &[channels])?,
    );
    Ok(GroupNorm {
        groups,
        eps,
        weight,
        bias,
    })
}

/// Loads a layer norm.
///
/// # Errors
/// As [`Weights::values`].
pub fn layer_norm(at: &Source<'_>, channels: usize, eps: f32) -> Result<LayerNorm, Error> {
    let (weight, bias) = (
        at.values("weight", &[channels])?,
        at.values("bias", &[channels])?,
    );
    Ok(LayerNorm { eps, weight, bias })
}

/// The numbers that shape a [`ResnetBlock`].
#[derive(Clone, Copy)]
pub struct ResnetShape {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Width of the time embedding; `None` in a VAE.
    pub time_dim: Option<usize>,
    /// Groups of both norms.
    pub groups: usize,
    /// Epsilon of both norms.
    pub eps: f32,
}

/// diffusers' `ResnetBlock2D` with SiLU and the default time-embedding shift.
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv,
    shortcut: Option<Linear>,
}

impl ResnetBlock {
    /// Loads one; the shortcut exists where channels change.
    ///
    /// # Errors
    /// As [`Weights::values`].
    pub fn load(at: &Source<'_>, shape: ResnetShape) -> Result<Self, Error> {
        let ResnetShape {
            inputs,
            outputs,
            time_dim,
            groups,
            eps,
        } = shape;
        let time = |dim| Linear::load(&at.at("time_emb_proj"), dim, outputs, true);
        let shortcut = || Linear::load(&at.at("conv_shortcut"), inputs, outputs, true);
        Ok(Self {
            norm1: group_norm(&at.at("norm1"), inputs, groups, eps)?,
            conv1: Conv::load(&at.at("conv1"), inputs, outputs, 3)?,
            time: time_dim.map(time).transpose()?,
            norm2: group_norm(&at.at("norm2"), outputs, groups, eps)?,
            conv2: Conv::load(&at.at("conv2"), outputs, outputs, 3)?,
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    /// `(batch, height, width, inputs)` and the time embedding after SiLU, `(batch, time_dim)`.
    ///
    /// # Errors
    /// When shapes disagree.
    pub fn forward(&self, input: &Tensor, time: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let per_sample = match (&self.time, time) {
            (Some(layer), Some(time)) => Some(layer.forward(time)?),
            _ => None,
        };
        let hidden = self.norm1.forward(input, true)?;
        let add = Addends {
            per_sample: per_sample.as_ref(),
            residual: None,
        };
        let hidden = self.conv1.kernel.forward(&hidden, self.conv1.place, add)?;
        let hidden = self.norm2.forward(&hidden, true)?;
        let residual = match &self.shortcut {
            Some(layer) => layer.forward(input)?,
            None => input.clone(),
        };
        let add = Addends {
            per_sample: None,
            residual: Some(&residual),
        };
        self.conv2.kernel.forward(&hidden, self.conv2.place, add)
    }
}
