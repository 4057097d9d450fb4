//! Samples of several pictures through the command line, on the embedded default.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use dataset::store::{Reader, Root};
use diptych::synth::gates;
use futures::TryStreamExt as _;
use proto::dataset::v1::{Facts, Sample};
use tests::{finished, program};

/// Two ways of showing several pictures, one of one picture, in few steps.
const RECIPE: &str = r#"
name = "several"
seed = 9
[synth]
max_attempts = 3
seeds_per_prompt = 2
abilities = { animal = 1, difference = 4, one_per_turn = 2 }
[synth.image]
steps = 2
[synth.dialogue]
rounds = 4
[synth.gates]
prompt_form = true
min_alignment_lead = -2.0
max_duplicate_distance = 0
dialogue_agrees = true
"#;

/// What asks about one picture.
const EVALUATION: &str = r#"
[train]
baseline_steps = 1
align = { steps = 1, batch_size = 1, learning_rate = 1e-3 }
instruct = { steps = 1, batch_size = 1, learning_rate = 1e-3 }
[eval]
questions_per_ability = 1
generated_images_per_ability = 1
"#;

#[tokio::test]
async fn samples_of_several_pictures_are_whole_and_the_same_however_they_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write(folder.path(), RECIPE);
    let out = folder.path().join("out");
    let made = synth(&recipe, &out, &[]);
    assert_eq!(made["accepted"], 7, "{made}");
    let again = synth(&recipe, &out, &[]);
    assert_eq!(again["made_partitions"], 0);
    assert_eq!(again["manifest_sha256"], made["manifest_sha256"]);
    let shared = folder.path().join("shared");
    for index in ["1", "0"] {
        let share = ["--shard-index", index, "--shard-count", "2"];
        synth(&recipe, &shared, &share);
    }
    let shared = synth(&recipe, &shared, &[]);
    assert_eq!(shared["manifest_sha256"], made["manifest_sha256"]);

    let samples = samples(&out).await;
    for sample in &samples {
        let count = match sample.ability.as_str() {
            "animal" => 1,
            "difference" => 2,
            _ => 3,
        };
        assert_eq!((sample.prompts.len(), sample.images.len()), (count, count));
        assert_pictures_are_of_the_sample(sample);
        assert_pictures_are_shown_once(sample);
        assert_eq!(sample.conversation.as_ref().unwrap().turns.len(), 8);
        let judged = |gate: &str| {
            let results = sample.gates.iter();
            results.filter(|result| result.gate == gate).count()
        };
        for gate in [gates::PROMPT_FORM, gates::DUPLICATE, gates::ALIGNMENT_LEAD] {
            assert_eq!(judged(gate), count, "{gate} of {}", sample.ability);
        }
        assert_eq!(judged(gates::DIALOGUE), 1);
    }
    let differences = samples
        .iter()
        .filter(|sample| sample.ability == "difference");
    for sample in differences {
        // One thing differs, whichever it is.
        let values = |read: fn(&Facts) -> &str| {
            let facts = sample
                .prompts
                .iter()
                .map(|prompt| prompt.facts.as_ref().unwrap());
            facts.map(read).collect::<BTreeSet<_>>().len()
        };
        let subjects = values(|facts| &facts.subjects[0].name);
        let sum = subjects + values(|facts| &facts.scene) + values(|facts| &facts.style);
        assert_eq!(sum, 4, "{:?}", sample.prompts);
    }
    let hashes = samples.iter().flat_map(|sample| &sample.images);
    let hashes: BTreeSet<_> = hashes.map(|image| &image.sha256).collect();
    assert_eq!(hashes.len(), 1 + 4 * 2 + 2 * 3);
}

#[tokio::test]
async fn exports_hold_every_picture_and_llava_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let few = RECIPE.replace(
        "animal = 1, difference = 4, one_per_turn = 2",
        "difference = 1, one_per_turn = 1",
    );
    let out = folder.path().join("out");
    synth(&write(folder.path(), &few), &out, &[]);
    for format in ["llava", "sharegpt", "messages", "webdataset", "hf"] {
        run(&[
            "export",
            path(&out),
            "--format",
            format,
            "--out",
            path(&folder.path().join(format)),
        ]);
    }
    let llava = folder.path().join("llava");
    let rows = fs::read(llava.join("data.json")).unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&rows).unwrap();
    let tokens = |row: &serde_json::Value| -> Vec<usize> {
        let turns = row["conversations"].as_array().unwrap().iter();
        let turns = turns.map(|turn| turn["value"].as_str().unwrap());
        turns.map(|text| text.matches("<image>").count()).collect()
    };
    assert_eq!(rows[0]["image"].as_array().unwrap().len(), 2);
    assert_eq!(tokens(&rows[0]), [2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rows[1]["image"].as_array().unwrap().len(), 3);
    assert_eq!(tokens(&rows[1]), [1, 0, 1, 0, 1, 0, 0, 0]);
    assert_eq!(fs::read_dir(llava.join("images")).unwrap().count(), 5);
    for format in ["sharegpt", "messages"] {
        let lines = fs::read_to_string(folder.path().join(format).join("data.jsonl")).unwrap();
        let shown: Vec<usize> = lines
            .lines()
            .map(|line| line.matches(".png").count())
            .collect();
        assert_eq!(shown, [2, 3], "{format}");
    }

    let back = folder.path().join("back");
    run(&[
        "import",
        "--format",
        "llava",
        "--in",
        path(&llava.join("data.json")),
        "--out",
        path(&back),
    ]);
    let (made, read) = (samples(&out).await, samples(&back).await);
    for (made, read) in made.iter().zip(&read) {
        let said = |sample: &Sample| sample.conversation.clone().unwrap().turns;
        let pairs = said(made).into_iter().zip(said(read));
        for (made, read) in pairs {
            assert_eq!((made.text, made.image_index), (read.text, read.image_index));
        }
        let hashes = |sample: &Sample| -> Vec<String> {
            let images = sample.images.iter();
            images.map(|image| image.sha256.clone()).collect()
        };
        assert_eq!(hashes(made), hashes(read));
    }
    run(&["audit", path(&out)]);
    run(&["audit", path(&llava.join("data.json"))]);
}

