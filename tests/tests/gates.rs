//! Each gate against a hundred planted defects and a hundred clean samples, at the thresholds of
//! `recipes/strict.toml`: 95 or more are caught, 5 or fewer clean ones refused.
//!
//! The clean samples are what the built-in models make with all gates off.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends at its first surprise, and this one prints a table"
)]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use dataset::{
    identity::SampleId,
    image_hash::ImageHash,
    minhash::Signature,
    store::{Location, Reader},
};
use diptych::{
    recipe::{Gates, Recipe},
    synth::{
        Makers, check_makers,
        gates::{self, Held, Traits, dialogue, picture, prompt},
    },
};
use futures::TryStreamExt as _;
use image::{DynamicImage, RgbImage, imageops};
use models::{
    checkpoint::{Entry, write_tensors},
    clip::Clip,
    measuring::{SafetyModel, UnsafeRule},
    weights::Weights,
};
use proto::dataset::v1::{GateResult, GateVerdict, Sample, image::Content};
use proto::diffusion::v1::SafetyVerdict;
use tests::{checkout, finished, program};

const SAMPLES: &str = r#"
seed = 71
[synth]
max_attempts = 1
[synth.abilities]
abnormal = 8
action = 8
animal = 8
clothes = 8
color = 8
food = 8
furniture = 8
hair = 8
plant = 8
profession = 8
scene = 8
style = 8
vehicle = 8
[synth.image]
steps = 12
[synth.gates]
"#;

/// Samples of each kind.
const COUNT: usize = 100;

#[tokio::test]
async fn planted_defects_are_caught_and_clean_samples_pass() {
    let rules = Recipe::read(&checkout().join("recipes/strict.toml"))
        .unwrap()
        .synth
        .gates;
    let mut samples = samples().await;
    samples.truncate(COUNT);
    assert_eq!(samples.len(), COUNT);
    let bench = Bench::new(samples, rules);
    let rows = [
        bench.prompt_form(),
        bench.prompt_repetition(),
        bench.prompt_meaning(),
        bench.blank(),
        bench.alignment(),
        bench.duplicate(),
        bench.content(),
        bench.safety(),
        bench.picture_leak(),
        bench.dialogue_repetition(),
        bench.text_leak(),
    ];
    println!("{:<28} {:>8} {:>14}", "gate", "caught", "clean refused");
    for Row {
        gate,
        caught,
        refused,
    } in &rows
    {
        println!("{gate:<28} {caught:>4}/{COUNT} {refused:>10}/{COUNT}");
    }
    for Row {
        gate,
        caught,
        refused,
    } in rows
    {
        assert!(caught >= 95, "{gate} caught {caught}");
        assert!(refused <= 5, "{gate} refused {refused} clean ones");
    }
}

/// A run whose checker objects to the picture of its first sample, and one that has no checker.
#[tokio::test]
async fn a_run_refuses_what_the_safety_model_of_its_recipe_objects_to_and_without_one_says_so() {
    let place = tempfile::tempdir().unwrap();
    let base = "seed = 5\n[synth]\nmax_attempts = 1\nabilities = { animal = 6 }\n\
                [synth.image]\nsteps = 4\n[synth.gates]\nrefuse_unsafe = true\n";
    let unchecked = made(base, &place.path().join("unchecked")).await;
    assert_eq!(unchecked.len(), 6);
    let verdict = |sample: &Sample| {
        let mut results = sample.gates.iter();
        results
            .find(|result| result.gate == gates::SAFETY)
            .unwrap()
            .verdict()
    };
    let all = |samples: &[Sample], expected| samples.iter().all(|s| verdict(s) == expected);
    assert!(all(&unchecked, GateVerdict::NotChecked));

    let model = place.path().join("checker");
    fs::create_dir(&model).unwrap();
    checker_against(&[picture_of(&unchecked[0])], &model);
    let named = format!("{base}[synth.measure]\nsafety_model = {model:?}\n");
    let checked = made(&named, &place.path().join("checked")).await;
    assert!(checked.len() < 6 && !checked.is_empty());
    assert!(all(&checked, GateVerdict::Passed));
    let picture = |sample: &Sample| sample.images[0].sha256.clone();
    assert!(
        checked
            .iter()
            .all(|sample| picture(sample) != picture(&unchecked[0]))
    );
    let out = Location::Folder(place.path().join("checked/dataset"));
    let reader = Reader::open(out.open().unwrap()).await.unwrap();
    let tallies = reader
        .partitions()
        .values()
        .map(|made| &made.tally.rejected_counts);
    let refused: u64 = tallies.filter_map(|counts| counts.get(gates::SAFETY)).sum();
    assert_eq!(refused, 6 - checked.len() as u64);

    let makers = |run: &str| {
        let makers = place.path().join(run).join("dataset/makers.json");
        let makers: Makers = serde_json::from_slice(&fs::read(makers).unwrap()).unwrap();
        makers
    };
    let (checked, unchecked) = (makers("checked"), makers("unchecked"));
    assert!(!unchecked.contains_key("safety"));
    assert!(checked["safety"].contains("checker"), "{checked:?}");
    let mut other = checked.clone();
    other.insert("safety".to_owned(), "another".to_owned());
    let refused = check_makers(&checked, &other, &"runs/x").unwrap_err();
    assert!(format!("{refused:#}").contains("another safety"));
}

