//! LLaVA against transformers and torch: `fixtures/make_llava.py` wrote what is compared with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use models::checkpoint::{Entry, write_tensors};
use models::clip_image::{ImagePreprocessor, decode_rgb};
use models::conversation::{Round, Template, Unsupervised, encode};
use models::generate::{Question, Stop};
use models::llava::{Aspect, Example, Llava, Trained};
use models::optim::{Adamw, AdamwSettings, check_gradients};
use models::weights::Weights;
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llava")
}

struct Fixture {
    model: Llava,
    facts: Value,
    tensors: HashMap<String, Tensor>,
}

impl Fixture {
    fn load() -> Self {
        let facts = std::fs::read(folder().join("expected.json")).unwrap();
        Self {
            model: Llava::load(&folder()).unwrap(),
            facts: serde_json::from_slice(&facts).unwrap(),
            tensors: candle_core::safetensors::load(
                folder().join("expected.safetensors"),
                &Device::Cpu,
            )
            .unwrap(),
        }
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        self.tensors[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    fn picture(&self, index: usize) -> image::RgbImage {
        decode_rgb(&std::fs::read(folder().join(format!("picture{index}.png"))).unwrap()).unwrap()
    }

    /// The batch of the fixture: two conversations with a picture, one without.
    fn batch(&self) -> Vec<Example> {
        let features = self
            .model
            .image_features(&[self.picture(0), self.picture(1)], Aspect::Pad);
        let cases = self.facts["vicuna"].as_array().unwrap();
        let example = |(index, case): (usize, &Value)| Example {
            encoded: encode(Template::VicunaV1, &rounds(case), self.model.tokenizer()).unwrap(),
            features: features.get(index).cloned().into_iter().collect(),
        };
        cases.iter().enumerate().map(example).collect()
    }
}

fn rounds(case: &Value) -> Vec<Round> {
    let turns = case["conversations"].as_array().unwrap();
    let text = |turn: &Value| turn["value"].as_str().unwrap().to_owned();
    turns
        .chunks(2)
        .map(|pair| Round {
            question: text(&pair[0]),
            answer: text(&pair[1]),
        })
        .collect()
}

fn integers(value: &Value) -> Vec<i64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_i64().unwrap())
        .collect()
}

fn round(question: &str, answer: &str) -> Round {
    Round {
        question: question.into(),
        answer: answer.into(),
    }
}

/// ‖a − b‖ / ‖b‖, with a floor under the denominator.
fn relative_error(actual: &[f32], expected: &[f32], floor: f64) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut actual.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut expected.iter().map(|&b| f64::from(b))).max(floor)
}

#[test]
fn tokens_and_labels_are_those_of_the_official_preprocessing() {
    let fixture = Fixture::load();
    let tokenizer = fixture.model.tokenizer();
    for case in fixture.facts["vicuna"].as_array().unwrap() {
        let encoded = encode(Template::VicunaV1, &rounds(case), tokenizer).unwrap();
        let tokens: Vec<i64> = encoded.tokens.iter().map(|&t| i64::from(t)).collect();
        assert_eq!(tokens, integers(&case["input_ids"]));
        assert_eq!(encoded.labels, integers(&case["labels"]));
        assert!(encoded.supervised_count() > 0 && encoded.unsupervised.is_none());
    }
    let plain = &fixture.facts["plain"];
    let caption = [round(
        "Describe this.\n<image>",
        plain["caption"].as_str().unwrap(),
    )];
    let encoded = encode(Template::Plain, &caption, tokenizer).unwrap();
    assert_eq!(
        encoded
            .tokens
            .iter()
            .map(|&t| i64::from(t))
            .collect::<Vec<_>>(),
        integers(&plain["input_ids"])
    );
    assert_eq!(encoded.labels, integers(&plain["labels"]));
}

