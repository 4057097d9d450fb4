//! SHA-256 of the files that decide a model's answers.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Error;
use super::shard::map_file;

/// The SHA-256 of a checkpoint folder, in hex: over the sorted relative paths of `files` and the
/// SHA-256 of each, so that a renamed or changed part changes it.
///
/// # Errors
/// [`Error::Read`] for a file that cannot be read.
pub fn checkpoint_sha256(folder: &Path, files: &[PathBuf]) -> Result<String, Error> {
    let mut sorted: Vec<&PathBuf> = files.iter().collect();
    sorted.sort();
    let mut whole = Sha256::new();
    for file in sorted {
        let name = file
            .strip_prefix(folder)
            .unwrap_or(file)
            .to_string_lossy()
            .replace('\\', "/");
        let digest = Sha256::digest(map_file(file)?.as_deref().unwrap_or_default());
        whole.update(format!("{}  {name}\n", hex(&digest)));
    }
    Ok(hex(&whole.finalize()))
}

/// [`checkpoint_sha256`] of the files in `folder` itself that decide a model's answers.
///
/// # Errors
/// [`Error::Read`].
pub fn folder_sha256(folder: &Path) -> Result<String, Error> {
    checkpoint_sha256(folder, &deciding_files(folder)?)
}

/// Configuration, vocabulary and weights in `folder`, not below it.
///
/// # Errors
/// [`Error::Read`].
pub fn deciding_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = |source| Error::Read {
        file: folder.to_path_buf(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let kind = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        if path.is_file() && ["json", "safetensors", "txt"].contains(&kind) {
            files.push(path);
        }
    }
    Ok(files)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
