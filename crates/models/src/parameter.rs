//! Trainable tensors and the published names of their parts.

use candle_core::{Device, Result, Tensor, Var};

use crate::ops::storage::read;

/// A named part of a [`Parameter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Name in the canonical checkpoint layout.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// First element within the parameter.
    pub offset: usize,
}

impl Piece {
    /// Number of elements.
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether weight decay applies: to matrices, not to norms and biases (as transformers does).
    pub fn is_decayed(&self) -> bool {
        self.shape.len() > 1
    }
}

/// One tensor that is trained or frozen as a whole; a decoder layer keeps all its weights in one.
#[derive(Debug)]
pub struct Parameter {
    tensor: Tensor,
    var: Option<Var>,
    pieces: Vec<Piece>,
}

impl Parameter {
    /// A frozen parameter of one piece with the piece's own shape.
    ///
    /// # Errors
    /// candle's, when `values` does not fill `shape`.
    pub(crate) fn single(name: &str, shape: &[usize], values: Vec<f32>) -> Result<Self> {
        let pieces = vec![Piece {
            name: name.to_owned(),
            shape: shape.to_vec(),
            offset: 0,
        }];
        Ok(Self {
            tensor: Tensor::from_vec(values, shape, &Device::Cpu)?,
            var: None,
            pieces,
        })
    }

    /// A frozen, flat parameter of several pieces.
    ///
    /// # Errors
    /// candle's.
    pub(crate) fn flat(parts: Vec<(String, Vec<usize>, Vec<f32>)>) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut values = Vec::new();
        for (name, shape, part) in parts {
            pieces.push(Piece {
                name,
                shape,
                offset: values.len(),
            });
            values.extend(part);
        }
        let count = values.len();
        Ok(Self {
            tensor: Tensor::from_vec(values, count, &Device::Cpu)?,
            var: None,
            pieces,
        })
    }

    /// The tensor to compute with: a variable while it is trained, a constant while frozen.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The variable, when this parameter is trained.
    pub fn var(&self) -> Option<&Var> {
        self.var.as_ref()
    }

    /// The named parts, in memory order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Makes the parameter trainable, or constant.
    ///
    /// # Errors
    /// candle's.
    pub fn set_trained(&mut self, is_trained: bool) -> Result<()> {
        match (is_trained, &self.var) {
            (true, None) => {
                let var = Var::from_tensor(&self.tensor)?;
                self.tensor = var.as_tensor().clone();
                self.var = Some(var);
            }
            (false, Some(var)) => {
                self.tensor = var.as_detached_tensor().copy()?;
                self.var = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// All elements, in memory order.
    ///
    /// # Errors
    /// candle's.
    pub fn values(&self) -> Result<Vec<f32>> {
        self.tensor.flatten_all()?.to_vec1()
    }

    /// Replaces all elements.
    ///
    /// # Errors
    /// candle's, when the count is another.
    pub fn set_values(&mut self, values: Vec<f32>) -> Result<()> {
        let new = Tensor::from_vec(values, self.tensor.shape(), self.tensor.device())?;
        match &self.var {
            Some(var) => var.set(&new),
            None => {
                self.tensor = new;
                Ok(())
            }
        }
    }

    /// Lends the elements without copying them; CPU only.
    pub(crate) fn read<R>(&self, use_values: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
        read(&self.tensor, use_values)
    }
}
