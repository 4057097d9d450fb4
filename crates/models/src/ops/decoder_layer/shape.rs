//! Sizes of a decoder layer, and where its weights lie in their flat tensor.

use super::super::attention::Heads;

/// Sizes of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerShape {
    pub(crate) hidden: usize,
    pub(crate) heads: Heads,
    pub(crate) intermediate: usize,
    pub(crate) eps: f32,
}

impl LayerShape {
    pub(super) fn query_width(&self) -> usize {
        self.heads.queries * self.heads.dim
    }

    pub(crate) fn key_width(&self) -> usize {
        self.heads.keys * self.heads.dim
    }

    pub(super) fn qkv_width(&self) -> usize {
        self.query_width() + 2 * self.key_width()
    }

    /// Names and shapes of the weights, in the order in which they lie in the flat tensor.
    pub(crate) fn pieces(&self) -> [(&'static str, Vec<usize>); 9] {
        let (d, q, k, i) = (
            self.hidden,
            self.query_width(),
            self.key_width(),
            self.intermediate,
        );
        [
            ("input_layernorm.weight", vec![d]),
            ("self_attn.q_proj.weight", vec![q, d]),
            ("self_attn.k_proj.weight", vec![k, d]),
            ("self_attn.v_proj.weight", vec![k, d]),
            ("self_attn.o_proj.weight", vec![d, q]),
            ("post_attention_layernorm.weight", vec![d]),
            ("mlp.gate_proj.weight", vec![i, d]),
            ("mlp.up_proj.weight", vec![i, d]),
            ("mlp.down_proj.weight", vec![d, i]),
        ]
    }

    /// Lengths of the six regions: norm, q+k+v, output, norm, gate+up, down.
    pub(super) fn regions(&self) -> [usize; 6] {
        let d = self.hidden;
        let attention = [d, self.qkv_width() * d, self.query_width() * d];
        let mlp = [d, 2 * self.intermediate * d, self.intermediate * d];
        [
            attention[0],
            attention[1],
            attention[2],
            mlp[0],
            mlp[1],
            mlp[2],
        ]
    }

    pub(super) fn split<'a>(&self, mut flat: &'a [f32]) -> [&'a [f32]; 6] {
        self.regions().map(|length| {
            let (head, tail) = flat.split_at(length);
            flat = tail;
            head
        })
    }

    pub(super) fn split_mut<'a>(&self, mut flat: &'a mut [f32]) -> [&'a mut [f32]; 6] {
        self.regions().map(|length| {
            let (head, tail) = std::mem::take(&mut flat).split_at_mut(length);
            flat = tail;
            head
        })
    }
}
