//! Bad input, given as a user gives it: one clear sentence on stderr, exit code 2 or 1, and
//! nothing half-written.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tests::{Service, assets, checkout, program};

#[test]
fn a_recipe_is_refused_by_the_name_of_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("abilities = { levitation = 3 }", "levitation"),
        ("abilities = { animal = 0 }", "synth.abilities.animal"),
        (
            "abilities = { animal = 1000000000 }",
            "synth.abilities.animal",
        ),
        ("abilities = { animal = 3 }\nmax_atempts = 2", "max_atempts"),
        (
            "abilities = { animal = 3 }\nimage = { steps = 0 }",
            "synth.image.steps",
        ),
        (
            "abilities = { one_per_turn = 1 }\ndialogue = { rounds = 2 }",
            "synth.dialogue.rounds",
        ),
    ];
    for (text, named) in cases {
        let recipe = folder.path().join("recipe.toml");
        fs::write(&recipe, format!("seed = 1\n[synth]\n{text}\n")).unwrap();
        let out = folder.path().join(named);
        let output = diptych(|command| command.arg("synth").arg(&recipe).arg("--out").arg(&out));
        refused(&output, 2, &[named]);
        assert!(!out.join("shards").exists(), "{text} left something behind");
    }
}

#[test]
fn a_missing_recipe_is_named() {
    let output =
        diptych(|command| command.args(["run", "no/such/recipe.toml", "--out", "/nowhere"]));
    refused(&output, 2, &["no/such/recipe.toml"]);
}

#[test]
fn an_output_folder_that_cannot_be_written_is_named() {
    let recipe = checkout().join("recipes/tiny.toml");
    // The kernel's own file system takes no folders, not even root's.
    let output = diptych(|command| {
        command
            .arg("synth")
            .arg(&recipe)
            .args(["--out", "/sys/diptych"])
    });
    refused(&output, 2, &["/sys/diptych"]);
}

#[test]
fn a_width_of_63_pixels_is_refused_by_field() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("fox.png");
    let output = diptych(|command| {
        command
            .args(["generate", "--prompt", "fox", "--width", "63", "--out"])
            .arg(&out)
    });
    refused(&output, 2, &["width_px", "63"]);
    assert!(!out.exists());
}

#[test]
fn a_truncated_checkpoint_is_named_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&assets().join("models/nano/nano-sd"), folder.path());
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let output = generate_with(&model, folder.path());
    refused(&output, 2, &["unet/diffusion_pytorch_model.safetensors"]);
}

#[test]
fn a_tokenizer_of_another_model_is_named_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = copy_of(&assets().join("models/nano/nano-sd"), folder.path());
    let vocabulary = model.join("tokenizer/vocab.json");
    fs::write(
        &vocabulary,
        r#"{"<|startoftext|>": 0, "<|endoftext|>": 90000}"#,
    )
    .unwrap();
    let output = generate_with(&model, folder.path());
    refused(&output, 2, &["tokenizer"]);
}

#[test]
fn a_closed_port_is_named_with_what_to_do() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let endpoint = format!("diffusion=http://{address}");
    let output = diptych(|command| {
        command.args([
            "generate",
            "--prompt",
            "fox",
            "--out",
            "/tmp/never.png",
            "--endpoints",
            &endpoint,
        ])
    });
    refused(
        &output,
        1,
        &["diffusion", &address.to_string(), "connection refused"],
    );
}

#[test]
fn an_endpoint_that_is_another_service_or_back_end_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    let text =
        "seed = 1\n[synth]\nabilities = { animal = 1 }\n[synth.prompts]\nbackend = \"openai\"\n";
    fs::write(&recipe, text).unwrap();
    let promptgen = Service::start("promptgen", |_| {});
    let synth = |endpoints: &str| {
        diptych(|command| {
            command
                .arg("synth")
                .arg(&recipe)
                .arg("--out")
                .arg(folder.path().join("out"))
                .args(["--endpoints", endpoints])
        })
    };
    let output = synth(&promptgen.named_endpoint());
    refused(&output, 2, &["promptgen", "`openai`", "`grammar`"]);

    let wrong = format!("diffusion={}", promptgen.endpoint());
    let plain = text.replace("openai", "grammar");
    fs::write(&recipe, plain).unwrap();
    let output = synth(&wrong);
    refused(&output, 2, &["no diffusion service", &promptgen.endpoint()]);
    refused(
        &synth("diffusion=127.0.0.1:9"),
        2,
        &["127.0.0.1:9", "http://"],
    );
}

