//! The models that measure against transformers, diffusers and sentence-transformers, on tiny
//! checkpoints with random weights in the published layouts.
//!
//! `fixtures/make_measuring.py` made the checkpoints and the expected numbers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests: a panic is the report"
)]

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use models::clip_image::decode_rgb;
use models::measuring::{ImageTextModel, SafetyModel, TextModel, UnsafeRule};
use models::safety_checker::SafetyChecker;
use models::sentence::SentenceEmbedder;
use models::siglip::Siglip;
use models::vit_classifier::VitClassifier;
use models::weights::Weights;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/measuring")
        .join(name)
}

fn expected(name: &str) -> Vec<f32> {
    let all = Weights::open(&fixture("expected.safetensors")).unwrap();
    all.values(name, all.shape(name).unwrap()).unwrap()
}

fn texts() -> [String; 4] {
    [
        "a red dog on the beach".to_owned(),
        "It's  2 FOXES, in the_snow! (night)".to_owned(),
        "the cat sat by the door and the dog ran in the snow ".repeat(9),
        String::new(),
    ]
}

fn pictures() -> [RgbImage; 2] {
    ["wide.png", "grain.png"].map(|name| decode_rgb(&fs::read(fixture(name)).unwrap()).unwrap())
}

/// ‖found − expected‖ / ‖expected‖.
fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let gaps = found.iter().zip(expected);
    let gap = norm(&mut gaps.map(|(f, e)| f64::from(*f) - f64::from(*e)));
    let error = gap / norm(&mut expected.iter().map(|e| f64::from(*e)));
    println!("{what}: relative error {error:.1e}");
    assert!(error < 1e-5, "{what}: relative error {error:e}");
}