struct Row {
    gate: &'static str,
    caught: usize,
    refused: usize,
}

impl Row {
    /// Counts the rejections among the verdicts on planted and on clean samples.
    fn of(
        gate: &'static str,
        planted: impl Iterator<Item = Option<GateResult>>,
        clean: impl Iterator<Item = Option<GateResult>>,
    ) -> Self {
        let rejected = |verdict: Option<GateResult>| {
            let verdict = verdict.expect("the gate is on");
            assert_eq!(verdict.gate, gate);
            gates::rejection(&[verdict]).is_some()
        };
        Self {
            gate,
            caught: planted.map(rejected).filter(|&is| is).count(),
            refused: clean.map(rejected).filter(|&is| is).count(),
        }
    }
}

struct Bench {
    samples: Vec<Sample>,
    pictures: Vec<RgbImage>,
    rules: Gates,
    clip: Clip,
}

impl Bench {
    fn new(samples: Vec<Sample>, rules: Gates) -> Self {
        let pictures = samples.iter().map(picture_of).collect();
        Self {
            samples,
            pictures,
            rules,
            clip: Clip::load(&checkout().join("models/nano/nano-clip")).unwrap(),
        }
    }

    fn prompt_form(&self) -> Row {
        let broken = self.samples.iter().enumerate().map(|(index, sample)| {
            let mut prompt = sample.prompts[0].clone();
            prompt.text = match index % 5 {
                0 => prompt.text.replacen("))", ")", 1),
                1 => format!("Sure, here is a prompt: {}", prompt.text),
                2 => "a beautiful picture, highly detailed, 8k".to_owned(),
                3 => format!("What is {}?", prompt.text),
                _ => format!("{} and more of it", prompt.text).repeat(12),
            };
            prompt::form(&self.rules, &prompt)
        });
        let clean = self.samples.iter();
        let clean = clean.map(|sample| prompt::form(&self.rules, &sample.prompts[0]));
        Row::of(gates::PROMPT_FORM, broken, clean)
    }

    fn prompt_repetition(&self) -> Row {
        let texts: Vec<String> = self.texts().collect();
        let held = |texts: &[String]| {
            held_with(texts, |traits, text: &String| {
                traits.prompt = Signature::of_phrases(text);
            })
        };
        let verdict = |known: &Held, text: &str| {
            let own = Signature::of_phrases(text);
            let similarity = known.text_similarity(own.as_ref(), |traits| traits.prompt.as_ref());
            prompt::repetition(&self.rules, similarity, None)
                .into_iter()
                .next()
        };
        let all = held(&texts);
        let planted = texts.iter().enumerate().map(|(index, text)| {
            let (first, rest) = text.split_once(", ").unwrap();
            let near = match index % 4 {
                0 => format!("{rest}, {first}"),
                1 => format!("a {first}, {rest}"),
                2 => format!("{first}s, {rest}"),
                _ => format!("(({rest})), the {first}").to_uppercase(),
            };
            verdict(&all, &near)
        });
        let clean = texts.iter().enumerate();
        let clean = clean.map(|(index, text)| verdict(&held(&texts[..index]), text));
        Row::of(gates::NEAR_PROMPT, planted, clean)
    }

