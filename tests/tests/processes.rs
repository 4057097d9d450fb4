//! Six processes: five services and the client, as on five machines with one shared folder.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use tests::{Receiver, Redis, Service, Span, finished, program, wait_for_first_partition};

const SERVICES: [&str; 5] = ["promptgen", "diffusion", "dialogue", "trainer", "eval"];

/// A whole experiment in its smallest size.
const RECIPE: &str = r#"
name = "smallest"
seed = 11
[synth]
abilities = { animal = 3, color = 3 }
[synth.image]
steps = 3
[synth.gates]
min_alignment_lead = -2.0
dialogue_agrees = true
[train]
baseline_steps = 1
align = { steps = 1, batch_size = 4, learning_rate = 1e-3 }
instruct = { steps = 2, batch_size = 4, learning_rate = 1e-3 }
[eval]
questions_per_ability = 2
generated_images_per_ability = 4
resamples = 100
"#;

#[tokio::test(flavor = "multi_thread")]
async fn six_processes_make_one_trace() {
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    fs::write(&recipe, RECIPE).unwrap();
    let services = SERVICES.map(|name| start(name, folder.path(), &receiver.endpoint(), None));
    run(&services, &recipe, folder.path(), &receiver.endpoint());
    // A service sends its last spans when it drains.
    services.into_iter().for_each(Service::stop);

    let spans = receiver.spans();
    let root = spans
        .iter()
        .find(|span| span.name == "diptych run")
        .expect("the client's own span");
    assert!(root.parent_id.is_empty(), "the client's span has a parent");
    let ours: Vec<&Span> = spans
        .iter()
        .filter(|span| span.trace_id == root.trace_id)
        .collect();
    let names: BTreeSet<&str> = ours.iter().map(|span| span.service.as_str()).collect();
    assert_eq!(
        names,
        BTreeSet::from([
            "orchestrator",
            "promptgen",
            "diffusion",
            "dialogue",
            "trainer",
            "eval"
        ])
    );
    let known: BTreeSet<&[u8]> = ours.iter().map(|span| span.span_id.as_slice()).collect();
    for span in &ours {
        let rooted = span.span_id == root.span_id || known.contains(span.parent_id.as_slice());
        assert!(
            rooted,
            "{} of {} has no parent in the trace",
            span.name, span.service
        );
    }
    for service in SERVICES {
        let call = ours
            .iter()
            .find(|span| span.service == service && span.name.starts_with("diptych."));
        let call = call.unwrap_or_else(|| panic!("{service} has no span of a call"));
        let parent = ours
            .iter()
            .find(|span| span.span_id == call.parent_id)
            .unwrap();
        assert_eq!(
            parent.service, "orchestrator",
            "the call to {service} hangs under {}",
            parent.name
        );
    }
    let strangers: Vec<&Span> = spans
        .iter()
        .filter(|span| span.name.contains("h2") || span.name.contains("hyper"))
        .collect();
    assert!(
        strangers.is_empty(),
        "spans of the transport leaked: {strangers:?}"
    );
}

/// Two partitions, made at the same time, one of a single sample and one of many steps: whoever
/// disturbs the run when the first is committed finds the other's pictures under way.
const SYNTHESIS: &str = r#"
name = "disturbed"
seed = 13
[synth]
abilities = { abnormal = 1, animal = 64 }
[synth.image]
steps = 20
[synth.gates]
min_alignment_lead = -2.0
dialogue_agrees = true
"#;

#[test]
fn a_run_goes_on_when_redis_is_killed_midway() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = Redis::start();
    let services = SERVICES.map(|name| start(name, folder.path(), "", Some(&redis.url())));
    let mut disturbed = Synthesis::start(&folder.path().join("disturbed"), &services);
    disturbed.wait_for_first_partition();
    assert!(redis.key_count() > 0, "nothing was cached in Redis");
    redis.kill();
    let disturbed = disturbed.summary();
    assert_eq!(disturbed["accepted"], 65);

    let without = Synthesis::start(&folder.path().join("without"), &services).summary();
    assert_eq!(without["manifest_sha256"], disturbed["manifest_sha256"]);
}

#[test]
fn a_run_goes_on_when_diffusion_is_killed_midway_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut services = SERVICES.map(|name| start(name, folder.path(), "", None));
    let mut disturbed = Synthesis::start(&folder.path().join("disturbed"), &services);
    disturbed.wait_for_first_partition();
    let diffusion = SERVICES.iter().position(|&name| name == "diffusion");
    services[diffusion.unwrap()].kill_and_restart();
    let disturbed = disturbed.summary();
    assert_eq!(disturbed["accepted"], 65);

    let undisturbed = Synthesis::start(&folder.path().join("undisturbed"), &services).summary();
    assert_eq!(undisturbed["manifest_sha256"], disturbed["manifest_sha256"]);
}

/// A synthesis under way, whose services may be taken from it.
struct Synthesis {
    child: Child,
    out: PathBuf,
}

impl Synthesis {
    fn start(out: &Path, services: &[Service]) -> Self {
        let recipe = out.with_extension("toml");
        fs::write(&recipe, SYNTHESIS).unwrap();
        let mut command = program("diptych");
        command.arg("synth").arg(recipe).arg("--out").arg(out);
        command.args(["--json", "--endpoints", &endpoints(services)]);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = out.to_owned();
        Self { child, out }
    }

    fn wait_for_first_partition(&mut self) {
        wait_for_first_partition(&mut self.child, &self.out);
    }

    /// What it says at its end.
    fn summary(self) -> serde_json::Value {
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "it ended with {}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn start(name: &str, shared: &Path, otlp_endpoint: &str, redis_url: Option<&str>) -> Service {
    Service::start(name, |command| {
        command
            .env("DIPTYCH_ARTEFACT_ROOTS", shared)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", otlp_endpoint);
        if let Some(url) = redis_url {
            command.env("REDIS_URL", url);
        }
    })
}

fn endpoints(services: &[Service]) -> String {
    services
        .iter()
        .map(Service::named_endpoint)
        .collect::<Vec<_>>()
        .join(",")
}

fn run(services: &[Service], recipe: &Path, shared: &Path, otlp_endpoint: &str) {
    let mut command = program("diptych");
    command
        .arg("run")
        .arg(recipe)
        .arg("--out")
        .arg(shared.join("run"));
    command
        .args(["--endpoints", &endpoints(services)])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", otlp_endpoint);
    finished(command);
}
