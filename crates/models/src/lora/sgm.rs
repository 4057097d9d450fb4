//! Layers of Stable Diffusion XL's UNet as Stability's own code names them, and so kohya's adapters.
//!
//! There the blocks of all levels are one list, three to a level: two layers, and the step to the next.

/// Blocks of one level on the way down: two layers and a step.
const PER_LEVEL: usize = 3;

/// diffusers' name for `path` (both with underscores for dots); `None` when it is none of these.
pub(super) fn to_diffusers(path: &str) -> Option<String> {
    let outer = [
        ("time_embed_0", "time_embedding_linear_1"),
        ("time_embed_2", "time_embedding_linear_2"),
        ("label_emb_0_0", "add_embedding_linear_1"),
        ("label_emb_0_2", "add_embedding_linear_2"),
        ("input_blocks_0_0", "conv_in"),
        ("out_2", "conv_out"),
    ];
    if let Some((_, name)) = outer.iter().find(|(old, _)| *old == path) {
        return Some((*name).to_owned());
    }
    if let Some(rest) = path.strip_prefix("input_blocks_") {
        let (block, rest) = number(rest)?;
        let (place, rest) = number(rest)?;
        let block = block.checked_sub(1)?;
        let (level, layer) = (block / PER_LEVEL, block % PER_LEVEL);
        if rest == "op" {
            return Some(format!("down_blocks_{level}_downsamplers_0_conv"));
        }
        return Some(format!(
            "down_blocks_{level}_{}",
            inner(place, layer, rest)?
        ));
    }
    if let Some(rest) = path.strip_prefix("middle_block_") {
        let (place, rest) = number(rest)?;
        return match place {
            0 | 2 => Some(format!("mid_block_{}", inner(0, place / 2, rest)?)),
            _ => Some(format!("mid_block_{}", inner(1, 0, rest)?)),
        };
    }
    let (block, rest) = number(path.strip_prefix("output_blocks_")?)?;
    let (place, rest) = number(rest)?;
    let (level, layer) = (block / PER_LEVEL, block % PER_LEVEL);
    if rest == "conv" {
        return Some(format!("up_blocks_{level}_upsamplers_0_conv"));
    }
    Some(format!("up_blocks_{level}_{}", inner(place, layer, rest)?))
}

/// A layer's own name: convolutions stand at place 0 of a block, attention at 1.
fn inner(place: usize, layer: usize, rest: &str) -> Option<String> {
    if place > 0 {
        return Some(format!("attentions_{layer}_{rest}"));
    }
    let name = match rest {
        "in_layers_2" => "conv1",
        "emb_layers_1" => "time_emb_proj",
        "out_layers_3" => "conv2",
        "skip_connection" => "conv_shortcut",
        _ => return None,
    };
    Some(format!("resnets_{layer}_{name}"))
}

/// The number at the front, and what follows the underscore after it.
fn number(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('_')?;
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    #[test]
    fn blocks_in_one_list_are_found_on_their_level() {
        for (path, expected) in [
            (
                "input_blocks_4_1_transformer_blocks_1_attn1_to_q",
                "down_blocks_1_attentions_0_transformer_blocks_1_attn1_to_q",
            ),
            ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
            (
                "input_blocks_8_0_in_layers_2",
                "down_blocks_2_resnets_1_conv1",
            ),
            ("middle_block_2_out_layers_3", "mid_block_resnets_1_conv2"),
            ("middle_block_1_proj_in", "mid_block_attentions_0_proj_in"),
            ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
            (
                "output_blocks_5_1_proj_out",
                "up_blocks_1_attentions_2_proj_out",
            ),
        ] {
            assert_eq!(super::to_diffusers(path).as_deref(), Some(expected));
        }
        assert_eq!(super::to_diffusers("down_blocks_0_resnets_0_conv1"), None);
        assert_eq!(super::to_diffusers("input_blocks_x"), None);
    }
}
