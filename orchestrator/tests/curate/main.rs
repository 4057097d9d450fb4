//! `diptych curate` as a person and their browser meet it: a real program, real HTTP, a real file.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

mod browser;
mod page;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use browser::Browser;
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
        for name in ["shared.toml", "animal.toml", "one_per_turn.toml"] {
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
            .args(["curate", ability, "--assets"])
            .arg(self.folder.path())
            .arg("--out")
            .arg(self.out())
            .args(
                (!arguments.contains(&"-n"))
                    .then_some(["-n", "3"])
                    .iter()
                    .flatten(),
            )
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
    let complaint: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        (status, &complaint["field"]),
        (400, &json!("entry.text")),
        "{answer}"
    );
    for (body, field) in [
        ("{", "body"),
        (r#"{"id": "0", "verdict": "perhaps"}"#, "body"),
        (r#"{"id": "0", "verdict": "keep"}"#, "id"),
    ] {
        let (status, answer) = page.try_post("decisions", body, &page.own());
        let complaint: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(
            (status, &complaint["field"]),
            (400, &json!(field)),
            "{answer}"
        );
    }
}

#[test]
fn a_file_that_another_process_writes_is_left_alone_and_what_it_wrote_stays() {
    let bench = Bench::new();
    let page = Page::open(bench.curate(&["--kind", "prompts"]));
    page.post(
        "decisions",
        &said(&open_entry(&page.state(), "prompt"), "keep"),
    );
    let before = bench.text();
    let lock = fs::File::open(bench.file()).unwrap();
    lock.lock().unwrap();
    let (status, answer) = page.try_post("save", "{}", &page.own());
    assert_eq!(
        (status, answer.contains("save again")),
        (409, true),
        "{answer}"
    );
    assert_eq!(bench.text(), before);
    // The other one enters an example of its own meanwhile.
    let other = before.replacen(
        "prompt_examples = [",
        "prompt_examples = [\n  \"((yak)), attic\",",
        1,
    );
    fs::write(bench.file(), other).unwrap();
    drop(lock);
    let saved = page.post("save", &json!({}));
    assert_eq!(saved["entered"]["prompts"], 1);
    assert!(bench.text().contains("((yak)), attic"));
    let abilities = fs::read_dir(bench.folder.path().join("abilities")).unwrap();
    assert_eq!(abilities.count(), 3, "something was left beside the files");
}

#[test]
fn a_decision_that_a_later_one_overtook_is_refused_with_what_stands() {
    let bench = Bench::new();
    let page = Page::open(bench.curate(&["--kind", "prompts"]));
    let entry = open_entry(&page.state(), "prompt");
    let at = |verdict: &str, at_ms: f64| {
        let mut said = said(&entry, verdict);
        said["at_ms"] = json!(at_ms);
        said
    };
    page.post("decisions", &at("keep", 2.0));
    let late = at("drop", 1.0).to_string();
    let (status, answer) = page.try_post("decisions", &late, &page.own());
    let complaint: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        (status, &complaint["stands"]["state"]),
        (409, &json!("kept")),
        "{answer}"
    );
    assert_eq!(complaint["stands"]["text"], entry["text"]);
    assert_eq!(page.state()["tally"]["kept"], 1);
    page.post("decisions", &at("drop", 2.0));
    assert_eq!(page.state()["tally"]["dropped"], 1);
}