#[test]
fn a_back_end_whose_model_is_not_named_is_refused_with_the_variable_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    let synth = |stage: &str, backend: &str, options: &[&str]| {
        let text = format!(
            "seed = 1\n[synth]\nabilities = {{ animal = 1 }}\n[synth.{stage}]\nbackend = \"{backend}\"\n"
        );
        fs::write(&recipe, text).unwrap();
        diptych(|command| {
            command
                .env_remove("DIPTYCH_LANGUAGE_MODEL")
                .env_remove("DIPTYCH_LLM_URL")
                .env_remove("DIPTYCH_LLM_MODEL")
                .arg("synth")
                .arg(&recipe)
                .arg("--out")
                .arg(folder.path().join("out"))
                .args(options)
        })
    };
    for stage in ["prompts", "dialogue"] {
        let words = ["--language-model", "DIPTYCH_LANGUAGE_MODEL"];
        refused(&synth(stage, "local", &[]), 2, &words);
        let wrong = ["--language-model", "/nowhere/model.gguf"];
        refused(
            &synth(stage, "local", &wrong),
            2,
            &["/nowhere/model.gguf", "DIPTYCH_LANGUAGE_MODEL"],
        );
        refused(&synth(stage, "openai", &[]), 2, &["DIPTYCH_LLM_MODEL"]);
        refused(&synth(stage, "parrot", &[]), 2, &["parrot", "local"]);
    }
}

#[test]
fn a_port_in_use_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut command = program("promptgen");
    let output = command.args(["--listen", &address]).output().unwrap();
    refused(&output, 1, &[&address, "in use"]);
}

#[test]
fn listening_beyond_this_machine_without_tls_is_refused() {
    let mut command = program("promptgen");
    let output = command.args(["--listen", "0.0.0.0:0"]).output().unwrap();
    refused(&output, 1, &["--insecure", "TLS"]);
}

#[test]
fn data_that_cannot_be_audited_imported_or_exported_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let json = folder.path().join("data.json");
    let record = r#"[{"id": "r", "image": "gone.png", "conversations": [
        {"from": "human", "value": "<image> What?"}, {"from": "gpt", "value": "A fox."}]}]"#;
    fs::write(&json, record).unwrap();
    let import = ["import", "--format", "llava", "--in"];
    let output = diptych(|command| command.args(import).arg(&json).arg("--out").arg(&out));
    refused(&output, 2, &["record 0", "data.json", "gone.png"]);
    assert!(!out.exists());
    let output = diptych(|command| command.args(["audit", "no/such/data.json"]));
    refused(&output, 2, &["no/such/data.json"]);
    let against = ["--against", "no/such/set"];
    let output = diptych(|command| command.arg("audit").arg(&json).args(against));
    refused(&output, 2, &["no/such/set"]);
    let bound = ["--fail-on", "missing_picture=0.5"];
    let output = diptych(|command| command.arg("audit").arg(&json).args(bound));
    assert_eq!(output.status.code(), Some(1));
    let export = ["--format", "hf", "--out"];
    let output = diptych(|command| {
        command
            .arg("export")
            .arg(folder.path())
            .args(export)
            .arg(&out)
    });
    refused(&output, 2, &["is not a dataset"]);
}

fn generate_with(model: &Path, folder: &Path) -> Output {
    let out = folder.join("never.png");
    let output = diptych(|command| {
        command
            .args(["generate", "--prompt", "fox", "--steps", "1", "--model"])
            .arg(model)
            .arg("--out")
            .arg(&out)
    });
    assert!(!out.exists());
    output
}

fn diptych(configure: impl FnOnce(&mut Command) -> &mut Command) -> Output {
    let mut command = program("diptych");
    configure(&mut command).output().expect("diptych starts")
}

/// Asserts the exit code and that one sentence on stderr holds all the words.
fn refused(output: &Output, code: i32, words: &[&str]) {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{complaint}");
    let sentence = complaint.lines().find(|line| line.starts_with("error:"));
    let sentence = sentence.unwrap_or_else(|| panic!("no line begins with `error:`:\n{complaint}"));
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in: {sentence}");
    }
    assert!(!complaint.contains("panicked"), "{complaint}");
}

fn copy_of(folder: &Path, into: &Path) -> PathBuf {
    let copy = into.join("model");
    copy_folder(folder, &copy);
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
