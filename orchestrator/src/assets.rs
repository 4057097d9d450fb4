//! Where built-in models, abilities and recipes lie.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};

use crate::bad_input::BadInput;

/// The folder that holds `abilities/`, `models/` and `recipes/`.
#[derive(Debug, Clone)]
pub struct Assets {
    root: PathBuf,
}

impl Assets {
    /// Takes the given folder, else the checkout that this program was built from.
    ///
    /// # Errors
    /// The folder holds no abilities.
    pub fn find(given: Option<&Path>) -> Result<Self> {
        let root = given.map_or_else(built_from, Path::to_path_buf);
        ensure!(
            root.join("abilities").is_dir(),
            "no folder `abilities` in {}; say where the assets are with --assets or DIPTYCH_ASSETS",
            root.display()
        );
        Ok(Self { root })
    }

    /// The built-in base data, where it really lies: a packaged tree may link to it.
    pub fn base_data(&self) -> PathBuf {
        let folder = self.root.join("models/nano/base");
        folder.canonicalize().unwrap_or(folder)
    }

    /// Folder of an evaluation set: a built-in one, or the folder that `name` is.
    ///
    /// # Errors
    /// A built-in name that is none; the known one is told.
    pub fn benchmark(&self, name: &str) -> Result<PathBuf> {
        match name {
            BUILTIN_BENCHMARK => Ok(self.root.join("models/nano/bench-real")),
            unknown if unknown.starts_with("builtin:") => {
                let unknown = anyhow!(
                    "there is no built-in evaluation set `{unknown}`, only {BUILTIN_BENCHMARK}"
                );
                Err(unknown.context(BadInput))
            }
            folder => Ok(PathBuf::from(folder)),
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Pictures by another artist, and the questions about them.
const BUILTIN_BENCHMARK: &str = "builtin:nano-real";

fn built_from() -> PathBuf {
    // The orchestrator lies one folder below the root of the checkout.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_path_buf()
}