#[test]
fn the_last_edit_before_a_page_is_left_or_closed_is_written_down() {
    let bench = Bench::new();
    let page = Page::open(bench.curate(&["--kind", "prompts"]));
    let mut browser = Browser::start(bench.folder.path());
    for leaving in ["left", "closed"] {
        let tab = browser.open(&page.url());
        // Kept, edited and left at once: no pause of the page's own has passed.
        let script = format!(
            "new Promise(done => {{
              const look = () => {{
                const row = document.querySelector('.entry[data-state=open]');
                if (!row) return setTimeout(look, 20);
                row.querySelector('.keep').click();
                const area = row.querySelector('textarea');
                area.value = '((fox)), {leaving} in haste';
                area.dispatchEvent(new Event('input', {{ bubbles: true }}));
                done(row.dataset.id);
              }};
              look();
            }})"
        );
        let id = browser.run(&tab, &script);
        match leaving {
            "left" => browser.go(&tab, "about:blank"),
            _ => browser.close(tab),
        }
        let expected = format!("((fox)), {leaving} in haste");
        let started_at = Instant::now();
        loop {
            let state = page.state();
            let cards = state["cards"].as_array().unwrap().iter();
            let mut entries = cards.flat_map(|card| card["entries"].as_array().unwrap());
            let entry = entries.find(|entry| entry["id"] == id).unwrap();
            if entry["text"] == expected.as_str() && entry["state"] == "kept" {
                break;
            }
            assert!(
                started_at.elapsed() < Duration::from_secs(30),
                "the edit is lost: {entry}"
            );
        }
    }
}

#[test]
fn pictures_of_one_sample_are_examples_of_their_own_and_only_the_kind_asked_for_is_entered() {
    let bench = Bench::new();
    let listed = bench.curate_ability("one_per_turn", &["--json"]);
    let cards = json!({ "cards": listed_cards(listed) });
    let first = &cards["cards"][0]["entries"];
    let texts = |kind: &str, key: &str| -> Vec<String> {
        let entries = first.as_array().unwrap().iter();
        let own = entries.filter(|entry| entry["kind"] == kind);
        own.map(|entry| entry[key].as_str().unwrap().to_owned())
            .collect()
    };
    let prompts = texts("prompt", "text");
    assert_eq!(prompts.len(), 3, "{first}");
    assert!(prompts.iter().all(|text| text.matches("((").count() == 1));
    // One picture in each turn, so each round is about its own.
    assert_eq!(texts("dialogue", "prompt"), prompts);

    let ids = bench.folder.path().join("ids.txt");
    let id = |kind| open_entry(&cards, kind)["id"].as_str().unwrap().to_owned();
    fs::write(&ids, id("prompt")).unwrap();
    let keep = ["--keep", ids.to_str().unwrap(), "--kind", "dialogues"];
    let other = refused(bench.curate_ability("one_per_turn", &keep));
    assert!(other.contains(&id("prompt")), "{other}");
    let mut page = Page::open(bench.curate_ability("one_per_turn", &[]));
    for kind in ["prompt", "dialogue"] {
        page.post("decisions", &said(&open_entry(&cards, kind), "keep"));
    }
    page.kill();
    let page = Page::open(bench.curate_ability("one_per_turn", &["--kind", "dialogues"]));
    let saved = page.post("save", &json!({}));
    assert_eq!(saved["entered"], json!({ "prompts": 0, "dialogues": 1 }));
}

#[test]
fn one_candidate_is_found_behind_those_that_the_file_has_already() {
    let bench = Bench::new();
    let cards = listed_cards(bench.curate(&["--json", "--kind", "prompts"]));
    let texts: Vec<String> = cards
        .as_array()
        .unwrap()
        .iter()
        .map(|card| format!("  {},\n", card["prompt"]))
        .collect();
    let start = "prompt_examples = [\n";
    let text = bench
        .text()
        .replacen(start, &format!("{start}{}", texts.concat()), 1);
    fs::write(bench.file(), text).unwrap();
    fs::remove_dir_all(bench.out()).unwrap();
    let one = ["-n", "1", "--json", "--kind", "prompts"];
    let found = listed_cards(bench.curate(&one));
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    assert!(
        !texts
            .concat()
            .contains(found[0]["prompt"].as_str().unwrap())
    );
}

/// What `--json` lists.
fn listed_cards(mut command: Command) -> Value {
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    serde_json::from_slice(&output.stdout).unwrap()
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
