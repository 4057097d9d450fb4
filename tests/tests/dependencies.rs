//! Who may know whom: the arrows of ARCHITECTURE.md, read from the manifests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{collections::BTreeSet, fs, path::Path};

const SERVICES: [&str; 5] = ["promptgen", "diffusion", "dialogue", "trainer", "eval"];

#[test]
fn no_service_knows_another_service() {
    for service in SERVICES {
        let known = dependencies(&format!("services/{service}"));
        let others: Vec<&&str> = SERVICES
            .iter()
            .filter(|other| known.contains(**other))
            .collect();
        assert!(others.is_empty(), "{service} depends on {others:?}");
        assert!(
            !known.contains("diptych"),
            "{service} depends on the orchestrator"
        );
    }
}

#[test]
fn models_knows_no_network_and_runtime_no_domain() {
    let models = dependencies("crates/models");
    for network in [
        "tonic", "tokio", "redis", "proto", "runtime", "dataset", "hyper",
    ] {
        assert!(!models.contains(network), "models depends on {network}");
    }
    let runtime = dependencies("crates/runtime");
    for domain in [
        "models",
        "dataset",
        "candle-core",
        "candle-transformers",
        "parquet",
    ] {
        assert!(!runtime.contains(domain), "runtime depends on {domain}");
    }
}

#[test]
fn the_store_knows_neither_services_nor_how_they_run() {
    let dataset = dependencies("crates/dataset");
    for above in ["runtime", "models", "tonic", "diptych", "candle-core"] {
        assert!(!dataset.contains(above), "dataset depends on {above}");
    }
    let proto = dependencies("proto");
    for above in ["runtime", "models", "dataset", "tokio"] {
        assert!(!proto.contains(above), "proto depends on {above}");
    }
}

#[test]
fn who_asks_language_models_knows_models_and_how_services_run_and_no_more_of_the_suite() {
    let llm = dependencies("crates/llm");
    for ours in ["proto", "dataset", "diptych", "tonic", "candle-core"]
        .into_iter()
        .chain(SERVICES)
    {
        assert!(!llm.contains(ours), "llm depends on {ours}");
    }
    for below in ["proto", "crates/runtime", "crates/models", "crates/dataset"] {
        assert!(
            !dependencies(below).contains("llm"),
            "{below} depends on llm"
        );
    }
}

#[test]
fn the_orchestrator_knows_services_only_where_they_are_embedded() {
    let manifest = manifest("orchestrator");
    for service in SERVICES {
        let optional = manifest["dependencies"][service]["optional"].as_bool();
        assert_eq!(optional, Some(true), "{service} is not optional");
    }
    assert!(
        !dependencies("orchestrator").contains("models"),
        "the orchestrator computes nothing itself"
    );
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../orchestrator/src");
    for (path, text) in rust_files(&sources) {
        if path.ends_with("embedded.rs") {
            continue;
        }
        for service in SERVICES {
            let named = text.lines().any(|line| {
                let line = line.trim_start();
                line.starts_with(&format!("use {service}::"))
                    || line.contains(&format!(" {service}::start("))
            });
            assert!(!named, "{path} reaches into {service}");
        }
    }
}

fn rust_files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((
                path.display().to_string(),
                fs::read_to_string(&path).unwrap(),
            ));
        }
    }
    found
}

/// Names of what a crate is built from; what only its tests use is no arrow.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let manifest = manifest(folder);
    let table = manifest["dependencies"]
        .as_table()
        .expect("a table of dependencies");
    assert!(!table.is_empty());
    table.keys().cloned().collect()
}

fn manifest(folder: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder)
        .join("Cargo.toml");
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .parse()
        .unwrap()
}