#[test]
fn a_gate_that_one_picture_of_a_sample_does_not_pass_refuses_the_sample() {
    let folder = tempfile::tempdir().unwrap();
    let (head, _) = RECIPE.split_once("[synth.gates]").unwrap();
    let head = head.replace(
        "animal = 1, difference = 4, one_per_turn = 2",
        "difference = 2",
    );
    for (bound, gate) in [
        ("min_pixel_deviation = 127.5", gates::BLANK),
        ("min_alignment_lead = 2.0", gates::ALIGNMENT_LEAD),
        // The first has nothing before it but the other of its sample.
        ("max_duplicate_distance = 255", gates::DUPLICATE),
        ("max_prompt_similarity = 0.1", gates::NEAR_PROMPT),
    ] {
        let recipe = write(folder.path(), &format!("{head}[synth.gates]\n{bound}\n"));
        let mut program = program("diptych");
        let out = folder.path().join(gate);
        program.arg("synth").arg(&recipe).arg("--out").arg(&out);
        let output = program.output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{bound} refused nothing");
        assert!(
            complaint.contains(&format!("{gate} rejected")),
            "{complaint}"
        );
    }
}

#[test]
fn what_the_small_models_cannot_draw_or_be_asked_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let counting = RECIPE.replace("animal = 1,", "counting = 1,");
    let evaluated = format!("{RECIPE}{EVALUATION}");
    for (command, recipe, reason) in [
        ("synth", &counting, "draws as many things as it is told"),
        ("plan", &counting, "builtin:nano-sd is none"),
        ("run", &evaluated, "samples of ability `difference` have 2"),
    ] {
        let recipe = write(folder.path(), recipe);
        let mut program = program("diptych");
        program.arg(command).arg(&recipe);
        if command != "plan" {
            program.arg("--out").arg(folder.path().join(command));
        }
        let output = program.output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{complaint}");
        assert!(complaint.contains(reason), "{complaint}");
    }
}

fn assert_pictures_are_of_the_sample(sample: &Sample) {
    let ids = sample.prompts.iter().map(|prompt| &prompt.sample_id);
    let mut ids = ids.chain(sample.images.iter().map(|image| &image.sample_id));
    assert!(ids.all(|id| *id == sample.id));
    let seeds: BTreeSet<_> = sample
        .images
        .iter()
        .map(|image| image.provenance.as_ref().unwrap().seed)
        .collect();
    assert_eq!(seeds.len(), sample.images.len());
}

/// Each in its order: together in the first turn, or one in each turn of the user.
fn assert_pictures_are_shown_once(sample: &Sample) {
    let turns = &sample.conversation.as_ref().unwrap().turns;
    let shown: Vec<&[u32]> = turns
        .iter()
        .map(|turn| turn.image_index.as_slice())
        .collect();
    let expected: &[&[u32]] = match sample.ability.as_str() {
        "animal" => &[&[0], &[], &[], &[], &[], &[], &[], &[]],
        "difference" => &[&[0, 1], &[], &[], &[], &[], &[], &[], &[]],
        _ => &[&[0], &[], &[1], &[], &[2], &[], &[], &[]],
    };
    assert_eq!(shown, expected);
}

async fn samples(dataset: &Path) -> Vec<Sample> {
    let reader = Reader::open(Root::folder(dataset).unwrap()).await.unwrap();
    reader.samples().try_collect().await.unwrap()
}

fn write(folder: &Path, recipe: &str) -> PathBuf {
    let path = folder.join("recipe.toml");
    fs::write(&path, recipe).unwrap();
    path
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(arguments: &[&str]) {
    let mut command = program("diptych");
    command.args(arguments);
    finished(command);
}

fn synth(recipe: &Path, out: &Path, arguments: &[&str]) -> serde_json::Value {
    let mut command: Command = program("diptych");
    command
        .args(["synth", path(recipe), "--out", path(out), "--json"])
        .args(arguments);
    let output = finished(command);
    serde_json::from_slice(&output.stdout).unwrap()
}