    fn prompt_meaning(&self) -> Row {
        let texts: Vec<String> = self.texts().collect();
        let vector = |text: &str| self.clip.embed_text(text).unwrap();
        let vectors: Vec<Vec<f32>> = texts.iter().map(|text| vector(text)).collect();
        let held = |vectors: &[Vec<f32>]| {
            held_with(vectors, |traits, vector: &Vec<f32>| {
                traits.prompt_vector = Some(vector.clone());
            })
        };
        let verdict = |known: &Held, vector: &[f32]| {
            let cosine = known.cosine(vector, |traits| traits.prompt_vector.as_ref());
            prompt::repetition(&self.rules, 0.0, Some(cosine))
                .into_iter()
                .nth(1)
        };
        let all = held(&vectors);
        let planted = texts.iter().enumerate().map(|(index, text)| {
            let (first, rest) = text.split_once(", ").unwrap();
            let same = match index % 2 {
                0 => format!("{rest}, {first}"),
                _ => format!("A picture of a {text}"),
            };
            verdict(&all, &vector(&same))
        });
        let clean = vectors.iter().enumerate();
        let clean = clean.map(|(index, own)| verdict(&held(&vectors[..index]), own));
        Row::of(gates::NEAR_MEANING, planted, clean)
    }

    fn blank(&self) -> Row {
        let planted = (0..COUNT as u32).map(|index| {
            let level = |offset: u32| (index * 37 + offset) as u8;
            let grain = |x: u32, y: u32| ((x * 7 + y * 13 + index) % 5) as u8;
            let nearly_plain = RgbImage::from_fn(64, 64, |x, y| {
                image::Rgb([0, 85, 170].map(|offset| level(offset).saturating_add(grain(x, y))))
            });
            picture::blank(&self.rules, &nearly_plain)
        });
        let clean = self.pictures.iter();
        let clean = clean.map(|picture| picture::blank(&self.rules, picture));
        Row::of(gates::BLANK, planted, clean)
    }

    /// A picture of another ability's sample under this prompt.
    fn alignment(&self) -> Row {
        let texts: Vec<Vec<f32>> = self
            .texts()
            .map(|text| self.clip.embed_text(&text).unwrap())
            .collect();
        let vectors = self.clip.embed_images(&self.pictures).unwrap();
        let verdict = |text: usize, picture: usize| {
            let cosine = |other: usize| -> f32 {
                let products = texts[other]
                    .iter()
                    .zip(&vectors[picture])
                    .map(|(a, b)| a * b);
                products.sum()
            };
            let partition = text - text % 8;
            let others = (partition..(partition + 8).min(COUNT)).filter(|&other| other != text);
            let others: Vec<f32> = others.map(cosine).collect();
            picture::alignment(&self.rules, Some(cosine(text)), &others)
                .into_iter()
                .next()
        };
        let planted = (0..COUNT).map(|index| verdict(index, (index + 41) % COUNT));
        let clean = (0..COUNT).map(|index| verdict(index, index));
        Row::of(gates::ALIGNMENT_LEAD, planted, clean)
    }

    fn duplicate(&self) -> Row {
        let hashes: Vec<ImageHash> = self.pictures.iter().map(ImageHash::of).collect();
        let planted = self.pictures.iter().enumerate().map(|(index, picture)| {
            let copy = ImageHash::of(&nearly(picture, index));
            picture::duplicate(&self.rules, copy, &hashes)
        });
        let clean = hashes.iter().enumerate();
        let clean =
            clean.map(|(index, &hash)| picture::duplicate(&self.rules, hash, &hashes[..index]));
        Row::of(gates::DUPLICATE, planted, clean)
    }

