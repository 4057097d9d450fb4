//! What PEFT says of an adapter beside its tensors: in the file's header, where diffusers wrote it, or
//! in `adapter_config.json`, where PEFT alone did.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Part, refusal};
use crate::weights::{Error, Weights};

/// Where diffusers puts the settings of all parts.
const HEADER: &str = "lora_adapter_metadata";
/// Where PEFT puts them, beside the weights.
const FILE: &str = "adapter_config.json";
/// How PEFT alone begins its keys.
pub(super) const PEFT_ALONE: &str = "base_model.model.";

/// The alpha of all layers of a part that have none of their own, where it is stated.
///
/// # Errors
/// [`Error::Adapter`], naming the setting that is not supported.
pub(super) fn alphas(weights: &Weights) -> Result<BTreeMap<Part, f32>, Error> {
    let path = weights.path();
    let parsed = |name: &str, text: &[u8]| {
        serde_json::from_slice::<Map<String, Value>>(text)
            .map_err(|e| refusal(path, name, format!("is not a JSON object: {e}")))
    };
    let settings = if let Some(text) = weights.header(HEADER) {
        parsed(HEADER, text.as_bytes())?
    } else if weights.keys().any(|key| key.starts_with(PEFT_ALONE)) {
        let text = std::fs::read(path.with_file_name(FILE)).map_err(|e| {
            let reason = format!("should stand beside an adapter in PEFT's own layout: {e}");
            refusal(path, FILE, reason)
        })?;
        let own = parsed(FILE, &text)?.into_iter();
        own.map(|(name, value)| (format!("unet.{name}"), value))
            .collect()
    } else {
        return Ok(BTreeMap::new());
    };
    let mut alphas = BTreeMap::new();
    for (start, part) in [
        ("unet.", Part::Unet),
        ("transformer.", Part::Unet),
        ("text_encoder.", Part::Text),
        ("text_encoder_2.", Part::Text2),
    ] {
        let setting = |name: &str| settings.get(&format!("{start}{name}"));
        if let Some(name) = unsupported(setting) {
            let reason = "is a kind of LoRA that is not supported";
            return Err(refusal(path, &format!("{start}{name}"), reason));
        }
        if let Some(alpha) = setting("lora_alpha").and_then(Value::as_f64) {
            alphas.insert(part, alpha as f32);
        }
    }
    Ok(alphas)
}

/// A setting that changes the product in a way that is not computed here.
fn unsupported<'a>(setting: impl Fn(&str) -> Option<&'a Value>) -> Option<&'static str> {
    [
        "use_rslora",
        "use_dora",
        "alpha_pattern",
        "fan_in_fan_out",
        "lora_bias",
    ]
    .into_iter()
    .find(|name| match setting(name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Object(pattern)) => !pattern.is_empty(),
        Some(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_of_lora_that_scale_otherwise_are_named() {
        for (settings, expected) in [
            (
                json!({"r": 4, "lora_alpha": 8, "alpha_pattern": {}, "use_dora": false}),
                None,
            ),
            (json!({"use_rslora": true}), Some("use_rslora")),
            (json!({"alpha_pattern": {"to_q": 2}}), Some("alpha_pattern")),
        ] {
            assert_eq!(unsupported(|name| settings.get(name)), expected);
        }
    }
}
