//! `diptych curate` as a person and their browser meet it: a real program, real HTTP, a real file.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod page;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use page::Page;
use serde_json::{Value, json};

/// A tree of assets of its own, whose abilities may be written.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        fs::create_dir(folder.path().join("abilities")).unwrap();
        for name in ["shared.toml", "animal.toml"] {
            let from = checkout.join("abilities").join(name);
            fs::copy(from, folder.path().join("abilities").join(name)).unwrap();
        }
        let models = checkout.canonicalize().unwrap().join("models");
        std::os::unix::fs::symlink(models, folder.path().join("models")).unwrap();
        Self { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("abilities/animal.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn curate(&self, arguments: &[&str]) -> Command {
        self.curate_ability("animal", arguments)
    }

    fn curate_ability(&self, ability: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
        command
            .args(["curate", ability, "-n", "3", "--assets"])
            .arg(self.folder.path())
            .arg("--out")
            .arg(self.out())
            .args(arguments)
            .env_remove("REDIS_URL");
        command
    }
}

/// The first entry of a kind that nobody has decided about.
fn open_entry(state: &Value, kind: &str) -> Value {
    let cards = state["cards"].as_array().unwrap().iter();
    let mut entries = cards.flat_map(|card| card["entries"].as_array().unwrap());
    let found = entries.find(|entry| entry["kind"] == kind && entry["state"] == "open");
    found
        .unwrap_or_else(|| panic!("nothing is open: {state}"))
        .clone()
}

fn said(entry: &Value, verdict: &str) -> Value {
    let mut text = entry.clone();
    for key in ["id", "state"] {
        text.as_object_mut().unwrap().remove(key);
    }
    json!({ "id": entry["id"], "verdict": verdict, "entry": text })
}

#[test]
fn a_killed_page_goes_on_where_it_was_and_what_was_kept_enters_the_file_once() {
    let bench = Bench::new();
    let before = bench.text();
    let mut page = Page::open(bench.curate(&[]));
    let state = page.state();
    assert_eq!(state["tally"]["kept"], 0);
    let mut prompt = open_entry(&state, "prompt");
    prompt["text"] = json!("((fox)),  moon \"base\", sketch");
    page.post("decisions", &said(&prompt, "keep"));
    let dialogue = open_entry(&state, "dialogue");
    page.post("decisions", &said(&dialogue, "keep"));
    let state = page.state();
    page.post("decisions", &said(&open_entry(&state, "prompt"), "drop"));
    page.kill();
    // A kill may cut the last line short.
    let decisions = bench.out().join("decisions.jsonl");
    let mut lines = fs::read_to_string(&decisions).unwrap();
    assert_eq!(lines.lines().count(), 3);
    lines.push_str("{\"id\": \"hal");
    fs::write(&decisions, lines).unwrap();
    assert_eq!(
        bench.text(),
        before,
        "nothing is written before it is saved"
    );

    let page = Page::open(bench.curate(&[]));
    let tally = page.state()["tally"].clone();
    assert_eq!((&tally["kept"], &tally["dropped"]), (&json!(2), &json!(1)));
    let saved = page.post("save", &json!({}));
    assert_eq!(saved["entered"], json!({ "prompts": 1, "dialogues": 1 }));
    let again = page.post("save", &json!({}));
    assert_eq!(again["entered"], json!({ "prompts": 0, "dialogues": 0 }));
    let after = bench.text();
    assert!(
        after.contains("\n  '((fox)), moon \"base\", sketch',\n]\n"),
        "{after}"
    );
    assert!(after.contains(dialogue["answer"].as_str().unwrap()));
    let mut rest = after.lines();
    for line in before.lines() {
        assert!(
            rest.any(|found| found == line),
            "{line} is gone, or stands elsewhere"
        );
    }
    page.post("end", &json!({}));
    let said = page.ended();
    assert!(
        said.contains("1 prompt and 1 dialogue entered in"),
        "{said}"
    );
}

