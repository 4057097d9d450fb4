//! The table of exit codes in the README, row by row: 0 done, 2 bad usage or input, 1 failed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const RECIPE: &str = "seed = 1\n[synth]\nabilities = { animal = 1 }\nmax_attempts = 1\n";

/// A folder with a small dataset, LLaVA JSON and a recipe in it.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        image::RgbImage::new(8, 8).save(desk.at("a.png")).unwrap();
        let json = r#"[{"id": "r", "image": "a.png", "conversations": [
            {"from": "human", "value": "<image> What?"}, {"from": "gpt", "value": "A fox."}]}]"#;
        fs::write(desk.at("data.json"), json).unwrap();
        fs::write(desk.at("recipe.toml"), RECIPE).unwrap();
        let import = [
            "import",
            "--format",
            "llava",
            "--in",
            "data.json",
            "--out",
            "dataset",
        ];
        desk.ends(&import, 0, "");
        desk
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn diptych(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
        command.args(arguments).current_dir(self.0.path());
        for (name, _) in std::env::vars() {
            if name.starts_with("AWS_") || name == "REDIS_URL" {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a command, and holds its exit code and a part of its complaint.
    fn ends(&self, arguments: &[&str], code: i32, word: &str) -> String {
        let output = self.diptych(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(
            said.contains(word),
            "{arguments:?}: {word:?} is not in: {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
        said
    }
}

/// The only file of a folder, or of the folders in it.
fn only_file(folder: &Path) -> PathBuf {
    let entry = fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    if entry.is_dir() {
        only_file(&entry)
    } else {
        entry
    }
}

#[test]
fn bad_usage_ends_with_2_and_a_negative_number_is_a_value() {
    let desk = Desk::new();
    desk.ends(&["generate", "--no-such-option"], 2, "--no-such-option");
    let negative = [
        "generate", "--prompt", "fox", "--out", "x.png", "--seed", "-1",
    ];
    desk.ends(&negative, 2, "invalid value '-1' for '--seed");
    desk.ends(&["curate", "animal", "-n", "-3"], 2, "invalid value '-3'");
    desk.ends(&["curate", "dragon"], 2, "there is no ability `dragon`");
    desk.ends(
        &["audit", "data.json", "--against", "builtin:nope"],
        2,
        "only builtin:nano-real",
    );
    let recipe = format!(
        "{RECIPE}[train]\nmodel = \"builtin:nope\"\nbaseline_steps = 1\nalign = {{ steps = 1, learning_rate = 1e-3 }}\ninstruct = {{ steps = 1, learning_rate = 1e-3 }}\n"
    );
    fs::write(desk.at("trains.toml"), recipe).unwrap();
    let run = ["run", "trains.toml", "--out", "run"];
    desk.ends(
        &run,
        2,
        "`builtin:nope`; the built-in one is builtin:nano-llava",
    );
    assert!(!desk.at("run").exists());
}

#[test]
fn a_dataset_that_is_damaged_or_anothers_ends_with_2() {
    let desk = Desk::new();
    let export = [
        "export", "dataset", "--format", "llava", "--out", "exported",
    ];
    let synth = ["synth", "recipe.toml", "--out", "dataset"];
    desk.ends(&synth, 2, "dataset of another recipe");
    let shard = only_file(&desk.at("dataset/shards"));
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    desk.ends(&export, 2, "is damaged");
    desk.ends(&["audit", "dataset"], 2, "is damaged");
    fs::write(only_file(&desk.at("dataset/manifest")), "{").unwrap();
    desk.ends(&export, 2, "is damaged");
    desk.ends(&["curate", "animal", "--from", "dataset"], 2, "is damaged");
    fs::create_dir(desk.at("empty")).unwrap();
    desk.ends(&["audit", "empty/data.json"], 2, "cannot read");
    assert!(!desk.at("exported").exists());
}

#[test]
fn a_file_for_a_folder_and_a_folder_for_a_file_end_with_2() {
    let desk = Desk::new();
    fs::write(
        desk.at("spec.toml"),
        "[candidates]\na = \"builtin:nano-llava\"\n[benchmarks]\nb = \"builtin:nano-real\"\n",
    )
    .unwrap();
    let train = ["train", "--data", "data.json"];
    for command in [
        &["run", "recipe.toml"][..],
        &["synth", "recipe.toml"],
        &train,
        &["eval", "spec.toml"],
        &["export", "dataset", "--format", "hf"],
        &["import", "--format", "llava", "--in", "data.json"],
    ] {
        desk.ends(&[command, &["--out", "a.png"]].concat(), 2, "a.png");
    }
    for command in [
        &["generate", "--prompt", "fox"][..],
        &["report", "dataset"],
        &["audit", "data.json"],
    ] {
        desk.ends(
            &[command, &["--out", "dataset"]].concat(),
            2,
            "dataset is a folder",
        );
    }
    desk.ends(
        &["generate", "--prompt", "fox", "--out", "a.png/b.png"],
        2,
        "a.png is a file",
    );
}

#[test]
fn a_bucket_without_credentials_and_another_evaluations_folder_end_with_2() {
    let desk = Desk::new();
    let synth = ["synth", "recipe.toml", "--out", "s3://no-such-bucket/data"];
    desk.ends(&synth, 2, "set AWS_ACCESS_KEY_ID");
    let export = [
        "export",
        "s3://no-such-bucket/data",
        "--format",
        "hf",
        "--out",
        "x",
    ];
    desk.ends(&export, 2, "set AWS_ACCESS_KEY_ID");
    let spec =
        "[candidates]\na = \"builtin:nano-llava\"\n[benchmarks]\nb = \"builtin:nano-real\"\n";
    fs::write(desk.at("spec.toml"), spec).unwrap();
    fs::create_dir(desk.at("results")).unwrap();
    fs::write(desk.at("results/results.json"), "{}").unwrap();
    let eval = ["eval", "spec.toml", "--out", "results"];
    desk.ends(&eval, 2, "choose another --out");
    assert_eq!(
        fs::read_to_string(desk.at("results/results.json")).unwrap(),
        "{}"
    );
}

#[test]
fn an_audit_passes_only_what_it_checked() {
    let desk = Desk::new();
    let audit = |more: &[&str], code, word: &str| {
        desk.ends(&[&["audit", "data.json"][..], more].concat(), code, word)
    };
    audit(&[], 0, "");
    audit(&["--fail-on", "repeated_pair=0"], 0, "");
    audit(
        &["--fail-on", "leaked_prompt=0"],
        1,
        "leaked_prompt was not checked",
    );
    audit(
        &["--fail-on", "repeated_prompt=0"],
        1,
        "prompts: there are none",
    );
    fs::create_dir(desk.at("elsewhere")).unwrap();
    audit(
        &["--image-folder", "elsewhere"],
        2,
        "correct --image-folder",
    );
    fs::write(desk.at("data.json"), "[]").unwrap();
    audit(&[], 2, "holds no record");
}

#[test]
fn a_synthesis_of_which_nothing_is_accepted_has_failed() {
    let desk = Desk::new();
    let gates = "[synth.image]\nsteps = 1\n[synth.gates]\nmin_pixel_deviation = 127.5\n";
    fs::write(desk.at("recipe.toml"), format!("{RECIPE}{gates}")).unwrap();
    let synth = ["synth", "recipe.toml", "--out", "nothing"];
    desk.ends(
        &synth,
        1,
        "not one of 1 samples was accepted: blank_image rejected 1",
    );
}

#[test]
fn a_reader_who_has_heard_enough_is_no_failure() {
    let desk = Desk::new();
    let mut command = desk.diptych(&["doctor"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.as_ref()), (Some(0), ""));
}
