//! Answers of language models that other processes of the same dataset were given.
//!
//! A journal belongs to one process, and `--shard-count` decides which: after another number of shares
//! an answer lies in a journal that nobody would open. So a process takes over what the others of its
//! folder hold before it opens its own. A line is one answer, and is copied as it stands.

#![cfg_attr(
    not(feature = "embedded"),
    allow(dead_code, reason = "services elsewhere keep their own journals")
)]

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use crate::{files::each_whole_line, suite::JOURNALS};

/// Folder of a share's journals; of the only one, the folder of all.
pub(crate) fn folder(dataset: &Path, index: u32, count: u32) -> PathBuf {
    let all = dataset.join(JOURNALS);
    match count {
        1 => all,
        _ => all.join(format!("{SHARE}{index}")),
    }
}

/// What names of folders of shares begin with.
const SHARE: &str = "shard-";

/// Appends to the journal `name` in `folder` what the journals of that name of other shares hold and
/// it lacks. One that another process has open is left alone: to open it will say so.
///
/// # Errors
/// A file that cannot be read or written.
pub(crate) fn take_over(folder: &Path, name: &str) -> Result<()> {
    let own = folder.join(name);
    let others = others(folder, name)?;
    if others.is_empty() {
        return Ok(());
    }
    let taken = append(&own, &others);
    let taken = taken.with_context(|| format!("cannot take over answers in {}", own.display()))?;
    if taken > 0 {
        tracing::info!(taken, journal = %own.display(), "took over answers of other shares");
    }
    Ok(())
}

/// The journals of that name of other shares, in the order of their names.
fn others(folder: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let is_share = |folder: &Path| {
        let name = folder.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(SHARE)
    };
    let all = match folder.parent() {
        Some(parent) if is_share(folder) => parent,
        _ => folder,
    };
    let mut folders = vec![all.to_owned()];
    let entries =
        std::fs::read_dir(all).with_context(|| format!("cannot read {}", all.display()))?;
    for entry in entries {
        let path = entry?.path();
        folders.extend(is_share(&path).then_some(path));
    }
    folders.sort();
    let journals = folders.iter().filter(|other| *other != folder);
    let journals = journals.map(|other| other.join(name));
    Ok(journals.filter(|journal| journal.is_file()).collect())
}

fn append(own: &Path, others: &[PathBuf]) -> io::Result<u64> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(own)?;
    if file.try_lock().is_err() {
        return Ok(0);
    }
    let mut known = HashSet::new();
    let end = each_whole_line(&file, |line| {
        known.insert(hash(line));
        Ok::<_, io::Error>(())
    })?;
    // A last line that was not written to its end was no answer yet.
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    let mut taken = 0;
    for other in others {
        each_whole_line(&File::open(other)?, |line| {
            // A damaged line is the other's to complain of.
            if serde_json::from_slice::<IgnoredAny>(line).is_ok() && known.insert(hash(line)) {
                taken += 1;
                file.write_all(line)?;
            }
            Ok::<_, io::Error>(())
        })?;
    }
    file.sync_all()?;
    Ok(taken)
}

fn hash(line: &[u8]) -> [u8; 32] {
    Sha256::digest(line).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn answers_of_other_shares_are_taken_over_once_and_whole() {
        let dataset = tempfile::tempdir().unwrap();
        let journal = |index, count, text: &str| {
            let folder = folder(dataset.path(), index, count);
            fs::create_dir_all(&folder).unwrap();
            if !text.is_empty() {
                fs::write(folder.join("dialogue.jsonl"), text).unwrap();
            }
            folder
        };
        journal(0, 3, "\"a\"\n\"b\"\n");
        journal(2, 3, "\"c\"\n\"half");
        let own = journal(0, 1, "\"b\"\n\"cut");
        for _ in 0..2 {
            take_over(&own, "dialogue.jsonl").unwrap();
            let text = fs::read_to_string(own.join("dialogue.jsonl")).unwrap();
            assert_eq!(text, "\"b\"\n\"a\"\n\"c\"\n");
        }
        let new = journal(1, 2, "");
        take_over(&new, "dialogue.jsonl").unwrap();
        let text = fs::read_to_string(new.join("dialogue.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 3);
        take_over(&new, "promptgen.jsonl").unwrap();
        assert!(!new.join("promptgen.jsonl").exists());
    }
}