#[test]
fn samples_that_the_official_code_gives_up_on_are_masked_with_the_reason() {
    let fixture = Fixture::load();
    let tokenizer = fixture.model.tokenizer();
    for (rounds, reason) in [
        (
            vec![round("<image>\nWhat is this?", "")],
            Unsupervised::EmptyAnswer,
        ),
        (
            vec![
                round("What?", "A dog."),
                round("And?", "a USER ASSISTANT: b"),
            ],
            Unsupervised::MarkInTurn,
        ),
        (vec![round("What?", "A dog.</s>")], Unsupervised::MarkInTurn),
        (
            vec![round("He said ASSISTANT: no. What?", "A dog.")],
            Unsupervised::MarkInTurn,
        ),
        (
            vec![round("ASSISTANT: what?", "A dog.")],
            Unsupervised::MarkInTurn,
        ),
        (
            vec![round("What?", "A dog."), round("And?</s>", "A cat.")],
            Unsupervised::MarkInTurn,
        ),
        (vec![round("", "A dog.")], Unsupervised::EmptyQuestion),
    ] {
        let encoded = encode(Template::VicunaV1, &rounds, tokenizer).unwrap();
        assert_eq!(
            (encoded.unsupervised, encoded.supervised_count()),
            (Some(reason), 0)
        );
    }
    let mut long = encode(
        Template::VicunaV1,
        &[round("<image>\nWhat?", "A dog.")],
        tokenizer,
    )
    .unwrap();
    let image = tokenizer.image_token();
    let whole = long.clone();
    long.truncate(whole.tokens.len() - 1 + 16, image, 16);
    assert_eq!(long, whole);
    long.truncate(60, image, 16);
    assert_eq!(long.unsupervised, Some(Unsupervised::TooLong));
    assert!(encode(Template::VicunaV1, &[], tokenizer).is_err());
    assert!(encode(Template::VicunaV1, &[round("What?", "<image>")], tokenizer).is_err());
    assert!(encode(Template::Plain, &[round("No picture", "A dog.")], tokenizer).is_err());
}

#[test]
fn pictures_are_prepared_within_one_level_of_pillow() {
    let fixture = Fixture::load();
    let preprocessor = ImagePreprocessor::load(&folder()).unwrap();
    let one_level = 1.0 / 255.0 / 0.26;
    for index in 0..3 {
        let picture = fixture.picture(index);
        for (name, actual) in [
            ("square", preprocessor.square(&picture)),
            ("pad", preprocessor.pad(&picture)),
        ] {
            let expected = fixture.numbers(&format!("pixels.{name}.{index}"));
            let worst = actual
                .iter()
                .zip(&expected)
                .map(|(a, e)| (a - e).abs())
                .fold(0.0, f32::max);
            assert!(worst <= one_level, "{name} {index}: {worst}");
        }
    }
}

#[test]
fn features_logits_loss_and_gradients_are_those_of_torch() {
    let mut fixture = Fixture::load();
    fixture
        .model
        .set_trained(Trained::ProjectorAndLanguage)
        .unwrap();
    let batch = fixture.batch();
    let features: Vec<f32> = batch
        .iter()
        .flat_map(|e| e.features.iter().flat_map(|f| f.to_vec()))
        .collect();
    assert!(relative_error(&features, &fixture.numbers("features"), 0.0) < 1e-5);

    let logits = fixture
        .model
        .logits(&batch)
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    let expected = fixture.tensors["logits"].to_vec3::<f32>().unwrap();
    let mut start = 0;
    for (row, length) in integers(&fixture.facts["lengths"]).into_iter().enumerate() {
        let length = length as usize;
        let actual: Vec<f32> = (0..length)
            .step_by(12)
            .flat_map(|p| logits[start + p].clone())
            .collect();
        let expected: Vec<f32> = expected[row]
            .iter()
            .take(length.div_ceil(12))
            .flatten()
            .copied()
            .collect();
        let error = relative_error(&actual, &expected, 0.0);
        assert!(error < 1e-5, "logits of row {row}: {error}");
        start += length;
    }

    let loss = fixture.model.loss(&batch, None).unwrap();
    let expected = fixture.facts["loss"].as_f64().unwrap();
    let actual = f64::from(loss.value.to_scalar::<f32>().unwrap());
    assert!(
        (actual - expected).abs() < 1e-5 * expected,
        "{actual} {expected}"
    );

    let grads = loss.value.backward().unwrap();
    check_gradients(fixture.model.parameters(), &grads).unwrap();
    let mut compared = 0;
    for parameter in fixture.model.parameters() {
        let grad: Vec<f32> = grads
            .get(parameter.tensor())
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        for piece in parameter.pieces() {
            let expected = fixture.numbers(&format!("grad.{}", piece.name));
            let error = relative_error(
                &grad[piece.offset..piece.offset + piece.element_count()],
                &expected,
                1e-6,
            );
            assert!(error < 1e-4, "{}: {error}", piece.name);
            compared += 1;
        }
    }
    assert_eq!(
        compared,
        fixture
            .tensors
            .keys()
            .filter(|name| name.starts_with("grad."))
            .count()
    );
}

