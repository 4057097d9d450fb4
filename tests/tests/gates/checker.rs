//! A safety checker that objects to what it is told.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use image::RgbImage;
use models::{
    checkpoint::{Entry, write_tensors},
    clip::Clip,
    measuring::{SafetyModel, UnsafeRule},
    weights::Weights,
};
use tests::checkout;

/// A safety checker whose concepts are these pictures, seen through the picture half of nano-clip:
/// what it objects to is planted.
pub(crate) fn checker_against(pictures: &[RgbImage], place: &Path) -> SafetyModel {
    let clip = Clip::load(&nano_clip()).unwrap();
    let concepts = clip.embed_images(pictures).unwrap();
    write_checker(place, &concepts);
    SafetyModel::load(place, &UnsafeRule::default()).unwrap()
}

/// Cosine with a concept from which on the checker objects.
const OBJECTS_FROM: f32 = 0.98;
/// Concepts for special care that every checker has, and that this one never meets.
const SPECIAL_CARE_COUNT: usize = 3;

fn nano_clip() -> PathBuf {
    checkout().join("models/nano/nano-clip")
}

/// The published layout: the configuration of a checker around a CLIP's picture half.
fn write_checker(place: &Path, concepts: &[Vec<f32>]) {
    let clip = fs::read_to_string(nano_clip().join("config.json")).unwrap();
    let clip: serde_json::Value = serde_json::from_str(&clip).unwrap();
    let config = serde_json::json!({
        "architectures": ["StableDiffusionSafetyChecker"], "model_type": "clip",
        "projection_dim": clip["projection_dim"], "vision_config": clip["vision_config"],
    });
    fs::write(place.join("config.json"), config.to_string()).unwrap();
    let name = "preprocessor_config.json";
    fs::copy(nano_clip().join(name), place.join(name)).unwrap();
    let weights = Weights::open(&nano_clip().join("model.safetensors")).unwrap();
    let kept = weights.keys().filter_map(|key| match key {
        "visual_projection.weight" => Some((key, key.to_owned())),
        key if key.starts_with("vision_model.") => Some((key, format!("vision_model.{key}"))),
        _ => None,
    });
    let mut entries: Vec<Entry> = kept
        .map(|(key, name)| {
            let shape = weights.shape(key).unwrap();
            (name, shape.to_vec(), weights.values(key, shape).unwrap())
        })
        .collect();
    let width = concepts[0].len();
    let care = vec![vec![0.0; width]; SPECIAL_CARE_COUNT];
    for (name, vectors) in [("concept", concepts), ("special_care", &care)] {
        let shape = vec![vectors.len(), width];
        entries.push((format!("{name}_embeds"), shape, vectors.concat()));
        let thresholds = vec![OBJECTS_FROM; vectors.len()];
        entries.push((
            format!("{name}_embeds_weights"),
            vec![vectors.len()],
            thresholds,
        ));
    }
    write_tensors(&place.join("model.safetensors"), &entries, HashMap::new()).unwrap();
}
