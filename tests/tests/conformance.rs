//! The suite's own services keep the contract that others are held against.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use tests::{Service, program};

/// Each service with what is judged at its endpoint.
const SERVICES: [(&str, &[&str]); 5] = [
    ("promptgen", &["promptgen", "text-embedding"]),
    ("diffusion", &["diffusion", "image-scoring"]),
    ("dialogue", &["dialogue"]),
    ("trainer", &["trainer"]),
    ("eval", &["eval"]),
];

#[test]
fn our_own_services_keep_every_rule() {
    let folder = tempfile::tempdir().unwrap();
    for (name, subjects) in SERVICES {
        let service = Service::start(name, |command| {
            command.env("DIPTYCH_ARTEFACT_ROOTS", folder.path());
        });
        for subject in subjects {
            let mut command = program("diptych");
            command.args(["conformance", "--json", "--service", subject]);
            command
                .args(["--endpoint", &service.endpoint(), "--folder"])
                .arg(folder.path());
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let report: serde_json::Value = serde_json::from_str(&said).unwrap();
            let broken = (&report["broken"], &report["advised"]);
            assert_eq!(broken, (&0.into(), &0.into()), "{subject}: {said}");
            assert!(
                output.status.success() && report["kept"].as_u64().unwrap() > 8,
                "{subject}: {said}"
            );
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.iter().all(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        !name.to_string_lossy().starts_with("conformance-")
    }));
}

#[test]
fn an_endpoint_where_nobody_listens_is_bad_usage() {
    let mut command = program("diptych");
    command.args([
        "conformance",
        "--service",
        "eval",
        "--endpoint",
        "http://127.0.0.1:9",
    ]);
    assert_eq!(command.output().unwrap().status.code(), Some(2));
}