#[test]
fn steps_of_adamw_follow_torch_and_can_be_saved_and_resumed() {
    let mut fixture = Fixture::load();
    fixture
        .model
        .set_trained(Trained::ProjectorAndLanguage)
        .unwrap();
    let batch = fixture.batch();
    let settings = AdamwSettings {
        weight_decay: 0.1,
        ..Default::default()
    };
    let mut adamw = Adamw::new(fixture.model.parameters(), settings);
    for (index, expected) in fixture.facts["steps"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let loss = fixture.model.loss(&batch, None).unwrap().value;
        let grads = loss.backward().unwrap();
        let norm = adamw
            .step(fixture.model.parameters(), &grads, |_| 2e-3, Some(1.0))
            .unwrap();
        let loss = f64::from(loss.to_scalar::<f32>().unwrap());
        let (loss_expected, norm_expected) = (
            expected["loss"].as_f64().unwrap(),
            expected["grad_norm"].as_f64().unwrap(),
        );
        assert!(
            (loss / loss_expected - 1.0).abs() < 1e-4,
            "step {index}: {loss} {loss_expected}"
        );
        assert!(
            (norm / norm_expected - 1.0).abs() < 1e-3,
            "step {index}: {norm} {norm_expected}"
        );
        let (count, moments) = (adamw.step_count(), adamw.moments().to_vec());
        adamw = Adamw::resume(fixture.model.parameters(), settings, count, moments).unwrap();
    }
    assert!(Adamw::resume(fixture.model.parameters(), settings, 1, vec![]).is_err());
}

#[test]
fn stage_one_reaches_the_projector_alone() {
    let mut fixture = Fixture::load();
    fixture.model.set_trained(Trained::Projector).unwrap();
    let loss = fixture.model.loss(&fixture.batch(), None).unwrap();
    let grads = loss.value.backward().unwrap();
    check_gradients(fixture.model.parameters(), &grads).unwrap();
    let reached = fixture
        .model
        .parameters()
        .filter(|p| grads.get(p.tensor()).is_some());
    assert_eq!(reached.flat_map(|p| p.pieces()).count(), 4);

    // A batch without a picture does not reach it, and the self-test says so.
    let loss = fixture.model.loss(&fixture.batch()[2..], None).unwrap();
    let error =
        check_gradients(fixture.model.parameters(), &loss.value.backward().unwrap()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("multi_modal_projector.linear_1.weight"),
        "{error}"
    );
}

#[test]
fn greedy_answers_are_those_of_transformers_alone_and_in_company() {
    let fixture = Fixture::load();
    let features = fixture
        .model
        .image_features(&[fixture.picture(0)], Aspect::Pad);
    let cases = fixture.facts["greedy"].as_array().unwrap();
    let question = |(index, case): (usize, &Value)| Question {
        text: case["question"].as_str().unwrap().into(),
        features: if index == 0 { features.clone() } else { vec![] },
    };
    let questions: Vec<Question> = cases.iter().enumerate().map(question).collect();
    let many: Vec<Question> = questions.iter().cycle().take(9).cloned().collect();
    let together = fixture.model.answer_all(&many, 12, &|| true);
    for (case, answer) in cases.iter().cycle().zip(&together) {
        let answer = answer.as_ref().unwrap();
        assert_eq!(
            answer
                .tokens
                .iter()
                .map(|&t| i64::from(t))
                .collect::<Vec<_>>(),
            integers(&case["tokens"])
        );
        assert_eq!(answer.stop, Stop::Length);
    }
    let alone = fixture
        .model
        .answer(
            &[fixture.picture(0)],
            "Is there a dog in the picture?",
            12,
            &|| true,
        )
        .unwrap();
    assert_eq!(&alone, together[0].as_ref().unwrap());
    assert!(
        fixture
            .model
            .answer_one(&questions[1], 12, &|| false)
            .is_err()
    );
    assert!(
        fixture
            .model
            .answer_one(
                &Question {
                    text: "<image>?".into(),
                    features: vec![]
                },
                1,
                &|| true
            )
            .is_err()
    );
}

