//! A Llama of random weights in the layout of transformers, from the fixtures of `models`. The tests of
//! services take this file in by its path: it is nobody's interface.

use std::path::{Path, PathBuf};

/// The fixture itself: 640 positions, less than any question of the services needs.
pub(crate) fn narrow() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("crates/models/tests/fixtures/language_models/llama"))
        .find(|folder| folder.is_dir())
        .expect("the fixtures of `models`")
}

/// The same weights with room for so many positions: rotations have no end.
pub(crate) fn wide(positions: usize) -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix("tiny-llama-")
        .tempdir()
        .expect("a folder");
    for entry in std::fs::read_dir(narrow()).expect("the fixture") {
        let entry = entry.expect("a file");
        let copy = folder.path().join(entry.file_name());
        std::fs::copy(entry.path(), copy).expect("a copy");
    }
    let file = folder.path().join("config.json");
    let text = std::fs::read(&file).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    config["max_position_embeddings"] = positions.into();
    std::fs::write(&file, config.to_string()).expect("a configuration");
    folder
}
