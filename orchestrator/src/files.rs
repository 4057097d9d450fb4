//! Files that are whole or absent.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde::{Serialize, de::DeserializeOwned};

/// Longest line that is read, in bytes: as long as a journal of answers itself reads.
const MAX_LINE_BYTES: u64 = 256 << 20;

/// Writes a file under a temporary name, makes it durable, and names it.
///
/// # Errors
/// The folder cannot be made or written.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let attempt = || -> std::io::Result<()> {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = fs::File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(folder)?.sync_all()
    };
    attempt().with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a value as indented JSON.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).context("cannot serialize")?;
    text.push(b'\n');
    write(path, &text)
}

/// Reads a JSON file; `None` where there is none.
///
/// # Errors
/// The file exists and cannot be read, or is not what is expected.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => {
            let value = serde_json::from_slice(&bytes);
            value
                .map(Some)
                .with_context(|| format!("{} is damaged", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Reads a file of one JSON object per line; an absent file has no lines.
///
/// # Errors
/// As [`read_json`], with the line.
pub(crate) fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut values = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if !line.trim().is_empty() {
            let value = serde_json::from_str(&line);
            values.push(
                value.with_context(|| format!("{}:{} is damaged", path.display(), number + 1))?,
            );
        }
    }
    Ok(values)
}

/// Shows every line that is whole, with its end, and gives where the last of them ends, in bytes. What
/// is behind was cut short by a kill: nobody was told that it had been written.
///
/// # Errors
/// The file cannot be read, or what `each` says.
pub(crate) fn each_whole_line<E: From<io::Error>>(
    file: &File,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<u64, E> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut end = 0;
    loop {
        line.clear();
        let mut bounded = reader.by_ref().take(MAX_LINE_BYTES);
        bounded.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok(end);
        }
        each(&line)?;
        end += line.len() as u64;
    }
}