#[test]
fn an_export_loads_again_and_other_key_layouts_load_too() {
    let fixture = Fixture::load();
    let place = tempfile::tempdir().unwrap();
    let exported = place.path().join("export");
    for _ in 0..2 {
        fixture
            .model
            .export(&exported, &[("README.md", b"card")])
            .unwrap(); // the second replaces the first
    }
    let again = Llava::load(&exported).unwrap();
    assert_eq!(
        again.parameter_entries().unwrap(),
        fixture.model.parameter_entries().unwrap()
    );
    assert!(exported.join("tokenizer.json").is_file() && exported.join("README.md").is_file());
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);

    let rename = |name: &str, renames: &[(&str, &str)]| {
        let folder = place.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        for file in ["config.json", "tokenizer.json", "preprocessor_config.json"] {
            std::fs::copy(exported.join(file), folder.join(file)).unwrap();
        }
        let weights = Weights::open(&exported.join("model.safetensors")).unwrap();
        let entry = |key: &str| -> Entry {
            let shape = weights.shape(key).unwrap().to_vec();
            let renamed = renames.iter().fold(key.to_owned(), |key, (from, to)| {
                if key.starts_with(from) {
                    key.replacen(from, to, 1)
                } else {
                    key
                }
            });
            (renamed, shape.clone(), weights.values(key, &shape).unwrap())
        };
        let entries: Vec<Entry> = weights.keys().map(entry).collect();
        write_tensors(&folder.join("model.safetensors"), &entries, HashMap::new()).unwrap();
        Llava::load(&folder)
    };
    rename(
        "since-5.6",
        &[("vision_tower.vision_model.", "vision_tower.")],
    )
    .unwrap();
    rename(
        "in-memory",
        &[
            ("language_model.model.", "model.language_model."),
            ("language_model.lm_head.", "lm_head."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
            ("vision_tower.vision_model.", "model.vision_tower."),
        ],
    )
    .unwrap();
    let missing = rename(
        "missing",
        &[("multi_modal_projector.linear_1.bias", "stray")],
    )
    .unwrap_err();
    assert!(
        missing
            .to_string()
            .contains("multi_modal_projector.linear_1.bias"),
        "{missing}"
    );
    let stray = rename("stray", &[("language_model.lm_head.weight", "elsewhere")]).unwrap_err();
    assert!(
        stray.to_string().contains("language_model.lm_head.weight"),
        "{stray}"
    );
}

#[test]
fn a_tokenizer_of_another_model_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    for file in [
        "config.json",
        "tokenizer.json",
        "preprocessor_config.json",
        "model.safetensors",
    ] {
        std::fs::copy(folder().join(file), place.path().join(file)).unwrap();
    }
    let tokenizer = std::fs::read_to_string(folder().join("tokenizer.json")).unwrap();
    let config = std::fs::read_to_string(folder().join("config.json")).unwrap();
    for (file, text, blamed, words) in [
        (
            "tokenizer.json",
            tokenizer.replace("<image>", "<picture>"),
            "tokenizer.json",
            "no such token",
        ),
        (
            "config.json",
            config.replace("\"vocab_size\": 448", "\"vocab_size\": 100"),
            "tokenizer.json",
            "100 embeddings",
        ),
        (
            "config.json",
            config.replace("\"silu\"", "\"relu\""),
            "config.json",
            "relu",
        ),
        (
            "config.json",
            config.replace("embeddings\": 256", "embeddings\": 300000000000"),
            "config.json",
            "max_position_embeddings is 300000000000",
        ),
        (
            "config.json",
            config.replace("_layer\": -2", "_layer\": -9"),
            "config.json",
            "-9",
        ),
    ] {
        let whole = std::fs::read(place.path().join(file)).unwrap();
        std::fs::write(place.path().join(file), text).unwrap();
        let error = Llava::load(place.path()).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(blamed), "{error}");
        std::fs::write(place.path().join(file), whole).unwrap();
    }
}