/// A copy of a fixture under `place`, to be broken.
fn copied(name: &str, place: &Path) -> PathBuf {
    let folder = place.join(name);
    copy(&fixture(name), &folder);
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn replace(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{}: {text}", file.display());
    fs::write(file, text.replace(from, to)).unwrap();
}

#[test]
fn siglip_of_both_generations_embeds_as_transformers_does() {
    for name in ["siglip", "siglip2"] {
        let model = Siglip::load(&fixture(name)).unwrap();
        let tokens = texts().map(|text| model.tokens(&text).unwrap());
        let tokens: Vec<f32> = tokens.concat().iter().map(|&id| id as f32).collect();
        assert_eq!(tokens, expected(&format!("{name}_ids")), "{name}");
        let pixels = pictures().map(|picture| model.pixels(&picture)).concat();
        assert_close(
            &format!("{name} pixels"),
            &pixels,
            &expected(&format!("{name}_pixels")),
        );
        let vectors = texts().map(|text| model.embed_text(&text).unwrap());
        assert_close(
            &format!("{name} texts"),
            &vectors.concat(),
            &expected(&format!("{name}_texts")),
        );
        let vectors = pictures().map(|picture| model.embed_image(&picture).unwrap());
        assert_close(
            &format!("{name} images"),
            &vectors.concat(),
            &expected(&format!("{name}_images")),
        );
    }
}

#[test]
fn sentences_are_embedded_as_sentence_transformers_does_by_any_pooling() {
    let place = tempfile::tempdir().unwrap();
    let encode = |folder: &Path| {
        let model = SentenceEmbedder::load(folder).unwrap();
        texts().map(|text| model.encode(&text).unwrap()).concat()
    };
    let mean = encode(&fixture("sentence"));
    assert_close("mean", &mean, &expected("sentence_mean"));
    let folder = copied("sentence", place.path());
    let pooling = folder.join("1_Pooling/config.json");
    // As version 6 of the library writes it.
    for mode in ["cls", "max"] {
        let text = format!(r#"{{"embedding_dimension": 32, "pooling_mode": "{mode}"}}"#);
        fs::write(&pooling, text).unwrap();
        assert_close(
            mode,
            &encode(&folder),
            &expected(&format!("sentence_{mode}")),
        );
    }
    fs::write(&pooling, r#"{"pooling_mode": "mean"}"#).unwrap();
    let modules = folder.join("modules.json");
    let text = fs::read_to_string(&modules).unwrap();
    let mut listed: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    listed.pop();
    fs::write(&modules, serde_json::to_string(&listed).unwrap()).unwrap();
    assert_close("no norm", &encode(&folder), &expected("sentence_raw"));
    let unit = TextModel::load(&folder)
        .unwrap()
        .embed_text("a dog")
        .unwrap();
    assert!((unit.iter().map(|v| v * v).sum::<f32>() - 1.).abs() < 1e-5);
}

#[test]
fn what_sentence_transformers_has_beyond_this_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let folder = copied("sentence", place.path());
    let complaint = || SentenceEmbedder::load(&folder).err().unwrap().to_string();
    let pooling = folder.join("1_Pooling/config.json");
    replace(&pooling, "mean_tokens\": true", "mean_tokens\": false");
    replace(
        &pooling,
        "sqrt_len_tokens\": false",
        "sqrt_len_tokens\": true",
    );
    let error = complaint();
    assert!(
        error.contains("1_Pooling/config.json") && error.contains("mean_sqrt_len_tokens"),
        "{error}"
    );
    replace(
        &folder.join("modules.json"),
        "models.Normalize",
        "models.Dense",
    );
    assert!(complaint().contains("Dense"), "{}", complaint());
    let folder = copied("sentence", &place.path().join("other"));
    replace(&folder.join("config.json"), "\"bert\"", "\"mpnet\"");
    let error = SentenceEmbedder::load(&folder).err().unwrap().to_string();
    assert!(error.contains("mpnet") && error.contains("bert"), "{error}");
}

#[test]
fn the_safety_checker_scores_and_judges_as_diffusers_does() {
    let checker = SafetyChecker::load(&fixture("safety_checker")).unwrap();
    let found = pictures().map(|picture| checker.scores(&picture).unwrap());
    let special: Vec<f32> = found.iter().flat_map(|f| f.special_care.clone()).collect();
    let concepts: Vec<f32> = found.iter().flat_map(|f| f.concepts.clone()).collect();
    assert_close("special care", &special, &expected("safety_special"));
    assert_close("concepts", &concepts, &expected("safety_concepts"));
    let model = SafetyModel::load(&fixture("safety_checker"), &UnsafeRule::default()).unwrap();
    let flagged = pictures().map(|picture| model.judge(&picture).unwrap().is_unsafe);
    // The second picture only since a concept of special care lowers the others' thresholds.
    assert_eq!(
        flagged.map(|is| f32::from(u8::from(is))),
        expected("safety_flagged")[..]
    );
    assert_eq!(flagged, [false, true]);
}

#[test]
fn the_checker_finds_its_preprocessor_beside_it_and_both_key_styles_give_one_answer() {
    let place = tempfile::tempdir().unwrap();
    let folder = copied("safety_checker", place.path());
    let beside = place.path().join("feature_extractor");
    fs::create_dir(&beside).unwrap();
    let name = "preprocessor_config.json";
    fs::rename(folder.join(name), beside.join(name)).unwrap();
    let moved = SafetyChecker::load(&folder).unwrap();
    let own = SafetyChecker::load(&fixture("safety_checker")).unwrap();
    let [picture, _] = pictures();
    assert_eq!(
        moved.scores(&picture).unwrap(),
        own.scores(&picture).unwrap()
    );
    fs::remove_file(beside.join(name)).unwrap();
    let error = SafetyChecker::load(&folder).err().unwrap().to_string();
    assert!(
        error.contains("safety_checker/preprocessor_config.json"),
        "{error}"
    );
}

#[test]
fn a_vit_gives_the_probabilities_of_transformers_and_is_judged_by_the_labels_named() {
    let vit = VitClassifier::load(&fixture("vit")).unwrap();
    let found = pictures().map(|picture| vit.probabilities(&picture).unwrap());
    assert_close(
        "probabilities",
        &found.concat(),
        &expected("vit_probabilities"),
    );
    let rule = |labels: &[&str], threshold| UnsafeRule {
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        threshold,
    };
    let verdicts = |rule: &UnsafeRule| {
        let model = SafetyModel::load(&fixture("vit"), rule).unwrap();
        pictures().map(|picture| model.judge(&picture).unwrap().is_unsafe)
    };
    let by_default = verdicts(&UnsafeRule::default());
    assert_ne!(by_default[0], by_default[1]);
    assert_eq!(verdicts(&rule(&["NSFW"], 0.5)), by_default);
    assert_eq!(verdicts(&rule(&["normal"], 0.5)), by_default.map(|is| !is));
    assert_eq!(verdicts(&rule(&["normal", "nsfw"], 0.9)), [true, true]);
    let error = SafetyModel::load(&fixture("vit"), &rule(&["gore"], 0.5))
        .err()
        .unwrap();
    let error = error.to_string();
    assert!(
        error.contains("`gore`") && error.contains("normal, nsfw"),
        "{error}"
    );
}

#[test]
fn a_layout_is_told_by_its_files_and_another_is_refused_with_the_list_of_those_that_are_known() {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sd/clip");
    let kind = |folder: &Path| ImageTextModel::load(folder).map(|model| model.architecture());
    assert_eq!(kind(&clip).unwrap(), "CLIPModel");
    assert_eq!(kind(&fixture("siglip2")).unwrap(), "SiglipModel");
    let text = TextModel::load(&fixture("sentence")).unwrap();
    assert_eq!(text.architecture(), "SentenceTransformer");
    assert_eq!(text.sha256().len(), 64);
    for (error, found, known) in [
        (
            kind(&fixture("vit")).unwrap_err(),
            "ViTForImageClassification",
            "SiglipModel",
        ),
        (
            kind(&fixture("sentence")).unwrap_err(),
            "SentenceTransformer",
            "CLIPModel",
        ),
        (
            SafetyModel::load(&clip, &UnsafeRule::default())
                .err()
                .unwrap(),
            "CLIPModel",
            "StableDiffusionSafetyChecker",
        ),
        (
            TextModel::load(&fixture("vit")).err().unwrap(),
            "ViTFor",
            "modules.json",
        ),
    ] {
        let error = error.to_string();
        assert!(error.contains(found) && error.contains(known), "{error}");
    }
    let place = tempfile::tempdir().unwrap();
    let folder = copied("siglip", place.path());
    replace(
        &folder.join("tokenizer_config.json"),
        "SiglipTokenizer",
        "BartTokenizer",
    );
    let error = kind(&folder).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer_config.json") && error.contains("BartTokenizer"),
        "{error}"
    );
}
