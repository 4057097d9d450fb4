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
        self.holds(arguments, self.diptych(arguments), code, word).1
    }

    /// As [`ends`](Self::ends), and gives the result that was asked for as JSON.
    fn gives(&self, arguments: &[&str], code: i32, word: &str) -> serde_json::Value {
        let arguments = [arguments, &["--json"]].concat();
        let (result, _) = self.holds(&arguments, self.diptych(&arguments), code, word);
        serde_json::from_str(&result).unwrap()
    }

    /// What a command said on stdout and on stderr.
    fn holds(
        &self,
        arguments: &[&str],
        mut command: Command,
        code: i32,
        word: &str,
    ) -> (String, String) {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(
            said.contains(word),
            "{arguments:?}: {word:?} is not in: {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
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

/// A recipe of small pictures, with these lines of `[synth.gates]`.
fn gated(abilities: &str, gates: &str) -> String {
    format!(
        "seed = 3\n[synth]\nabilities = {{ {abilities} }}\n[synth.image]\nsteps = 2\n[synth.gates]\n{gates}"
    )
}

#[test]
fn a_gate_without_a_model_or_a_set_is_said_before_and_after_and_a_finished_dataset_is_read_again() {
    let desk = Desk::new();
    let gates = "refuse_unsafe = true\nmax_leak_similarity = 0.7\n";
    fs::write(desk.at("recipe.toml"), gated("animal = 2", gates)).unwrap();
    let synth = ["synth", "recipe.toml", "--out", "data"];
    let said = desk.ends(&synth, 0, "warning: safety will not be checked");
    let texts =
        "warning: evaluation_text_overlap will not be checked: the recipe names no evaluation";
    assert!(said.contains(texts), "{said}");
    assert!(
        said.contains("not checked: evaluation_text_overlap (2 samples), safety (2"),
        "{said}"
    );
    // Again: finished, and it says so still.
    let summary = desk.gives(&synth, 0, "");
    assert_eq!(summary["unchecked"]["safety"], 2);
    assert_eq!(summary["unchecked"]["evaluation_text_overlap"], 2);

    let shard = only_file(&desk.at("data/shards"));
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let said = desk.ends(
        &synth,
        2,
        "is damaged: it has other content than its name says",
    );
    let name = shard.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name) && said.contains("restore it"), "{said}");
}

#[test]
fn a_share_that_waits_in_vain_says_for_whom_and_its_dataset_is_not_exported_by_accident() {
    let desk = Desk::new();
    fs::write(desk.at("recipe.toml"), gated("animal = 1, food = 1", "")).unwrap();
    let share = ["--shard-index", "0", "--shard-count", "2", "--wait", "1s"];
    let synth = [&["synth", "recipe.toml", "--out", "data"][..], &share].concat();
    let said = desk.ends(
        &synth,
        0,
        "warning: waited 1 s (--wait) for the next of 1 partitions",
    );
    assert!(
        said.contains("food-00000") && said.contains("longer --wait"),
        "{said}"
    );
    let export = ["export", "data", "--format", "llava", "--out", "exported"];
    desk.ends(
        &export,
        2,
        "1 of 2 samples are there, 1 of 2 partitions are missing; run its synthesis",
    );
    assert!(!desk.at("exported").exists());
    let partial = [&export[..], &["--allow-partial"]].concat();
    let exported = desk.gives(&partial, 0, "warning: data is not finished");
    assert_eq!(
        (
            exported["samples"].as_u64(),
            exported["missing_partitions"].as_u64()
        ),
        (Some(1), Some(1))
    );
}

#[test]
fn a_place_that_may_not_be_written_ends_with_2_for_every_command() {
    let desk = Desk::new();
    fs::write(
        desk.at("spec.toml"),
        "[candidates]\na = \"builtin:nano-llava\"\n[benchmarks]\nb = \"builtin:nano-real\"\n",
    )
    .unwrap();
    // Nobody makes folders or files there, whoever asks.
    for command in [
        &["run", "recipe.toml"][..],
        &["synth", "recipe.toml"],
        &["train", "--data", "data.json"],
        &["eval", "spec.toml"],
        &["export", "dataset", "--format", "hf"],
        &["import", "--format", "llava", "--in", "data.json"],
        &["generate", "--prompt", "fox"],
        &["report", "dataset"],
        &["preview", "recipe.toml"],
        &["audit", "data.json"],
    ] {
        desk.ends(
            &[command, &["--out", "/sys/diptych"]].concat(),
            2,
            "cannot write",
        );
    }
}

