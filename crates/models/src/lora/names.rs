//! The names that adapters give their tensors.
//!
//! | writer | example |
//! |---|---|
//! | diffusers with PEFT | `unet.down_blocks.0.attentions.0.proj_in.lora_A.weight` |
//! | the same, of a transformer | `transformer.transformer_blocks.0.attn.to_q.lora_A.weight` |
//! | diffusers before | `unet.….attn1.processor.to_q_lora.down.weight` |
//! | diffusers before, text | `text_encoder.text_model.encoder.layers.0.….q_proj.lora_linear_layer.down.weight` |
//! | PEFT alone | `base_model.model.down_blocks.0.….lora_A.weight` |
//! | kohya | `lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight`, `….alpha` |
//! | kohya, XL | `lora_unet_input_blocks_4_1_proj_in.lora_down.weight` |
//!
//! kohya writes all dots as underscores, so a layer is known here by its name written so.

use super::settings::PEFT_ALONE;
use super::sgm;

/// A part of a model that adapters change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The UNet, or the transformer in its place.
    Unet,
    /// The first text encoder.
    Text,
    /// The second text encoder.
    Text2,
}

/// What a tensor is in its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `(rank, inputs)`.
    Down,
    /// `(outputs, rank)`.
    Up,
    /// One number.
    Alpha,
}

/// A name, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) part: Part,
    /// The layer as diffusers and transformers 5 call it, with underscores for dots.
    pub(super) module: String,
    pub(super) role: Role,
}

const ENDS: [(&str, Role); 13] = [
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".alpha", Role::Alpha),
];

const BEGINNINGS: [(&str, Part); 8] = [
    ("lora_unet_", Part::Unet),
    ("lora_te1_", Part::Text),
    ("lora_te2_", Part::Text2),
    ("lora_te_", Part::Text),
    ("text_encoder_2.", Part::Text2),
    ("text_encoder.", Part::Text),
    ("unet.", Part::Unet),
    ("transformer.", Part::Unet),
];

/// Reads the name of a tensor; `None` when it is none of an adapter.
pub(super) fn read(key: &str) -> Option<Name> {
    let key = key.strip_prefix(PEFT_ALONE).unwrap_or(key);
    let (stem, role) = ENDS
        .iter()
        .find_map(|(end, role)| Some((key.strip_suffix(end)?, *role)))?;
    let found = BEGINNINGS
        .iter()
        .find_map(|(start, part)| Some((stem.strip_prefix(start)?, *part)));
    // Without a beginning it is the UNet's.
    let (path, part) = found.unwrap_or((stem, Part::Unet));
    let path = path.replace(".processor.", ".").replace('.', "_");
    let module = match part {
        Part::Unet => unet_module(&path),
        Part::Text | Part::Text2 => text_module(&path),
    };
    Some(Name { part, module, role })
}

fn unet_module(path: &str) -> String {
    if let Some(module) = sgm::to_diffusers(path) {
        return module;
    }
    // The output is a list of layer and dropout, which old names leave out.
    if path.ends_with("_to_out") {
        return format!("{path}_0");
    }
    path.to_owned()
}

fn text_module(path: &str) -> String {
    let path = path.strip_prefix("text_model_").unwrap_or(path);
    for (old, new) in [
        ("_to_q", "_q_proj"),
        ("_to_k", "_k_proj"),
        ("_to_v", "_v_proj"),
        ("_to_out", "_out_proj"),
    ] {
        if let Some(layer) = path.strip_suffix(old) {
            return format!("{layer}{new}");
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_writers_names_for_a_layer_are_one() {
        let query = "down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q";
        let out = "mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0";
        let text = "encoder_layers_0_self_attn_q_proj";
        for (key, part, module, role) in [
            (
                "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.lora_A.weight",
                Part::Unet,
                query,
                Role::Down,
            ),
            (
                "base_model.model.down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.lora_B.weight",
                Part::Unet,
                query,
                Role::Up,
            ),
            (
                "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q.alpha",
                Part::Unet,
                query,
                Role::Alpha,
            ),
            (
                "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.up.weight",
                Part::Unet,
                out,
                Role::Up,
            ),
            (
                "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_out_0.lora_up.weight",
                Part::Unet,
                out,
                Role::Up,
            ),
            (
                "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.down.weight",
                Part::Text,
                text,
                Role::Down,
            ),
            (
                "text_encoder_2.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
                Part::Text2,
                text,
                Role::Up,
            ),
            (
                "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight",
                Part::Text,
                text,
                Role::Down,
            ),
        ] {
            let module = module.to_owned();
            assert_eq!(read(key), Some(Name { part, module, role }), "{key}");
        }
        assert_eq!(read("lora_unet_x.dora_scale"), None);
        assert_eq!(read("first_stage_model.encoder.conv_in.weight"), None);
    }
}
