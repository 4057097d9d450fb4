//! Token embeddings with image features put in their places, with backward.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};

use super::storage::{is_cpu_f32, read, slice};

/// Where a row of the spliced sequence comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A row of the embedding table.
    Token(u32),
    /// A row of the image features.
    Feature(u32),
}

/// Gathers rows. `table`: (vocabulary, hidden), `features`: (rows, hidden); gives (plan, hidden).
pub(crate) fn splice(plan: &Arc<[Source]>, table: &Tensor, features: &Tensor) -> Result<Tensor> {
    if is_cpu_f32(table) {
        return table.apply_op2(&features.contiguous()?, Splice { plan: plan.clone() });
    }
    let vocabulary = table.dim(0)? as u32;
    let index = plan.iter().map(|source| match source {
        Source::Token(id) => *id,
        Source::Feature(row) => vocabulary + row,
    });
    let index = Tensor::from_iter(index, table.device())?;
    Tensor::cat(&[table, features], 0)?.index_select(&index, 0)
}

struct Splice {
    plan: Arc<[Source]>,
}

impl CustomOp2 for Splice {
    fn name(&self) -> &'static str {
        "splice"
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        table_layout: &Layout,
        features: &CpuStorage,
        features_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = table_layout.shape().dims2()?.1;
        let (table, features) = (
            slice(table, table_layout)?,
            slice(features, features_layout)?,
        );
        let mut out = Vec::with_capacity(self.plan.len() * width);
        for source in self.plan.iter() {
            let (rows, row) = match source {
                Source::Token(id) => (table, *id as usize),
                Source::Feature(row) => (features, *row as usize),
            };
            let row = rows.get(row * width..(row + 1) * width);
            out.extend_from_slice(
                row.ok_or_else(|| Error::Msg(format!("{source:?} is out of range")))?,
            );
        }
        Ok((CpuStorage::F32(out), Shape::from((self.plan.len(), width))))
    }

    fn bwd(
        &self,
        table: &Tensor,
        features: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = table.dim(1)?;
        let mut d_table = table.track_op().then(|| vec![0f32; table.elem_count()]);
        let mut d_features = features
            .track_op()
            .then(|| vec![0f32; features.elem_count()]);
        read(&grad.contiguous()?, |grad| {
            for (source, grad) in self.plan.iter().zip(grad.chunks_exact(width)) {
                let (rows, row) = match source {
                    Source::Token(id) => (&mut d_table, *id as usize),
                    Source::Feature(row) => (&mut d_features, *row as usize),
                };
                if let Some(rows) = rows {
                    for (d, g) in rows[row * width..].iter_mut().zip(grad) {
                        *d += g;
                    }
                }
            }
            Ok(())
        })?;
        let tensor = |d: Vec<f32>, like: &Tensor| Tensor::from_vec(d, like.shape(), like.device());
        Ok((
            d_table.map(|d| tensor(d, table)).transpose()?,
            d_features.map(|d| tensor(d, features)).transpose()?,
        ))
    }
}