    fn content(&self) -> Row {
        let vectors = self.clip.embed_images(&self.pictures).unwrap();
        let held = |vectors: &[Vec<f32>]| {
            held_with(vectors, |traits, vector: &Vec<f32>| {
                traits.picture_vector = Some(vector.clone());
            })
        };
        let verdict = |known: &Held, vector: &[f32]| {
            let nearest = known.cosine(vector, |traits| traits.picture_vector.as_ref());
            picture::content(&self.rules, Some(nearest))
        };
        let all = held(&vectors);
        let copies: Vec<RgbImage> = self.pictures.iter().map(jpeg).collect();
        let copies = self.clip.embed_images(&copies).unwrap();
        let planted = copies.iter().map(|copy| verdict(&all, copy));
        let clean = vectors.iter().enumerate();
        let clean = clean.map(|(index, own)| verdict(&held(&vectors[..index]), own));
        Row::of(gates::NEAR_CONTENT, planted, clean)
    }

    /// Copies of a hundred pictures that a safety checker objects to.
    fn safety(&self) -> Row {
        let objectionable: Vec<RgbImage> = held_out_pictures().into_iter().take(COUNT).collect();
        let place = tempfile::tempdir().unwrap();
        let model = checker_against(&objectionable, place.path());
        let verdict = |shown: &RgbImage| {
            let told = match model.judge(shown).unwrap().is_unsafe {
                true => SafetyVerdict::Unsafe,
                false => SafetyVerdict::Safe,
            };
            Some(picture::asked_safety(SafetyVerdict::NotChecked, told))
        };
        let planted = objectionable.iter().map(|shown| verdict(&jpeg(shown)));
        let clean = self.pictures.iter().map(verdict);
        Row::of(gates::SAFETY, planted, clean)
    }

    fn picture_leak(&self) -> Row {
        let held_out: Vec<RgbImage> = held_out_pictures();
        let hashes: Vec<ImageHash> = held_out.iter().map(ImageHash::of).collect();
        let planted = held_out.iter().take(COUNT).enumerate();
        let planted = planted.map(|(index, picture)| {
            let copy = ImageHash::of(&nearly(picture, index));
            picture::leak(&self.rules, copy, Some(&hashes))
        });
        let clean = self.pictures.iter();
        let clean =
            clean.map(|picture| picture::leak(&self.rules, ImageHash::of(picture), Some(&hashes)));
        Row::of(gates::LEAK, planted, clean)
    }

    fn dialogue_repetition(&self) -> Row {
        let words: Vec<String> = self
            .samples
            .iter()
            .map(|sample| dialogue::words(sample.conversation.as_ref().unwrap()))
            .collect();
        let held = |words: &[String]| {
            held_with(words, |traits, words: &String| {
                traits.dialogue = Signature::of(words);
            })
        };
        let verdict = |known: &Held, words: &str| {
            let own = Signature::of(words);
            let similarity = known.text_similarity(own.as_ref(), |traits| traits.dialogue.as_ref());
            dialogue::repetition(&self.rules, similarity)
        };
        let all = held(&words);
        let planted = words.iter().enumerate().map(|(index, words)| {
            let (question, rest) = words.split_once('\n').unwrap();
            let near = match index % 4 {
                0 => format!("Please tell me: {question}\n{rest}"),
                1 => format!("{}, as you can see.", words.trim_end_matches('.')),
                2 => format!("{question}\nWell, {rest}"),
                _ => format!("{rest}\n{question}"),
            };
            verdict(&all, &near)
        });
        let clean = words.iter().enumerate();
        let clean = clean.map(|(index, own)| verdict(&held(&words[..index]), own));
        Row::of(gates::NEAR_DIALOGUE, planted, clean)
    }

    /// A question of the evaluation set, with its answer, in the place of a dialogue's first.
    fn text_leak(&self) -> Row {
        let questions = held_out_questions();
        let signature =
            |(text, answer): &(String, String)| Signature::of(&format!("{text} {answer}")).unwrap();
        let signatures: Vec<Signature> = questions.iter().map(signature).collect();
        let conversation = |index: usize| self.samples[index].conversation.clone().unwrap();
        let verdict =
            |conversation: &_| dialogue::leak(&self.rules, conversation, Some(&signatures));
        let planted = (0..COUNT).map(|index| {
            let (text, answer) = &questions[index * questions.len() / COUNT];
            let mut leaking = conversation(index);
            (leaking.turns[0].text, leaking.turns[1].text) = match index % 2 {
                0 => (format!("Tell me: {text}"), format!("{answer}.")),
                _ => (format!("So, {text}"), answer.to_uppercase()),
            };
            verdict(&leaking)
        });
        let clean = (0..COUNT).map(|index| verdict(&conversation(index)));
        Row::of(gates::TEXT_LEAK, planted, clean)
    }

