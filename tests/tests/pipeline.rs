//! The main job through the command line, on the embedded default.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tests::{finished, program, wait_for_first_partition};

/// Two abilities of two partitions each, in few steps.
const SYNTHESIS: &str = r#"
name = "pipeline"
seed = 5
[synth]
abilities = { animal = 66, color = 4 }
[synth.image]
steps = 2
[synth.gates]
min_alignment_lead = -2.0
dialogue_agrees = true
"#;

/// A whole experiment in its smallest size.
const EXPERIMENT: &str = r#"
name = "smallest"
seed = 12
[synth]
abilities = { animal = 4, color = 4 }
[synth.image]
steps = 4
[synth.gates]
min_alignment_lead = -2.0
dialogue_agrees = true
[train]
baseline_steps = 1
align = { steps = 2, batch_size = 4, learning_rate = 1e-3 }
instruct = { steps = 2, batch_size = 4, learning_rate = 1e-3 }
[eval]
questions_per_ability = 2
generated_images_per_ability = 4
resamples = 100
"#;

#[test]
fn the_same_recipe_gives_the_same_dataset_undisturbed_killed_or_shared_out() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write(folder.path(), SYNTHESIS);
    let undisturbed = synth(&recipe, &folder.path().join("undisturbed"), &[]);
    assert_eq!(undisturbed["accepted"], 70);

    let killed = folder.path().join("killed");
    kill_after_first_partition(&recipe, &killed);
    let continued = synth(&recipe, &killed, &[]);
    assert_eq!(continued["manifest_sha256"], undisturbed["manifest_sha256"]);
    let made = continued["made_partitions"].as_u64().unwrap();
    assert!(
        made < undisturbed["made_partitions"].as_u64().unwrap(),
        "what was committed was made again"
    );

    let shared = folder.path().join("shared");
    for index in ["0", "1"] {
        synth(
            &recipe,
            &shared,
            &["--shard-index", index, "--shard-count", "2"],
        );
    }
    let shared = synth(&recipe, &shared, &[]);
    assert_eq!(shared["manifest_sha256"], undisturbed["manifest_sha256"]);
    assert_eq!(shared["made_partitions"], 0);
}

#[test]
fn a_budget_ends_a_run_between_partitions_and_the_rest_is_made_another_day() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write(folder.path(), SYNTHESIS);
    let whole = synth(&recipe, &folder.path().join("whole"), &[]);

    let out = folder.path().join("out");
    let output = command("synth", &recipe, &out, &["--budget", "1images"])
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("budget of 1 images"), "{complaint}");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let made = summary["made_partitions"].as_u64().unwrap();
    assert!(made > 0 && made < whole["made_partitions"].as_u64().unwrap());

    let rest = synth(&recipe, &out, &["--budget", "2h"]);
    assert_eq!(rest["manifest_sha256"], whole["manifest_sha256"]);
    assert_eq!(rest["stopped_at_budget"], false);
}

#[test]
fn a_run_leaves_everything_and_a_finished_one_calls_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = write(folder.path(), EXPERIMENT);
    let out = folder.path().join("run");
    run(&recipe, &out, &[]);
    for path in [
        "dataset/dataset.json",
        "train/baseline/metrics.jsonl",
        "train/control/metrics.jsonl",
        "train/synthetic/metrics.jsonl",
        "eval.json",
        "report.html",
        "run.json",
    ] {
        assert!(out.join(path).is_file(), "{path} is missing");
    }
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        report.contains("data:image/png;base64,"),
        "the report shows no picture"
    );

    // Nobody listens there: whatever called a service would fail.
    let nowhere = ["promptgen", "diffusion", "dialogue", "trainer", "eval"]
        .map(|name| format!("{name}=http://127.0.0.1:9"));
    run(&recipe, &out, &["--endpoints", &nowhere.join(",")]);

    let exported = folder.path().join("exported");
    let mut command = program("diptych");
    command
        .arg("export")
        .arg(out.join("dataset"))
        .args(["--format", "llava", "--out"])
        .arg(&exported);
    finished(command);
    let rows: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(exported.join("data.json")).unwrap()).unwrap();
    assert_eq!(rows.len(), 8);
    for row in &rows {
        assert!(
            exported
                .join("images")
                .join(
                    Path::new(row["image"].as_str().unwrap())
                        .file_name()
                        .unwrap()
                )
                .is_file()
        );
        assert!(
            row["conversations"][0]["value"]
                .as_str()
                .unwrap()
                .starts_with("<image>\n")
        );
    }
}

