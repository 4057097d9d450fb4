//! Partitions that repeat each other: what the second one repeats is made anew, by any number of
//! processes and whenever one of them is killed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use dataset::store::{Location, Reader, kill_point};
use futures::TryStreamExt as _;
use proto::dataset::v1::Sample;
use tests::{program, stub_stages};

/// Two partitions, of which the second repeats a prompt and a picture of the first.
const RECIPE: &str = r#"
seed = 3
[synth]
max_attempts = 3
abilities = { animal = 80 }
[synth.gates]
max_duplicate_distance = 4
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_repeats_another_partition_is_made_anew_by_any_number_of_processes() {
    let bench = Bench::open().await;
    let alone = bench.folder.path().join("alone");
    let summary = bench.finished(bench.synth(&alone));
    assert_eq!(summary["accepted"], 80, "{summary}");
    assert_eq!(summary["missing"], 0);
    assert_eq!(summary["repeated"], 2);
    assert_eq!(summary["later_rounds"], 1);
    assert_eq!(summary["rejected"]["across_partitions:repeated_prompt"], 1);
    assert_eq!(
        summary["rejected"]["across_partitions:near_duplicate_image"],
        1
    );
    let expected = Dataset::read(&alone).await;
    let distinct: BTreeSet<&String> = expected.ids.iter().collect();
    assert_eq!((expected.ids.len(), distinct.len()), (80, 80));
    let again: Vec<u32> = expected
        .attempts
        .iter()
        .copied()
        .filter(|&n| n > 0)
        .collect();
    assert_eq!(
        again,
        [2, 1],
        "the two slots went on with their next attempts, one of which repeats the same prompt"
    );
    assert_eq!(summary["made_partitions"], 3);
    assert_eq!(summary["rejected"]["repeated_prompt"], 1);
    let marks = fs::read_dir(alone.join("marks")).unwrap();
    assert_eq!(marks.count(), 3);
    let again = bench.finished(bench.synth(&alone));
    assert_eq!(again["made_partitions"], 0);
    assert_eq!(again["manifest_sha256"], summary["manifest_sha256"]);

    for wait in ["0s", "60s"] {
        let shared = bench.folder.path().join(format!("shared-{wait}"));
        let share = |index: u32| {
            let mut command = bench.synth(&shared);
            command.args(["--shard-index", &index.to_string(), "--shard-count", "3"]);
            command.args(["--wait", wait]);
            command.stdout(Stdio::null()).spawn().unwrap()
        };
        for mut child in [0, 1, 2].map(share) {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(Dataset::read(&shared).await, expected, "--wait {wait}");
        let is_claimed = shared.join("rounds/1.claim").exists();
        assert_eq!(is_claimed, wait != "0s", "who waits leaves it to the first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_rewrites_is_told_of_the_prompt_that_repeated_another_partition() {
    let bench = Bench::open().await;
    let rewriting = RECIPE.replace("max_attempts = 3", "max_attempts = 3\nrewrite = true");
    fs::write(&bench.recipe, rewriting).unwrap();
    let out = bench.folder.path().join("told");
    let summary = bench.finished(bench.synth(&out));
    assert_eq!(summary["accepted"], 80, "{summary}");
    assert!(summary["rejected"]["repeated_prompt"].is_null());
    let attempts = Dataset::read(&out).await.attempts;
    let again: Vec<u32> = attempts.into_iter().filter(|&n| n > 0).collect();
    assert_eq!(again, [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_two_processes_make_is_published_by_one_and_accepted_by_the_other() {
    let bench = Bench::open().await;
    let alone = bench.folder.path().join("alone");
    bench.finished(bench.synth(&alone));
    let expected = Dataset::read(&alone).await;
    // Held when it has found that a comparison is due, and when its own is about to be written.
    for (number, place) in ["compare.before", "round.before"].into_iter().enumerate() {
        let shared = bench.folder.path().join(format!("shared-{number}"));
        let share = |index: u32| {
            let mut command = bench.synth(&shared);
            command.args(["--shard-index", &index.to_string(), "--shard-count", "2"]);
            command
        };
        bench.finished(share(0));
        let pipe = Pipe::create(bench.folder.path().join(format!("pipe-{number}")));
        let mut held = share(1);
        held.env(
            kill_point::HOLD_VARIABLE,
            format!("{place}:1:{}", pipe.path.display()),
        );
        let held = held.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let writing = pipe.wait_for_reader();
        assert!(!shared.join("rounds/1.json").exists());
        let export = |name: &str, partial: &[&str]| {
            let mut command = program("diptych");
            command.arg("export").arg(&shared).args(partial);
            command.args(["--format", "llava", "--out"]);
            let ended = command.arg(bench.folder.path().join(name)).output();
            ended.unwrap().status.code()
        };
        let name = format!("exported-{number}");
        assert_eq!(export(&name, &[]), Some(2), "it may hold what repeats");
        assert_eq!(export(&name, &["--allow-partial"]), Some(0));
        let other = bench.finished(share(0));
        assert_eq!(other["later_rounds"], 1, "{other}");
        assert!(shared.join("rounds/2.json").exists());
        drop(writing);
        let ended = held.unwrap().wait_with_output().unwrap();
        let complaint = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "held at {place}: {complaint}");
        assert_eq!(Dataset::read(&shared).await, expected, "held at {place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_is_not_begun_by_other_makers_than_made_the_partitions() {
    let mut bench = Bench::open().await;
    let out = bench.folder.path().join("dataset");
    let mut command = bench.synth(&out);
    command.env(kill_point::VARIABLE, "round.before:1");
    let status = command.stdout(Stdio::null()).status().unwrap();
    assert!(status.signal().is_some());

    let first = bench.address;
    bench.address = stub_stages::serve_repetitions("1").await;
    let refused = bench.synth(&out).output().unwrap();
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("was begun with another"), "{complaint}");
    assert!(!out.join("rounds/1.json").exists());

    bench.address = first;
    assert_eq!(bench.finished(bench.synth(&out))["accepted"], 80);
}

/// A named pipe, at which a process waits.
struct Pipe {
    path: PathBuf,
}

impl Pipe {
    fn create(path: PathBuf) -> Self {
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        Self { path }
    }

    /// Returns when a process waits, which goes on when what this gives is dropped.
    fn wait_for_reader(&self) -> fs::File {
        let path = self.path.clone();
        let (opened, file) = mpsc::channel();
        std::thread::spawn(move || opened.send(fs::File::options().write(true).open(path)));
        let file = file.recv_timeout(Duration::from_secs(60));
        file.expect("nobody has come to the pipe").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_between_two_rounds_ends_in_the_same_dataset() {
    let bench = Bench::open().await;
    let undisturbed = bench.folder.path().join("undisturbed");
    bench.finished(bench.synth(&undisturbed));
    let expected = Dataset::read(&undisturbed).await;
    for kill in [
        "round.before:1",
        "round.after:1",
        "round.before:2",
        "manifest.before:3",
    ] {
        let out = bench.folder.path().join(kill.replace(':', "-"));
        let mut command = bench.synth(&out);
        command.env(kill_point::VARIABLE, kill);
        let status = command.stdout(Stdio::null()).status().unwrap();
        assert!(status.signal().is_some(), "{kill} did not end it");
        bench.finished(bench.synth(&out));
        assert_eq!(Dataset::read(&out).await, expected, "{kill}");
    }
}

/// Stub stages and a recipe.
struct Bench {
    folder: tempfile::TempDir,
    recipe: PathBuf,
    address: SocketAddr,
}

impl Bench {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recipe = folder.path().join("recipe.toml");
        fs::write(&recipe, RECIPE).unwrap();
        Self {
            folder,
            recipe,
            address: stub_stages::serve_repetitions("0").await,
        }
    }

    fn synth(&self, out: &Path) -> Command {
        let names = ["promptgen", "diffusion", "dialogue", "scoring", "embedding"];
        let endpoints = names.map(|name| format!("{name}=http://{}", self.address));
        let mut command = program("diptych");
        command.arg("synth").arg(&self.recipe).arg("--out").arg(out);
        command.args(["--json", "--endpoints", &endpoints.join(",")]);
        command
    }

    fn finished(&self, mut command: Command) -> serde_json::Value {
        let output = command.output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// What a dataset is.
#[derive(Debug, PartialEq)]
struct Dataset {
    manifest_sha256: String,
    ids: Vec<String>,
    attempts: Vec<u32>,
    shards: BTreeSet<String>,
}

impl Dataset {
    async fn read(folder: &Path) -> Self {
        let reader = Location::from(folder).open().unwrap();
        let reader = Reader::open(reader).await.unwrap();
        assert_eq!(reader.missing().count(), 0);
        let samples: Vec<Sample> = reader.samples().try_collect().await.unwrap();
        let shards = fs::read_dir(folder.join("shards")).unwrap();
        let shards = shards.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        Self {
            manifest_sha256: reader.manifest_sha256(),
            attempts: samples.iter().map(|sample| sample.attempt).collect(),
            ids: samples.into_iter().map(|sample| sample.id).collect(),
            shards: shards.filter(|name| !name.contains('#')).collect(),
        }
    }
}
