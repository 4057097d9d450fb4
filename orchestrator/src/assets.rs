//! Where built-in models, abilities and recipes lie.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

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
    pub fn benchmark(&self, name: &str) -> PathBuf {
        match name {
            "builtin:nano-real" => self.root.join("models/nano/bench-real"),
            folder => PathBuf::from(folder),
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

fn built_from() -> PathBuf {
    // The orchestrator lies one folder below the root of the checkout.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_path_buf()
}