#[test]
fn a_picture_of_an_evaluation_set_is_turned_away_kept_for_people_and_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let few = SYNTHESIS.replace("animal = 66, color = 4", "animal = 2");
    let first = folder.path().join("first");
    synth(&write(folder.path(), &few), &first, &[]);

    let set = folder.path().join("set");
    fs::create_dir(&set).unwrap();
    let pictures = pictures(&first);
    for (index, picture) in pictures.iter().enumerate() {
        fs::write(set.join(format!("{index}.png")), picture).unwrap();
    }
    let questions = "{\"image\": \"0.png\"}\n{\"image\": \"1.png\"}\n";
    fs::write(set.join("questions.jsonl"), questions).unwrap();

    let gates = format!(
        "[synth.gates]\nmax_leak_distance = 4\nevaluation_sets = [{:?}]\n",
        set.to_str().unwrap()
    );
    let guarded = few.replace("[synth.gates]\n", &gates);
    let second = folder.path().join("second");
    let summary = synth(&write(folder.path(), &guarded), &second, &[]);
    assert_eq!(summary["accepted"], 2);
    assert_eq!(summary["rejected"]["evaluation_overlap"], 2);
    for picture in self::pictures(&second) {
        assert!(!pictures.contains(&picture), "a picture leaked");
    }
    assert_eq!(fs::read_dir(second.join("rejected")).unwrap().count(), 1);
}

#[test]
fn a_training_that_failed_is_tried_again_once_its_cause_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let row = r#"[{"id": "1", "image": "1.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A fox."}]}]"#;
    fs::write(data.join("data.json"), row).unwrap();
    fs::write(data.join("1.png"), "no picture").unwrap();
    let train = || {
        let mut command = program("diptych");
        command
            .arg("train")
            .arg("--data")
            .arg(data.join("data.json"))
            .args(["--steps", "1", "--batch-size", "1", "--out"])
            .arg(folder.path().join("out"));
        command
    };
    let output = train().output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && complaint.contains("1.png"),
        "{complaint}"
    );

    let first = folder.path().join("first");
    synth(
        &write(
            folder.path(),
            &SYNTHESIS.replace("animal = 66, color = 4", "animal = 1"),
        ),
        &first,
        &[],
    );
    fs::write(data.join("1.png"), &pictures(&first)[0]).unwrap();
    finished(train());
    assert!(folder.path().join("out/model/config.json").is_file());
}

/// The encoded pictures of a dataset.
fn pictures(dataset: &Path) -> Vec<Vec<u8>> {
    let out = dataset.with_extension("exported");
    let mut command = program("diptych");
    command
        .arg("export")
        .arg(dataset)
        .args(["--format", "llava", "--out"])
        .arg(&out);
    finished(command);
    let images = fs::read_dir(out.join("images")).unwrap();
    images
        .map(|image| fs::read(image.unwrap().path()).unwrap())
        .collect()
}

#[test]
fn a_folder_of_another_recipe_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let recipe = write(
        folder.path(),
        &SYNTHESIS.replace("animal = 66, color = 4", "animal = 2"),
    );
    synth(&recipe, &out, &[]);
    let recipe = write(
        folder.path(),
        &SYNTHESIS.replace("animal = 66, color = 4", "animal = 3"),
    );
    let output = command("synth", &recipe, &out, &[]).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && complaint.contains("recipe"),
        "{complaint}"
    );
}

/// Starts a synthesis and kills it without warning once something is committed.
fn kill_after_first_partition(recipe: &Path, out: &Path) {
    let mut child = command("synth", recipe, out, &[])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for_first_partition(&mut child, out);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn write(folder: &Path, recipe: &str) -> PathBuf {
    let path = folder.join("recipe.toml");
    fs::write(&path, recipe).unwrap();
    path
}

fn synth(recipe: &Path, out: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = finished(command("synth", recipe, out, arguments));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn run(recipe: &Path, out: &Path, arguments: &[&str]) {
    finished(command("run", recipe, out, arguments));
}

fn command(name: &str, recipe: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = program("diptych");
    command
        .arg(name)
        .arg(recipe)
        .arg("--out")
        .arg(out)
        .arg("--json")
        .args(arguments);
    command
}