#[test]
fn a_model_that_the_caller_named_and_that_does_not_load_ends_with_2_and_leaves_no_folder() {
    let desk = Desk::new();
    fs::create_dir_all(desk.at("models/other")).unwrap();
    fs::write(
        desk.at("models/other/config.json"),
        "{\"architectures\": [\"BertModel\"]}",
    )
    .unwrap();
    fs::create_dir(desk.at("recipes")).unwrap();
    for key in ["scoring_model", "embedding_model", "safety_model"] {
        let measured = |folder: &str| {
            let recipe = format!(
                "{}\n[synth.measure]\n{key} = \"{folder}\"\n",
                gated("animal = 1", "")
            );
            fs::write(desk.at("recipes/measured.toml"), recipe).unwrap();
        };
        let synth = ["synth", "recipes/measured.toml", "--out", "runs/data"];
        measured("models/other");
        desk.ends(&synth, 2, "models/other");
        // A path in a recipe starts where the command runs, not where the recipe lies.
        measured("models/none");
        let here = desk.0.path().canonicalize().unwrap();
        let missing = desk.ends(&synth, 2, "models/none");
        assert!(
            key == "embedding_model"
                || missing.contains(here.join("models/none").to_str().unwrap()),
            "{missing}"
        );
        assert!(!desk.at("runs").exists());
    }
    // Nor does an ability that there is not: with its name mended, the same command goes.
    fs::write(desk.at("recipes/misspelt.toml"), gated("animals = 1", "")).unwrap();
    let synth = ["synth", "recipes/misspelt.toml", "--out", "runs/data"];
    desk.ends(&synth, 2, "animals");
    assert!(!desk.at("runs").exists());
    fs::write(desk.at("cut.safetensors"), [8, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
    let generate = [
        "generate",
        "--prompt",
        "fox",
        "--out",
        "x.png",
        "--lora",
        "cut.safetensors",
    ];
    desk.ends(&generate, 2, "cut.safetensors");
}

#[test]
fn a_variable_that_makes_no_sense_is_told_in_one_sentence() {
    let desk = Desk::new();
    fs::write(desk.at("recipe.toml"), gated("animal = 1", "")).unwrap();
    let arguments = ["synth", "recipe.toml", "--out", "data"];
    let mut synth = desk.diptych(&arguments);
    synth.env("DIPTYCH_UNSAFE_THRESHOLD", "often");
    let (_, said) = desk.holds(&arguments, synth, 2, "invalid value 'often'");
    assert!(
        !said.contains("--help") && !said.contains(": error: "),
        "{said}"
    );
    assert!(!desk.at("data").exists());
}

#[test]
fn answers_are_scored_by_the_suites_rules_and_by_a_published_scorers() {
    let desk = Desk::new();
    let questions = [
        r#"{"question_id": "a", "ability": "animal", "kind": "wh", "image": "a.png", "text": "What animal is it?", "answers": ["fox"]}"#,
        r#"{"question_id": "b", "ability": "color", "kind": "yes_no", "image": "a.png", "text": "Is it red?", "answers": ["yes"]}"#,
        r#"{"question_id": "c", "ability": "color", "kind": "wh", "image": "a.png", "text": "What color is it?", "answers": ["red"]}"#,
    ];
    fs::write(desk.at("questions.jsonl"), questions.join("\n")).unwrap();
    let answers = "{\"question_id\": \"a\", \"text\": \"Two foxes.\"}\n{\"question_id\": \"b\", \"text\": \"no\"}\n";
    fs::write(desk.at("answers.jsonl"), answers).unwrap();
    let files = [
        "--reference",
        "questions.jsonl",
        "--answers",
        "answers.jsonl",
    ];
    let own = [&["score", "--benchmark", "diptych"][..], &files].concat();
    let found = desk.gives(&own, 0, "warning: 1 of 3 questions have no answer");
    assert_eq!(found["accuracy"]["animal"]["accuracy"], 1.0);
    assert_eq!(found["accuracy"]["color"]["accuracy"], 0.0);
    assert_eq!(
        (
            found["accuracy"]["all"]["right"].as_u64(),
            found["unanswered"].as_u64()
        ),
        (Some(1), Some(1))
    );
    desk.ends(
        &[&own[..], &["--mode", "official"]].concat(),
        2,
        "no published scorer",
    );
    desk.ends(
        &[&["score", "--benchmark", "pope"][..], &files].concat(),
        2,
        "line 1",
    );

    // What says neither is wrong by the suite's rules, and a yes by the published script's.
    let pope = r#"{"question_id": 1, "image": "a.png", "text": "Is there a fox in the image?", "label": "yes"}"#;
    fs::write(desk.at("questions.jsonl"), pope).unwrap();
    fs::write(
        desk.at("answers.jsonl"),
        r#"{"question_id": 1, "text": "A fox."}"#,
    )
    .unwrap();
    let score = [&["score", "--benchmark", "pope"][..], &files].concat();
    assert_eq!(desk.gives(&score, 0, "")["accuracy"]["all"]["right"], 0);
    let official = desk.gives(&[&score[..], &["--mode", "official"]].concat(), 0, "");
    assert_eq!(official["accuracy"]["all"]["right"], 1);
    assert_eq!(official["yes_no"]["f1"], 1.0);
}