    /// The prompts' words without emphasis.
    fn texts(&self) -> impl Iterator<Item = String> {
        self.samples.iter().map(|sample| {
            let parts = sample.prompts[0].parts.iter();
            let parts: Vec<&str> = parts.map(|part| part.text.as_str()).collect();
            parts.join(", ")
        })
    }
}

/// A safety checker whose concepts are these pictures, seen through the picture half of nano-clip:
/// what it objects to is planted.
fn checker_against(pictures: &[RgbImage], place: &Path) -> SafetyModel {
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

fn held_with<T>(values: &[T], set: impl Fn(&mut Traits, &T)) -> Held {
    let mut held = Held::default();
    for (index, value) in values.iter().enumerate() {
        let mut traits = Traits::default();
        set(&mut traits, value);
        let id: SampleId = format!("{index:032x}").parse().unwrap();
        held.enter(id, traits);
    }
    held
}

/// A copy that anybody would call the same picture.
fn nearly(picture: &RgbImage, index: usize) -> RgbImage {
    match index % 3 {
        0 => jpeg(picture),
        1 => imageops::brighten(picture, 8),
        _ => {
            let (width, height) = picture.dimensions();
            let larger = imageops::resize(
                picture,
                width * 2,
                height * 2,
                imageops::FilterType::Triangle,
            );
            imageops::resize(&larger, width, height, imageops::FilterType::Triangle)
        }
    }
}

fn jpeg(picture: &RgbImage) -> RgbImage {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 85);
    DynamicImage::ImageRgb8(picture.clone())
        .write_with_encoder(encoder)
        .unwrap();
    image::load_from_memory(bytes.get_ref()).unwrap().to_rgb8()
}

fn picture_of(sample: &Sample) -> RgbImage {
    let Some(Content::Data(data)) = &sample.images[0].content else {
        panic!("the picture lies elsewhere");
    };
    image::load_from_memory(data).unwrap().to_rgb8()
}

fn benchmark() -> (std::path::PathBuf, Vec<serde_json::Value>) {
    let folder = checkout().join("models/nano/bench-real");
    let lines = fs::read_to_string(folder.join("questions.jsonl")).unwrap();
    let questions = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let questions = questions.collect();
    (folder, questions)
}

fn held_out_pictures() -> Vec<RgbImage> {
    let (folder, questions) = benchmark();
    let mut images: Vec<&str> = questions
        .iter()
        .map(|question| question["image"].as_str().unwrap())
        .collect();
    images.sort_unstable();
    images.dedup();
    let open = |image: &str| image::open(folder.join(image)).unwrap().to_rgb8();
    images.into_iter().map(open).collect()
}

fn held_out_questions() -> Vec<(String, String)> {
    let (_, questions) = benchmark();
    let read = |question: &serde_json::Value| {
        let text = question["text"].as_str().unwrap().to_owned();
        let answer = question["answers"][0].as_str().unwrap_or_default();
        (text, answer.to_owned())
    };
    questions.iter().map(read).collect()
}

async fn samples() -> Vec<Sample> {
    let folder = tempfile::tempdir().unwrap();
    made(SAMPLES, folder.path()).await
}

/// What a recipe makes, under `dataset/` of a folder.
async fn made(recipe_text: &str, folder: &Path) -> Vec<Sample> {
    fs::create_dir_all(folder).unwrap();
    let recipe = folder.join("recipe.toml");
    fs::write(&recipe, recipe_text).unwrap();
    let out = folder.join("dataset");
    synth(&recipe, &out);
    let reader = Reader::open(Location::Folder(out).open().unwrap())
        .await
        .unwrap();
    reader.samples().try_collect().await.unwrap()
}

fn synth(recipe: &Path, out: &Path) {
    let mut command = program("diptych");
    command.env("DIPTYCH_ASSETS", checkout());
    command.arg("synth").arg(recipe).arg("--out").arg(out);
    finished(command);
}
