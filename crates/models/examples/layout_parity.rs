//! How far checkpoints are from what diffusers gives for them, in one table.
//!
//! ```text
//! cd crates/models/tests/fixtures && python make_layouts.py --full --out DIR sd15
//! cargo run --release -p models --example layout_parity -- DIR/sd15
//! ```
//! Without a folder, the small ones of the tests. Fails when a bound is broken.

#![allow(clippy::print_stdout, reason = "a table is what it is for")]

#[path = "../tests/layouts/compare.rs"]
mod compare;

use std::path::{Path, PathBuf};

fn main() -> anyhow::Result<()> {
    models::threads::init();
    let mut folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if folders.is_empty() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/layouts");
        for entry in std::fs::read_dir(fixtures)? {
            folders.push(entry?.path());
        }
        folders.sort();
    }
    let mut broken = 0;
    println!("| checkpoint | part | difference | at most |\n|---|---|---|---|");
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().display().to_string();
        for row in compare::compare(&folder)? {
            println!(
                "| {name} | {} | {:.1e} | {:.0e} |",
                row.what, row.error, row.bound
            );
            broken += usize::from(row.error.is_nan() || row.error > row.bound);
        }
    }
    anyhow::ensure!(broken == 0, "{broken} bounds are broken");
    Ok(())
}