#[test]
fn a_file_that_would_not_load_is_named_and_stays_as_it_is() {
    let bench = Bench::new();
    let page = Page::open(bench.curate(&["--kind", "prompts"]));
    page.post(
        "decisions",
        &said(&open_entry(&page.state(), "prompt"), "keep"),
    );
    let broken = bench
        .text()
        .replace("main_aspect = \"subject\"", "main_aspect = \"nose\"");
    fs::write(bench.file(), &broken).unwrap();
    let (status, answer) = page.try_post("save", "{}", &page.own());
    assert_eq!(status, 422);
    assert!(
        answer.contains("animal.toml") && answer.contains("main_aspect"),
        "{answer}"
    );
    assert_eq!(bench.text(), broken);
    let mut empty = open_entry(&page.state(), "prompt");
    empty["text"] = json!("  ");
    let (status, answer) =
        page.try_post("decisions", &said(&empty, "keep").to_string(), &page.own());
    assert_eq!(
        (status, answer.contains("is empty")),
        (500, true),
        "{answer}"
    );
}

#[test]
fn another_page_another_name_and_a_wrong_token_are_refused() {
    let bench = Bench::new();
    let page = Page::open(bench.curate(&["--kind", "prompts"]));
    let keep = said(&open_entry(&page.state(), "prompt"), "keep").to_string();
    let own = page.own();
    for (host, origin) in [
        (own[0].1.as_str(), "http://evil.example"),
        (own[0].1.as_str(), "null"),
        ("evil.example", "http://evil.example"),
    ] {
        let headers = [("Host", host.to_owned()), ("Origin", origin.to_owned())];
        assert_eq!(
            page.try_post("decisions", &keep, &headers).0,
            403,
            "{host} {origin}"
        );
    }
    assert_eq!(
        page.try_post("decisions", &keep, &own[..1]).0,
        403,
        "no origin at all"
    );
    assert_eq!(
        page.get_at(&format!("/{}/state", "0".repeat(32)), &own).0,
        404
    );
    assert_eq!(page.get_at("/", &own).0, 404);
    assert_eq!(page.state()["tally"]["kept"], 0);
    let taken = refused(bench.curate(&[]));
    assert!(taken.contains("another `diptych curate`"), "{taken}");
    let beyond = refused(bench.curate(&["--listen", "0.0.0.0:0"]));
    assert!(beyond.contains("--insecure"), "{beyond}");
}

#[test]
fn candidates_are_listed_and_kept_by_id_without_a_browser() {
    let bench = Bench::new();
    let listed = bench.curate(&["--json"]).output().unwrap();
    let cards: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = open_entry(&json!({ "cards": cards }), "prompt")["id"].clone();
    let ids = bench.folder.path().join("ids.txt");
    fs::write(&ids, format!("{}\n", id.as_str().unwrap())).unwrap();
    let keep = ["--keep", ids.to_str().unwrap()];
    let kept = bench.curate(&keep).output().unwrap();
    let said = String::from_utf8_lossy(&kept.stdout);
    assert!(said.contains("1 prompt and 0 dialogues entered"), "{said}");
    fs::write(&ids, "0123456789abcdef\n").unwrap();
    let unknown = refused(bench.curate(&keep));
    assert!(unknown.contains("0123456789abcdef"), "{unknown}");
}

#[test]
fn a_folder_with_candidates_of_another_ability_is_refused_and_enters_nothing() {
    let bench = Bench::new();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../abilities/plant.toml");
    let plant = bench.folder.path().join("abilities/plant.toml");
    fs::copy(checkout, &plant).unwrap();
    let before = fs::read(&plant).unwrap();
    assert!(bench.curate(&["--json"]).output().unwrap().status.success());
    let other = refused(bench.curate_ability("plant", &["--json"]));
    assert!(
        other.contains("ability `animal`") && other.contains("--out"),
        "{other}"
    );
    assert_eq!(fs::read(&plant).unwrap(), before);
}

/// What a program that refuses its input says.
fn refused(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(2), "{said}");
    said
}
