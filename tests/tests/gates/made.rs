//! Samples that a recipe makes, and what evaluations hold out.

use std::{fs, path::Path};

use dataset::store::{Location, Reader};
use futures::TryStreamExt as _;
use image::RgbImage;
use proto::dataset::v1::{Sample, image::Content};
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

/// The first picture of a sample.
pub(crate) fn picture_of(sample: &Sample) -> RgbImage {
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

/// The pictures that the evaluation asks about.
pub(crate) fn held_out_pictures() -> Vec<RgbImage> {
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

/// The questions of the evaluation with their answers.
pub(crate) fn held_out_questions() -> Vec<(String, String)> {
    let (_, questions) = benchmark();
    let read = |question: &serde_json::Value| {
        let text = question["text"].as_str().unwrap().to_owned();
        let answer = question["answers"][0].as_str().unwrap_or_default();
        (text, answer.to_owned())
    };
    questions.iter().map(read).collect()
}

/// What the built-in models make with all gates off.
pub(crate) async fn samples() -> Vec<Sample> {
    let folder = tempfile::tempdir().unwrap();
    made(SAMPLES, folder.path()).await
}

/// What a recipe makes, under `dataset/` of a folder.
pub(crate) async fn made(recipe_text: &str, folder: &Path) -> Vec<Sample> {
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
