//! Answers of language models that other processes of the same dataset were given.
//!
//! A journal belongs to one process, and `--shard-count` decides which: after another number of shares
//! an answer lies in a journal that nobody would open. So before a process opens its own, it names the
//! others of its folder in a file beside it, as the journal wants it; their answers are read where they
//! lie. To copy them would make as many copies of all as there are shares.

#![cfg_attr(
    not(feature = "embedded"),
    allow(dead_code, reason = "services elsewhere keep their own journals")
)]

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::suite::JOURNALS;

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

/// Names the journals called `name` of other shares in `<name>.beside`, for the one in `folder`.
///
/// # Errors
/// A folder that cannot be read or written.
pub(crate) fn name_others(folder: &Path, name: &str) -> Result<()> {
    let others = others(folder, name)
        .with_context(|| format!("cannot look for journals beside {}", folder.display()))?;
    let list = folder.join(format!("{name}.beside"));
    write(&list, &others).with_context(|| format!("cannot write {}", list.display()))
}

/// The journals of that name of other shares, seen from `folder`, in the order of their names.
fn others(folder: &Path, name: &str) -> io::Result<Vec<String>> {
    let (all, up, own) = match (folder.parent(), folder.file_name()) {
        (Some(all), Some(own)) if is_share(own) => (all, "../", Some(own)),
        _ => (folder, "", None),
    };
    let mut others = Vec::new();
    if own.is_some() {
        others.push(format!("{up}{name}"));
    }
    for entry in std::fs::read_dir(all)? {
        let share = entry?.file_name();
        if is_share(&share) && own != Some(share.as_os_str()) {
            others.push(format!("{up}{}/{name}", share.to_string_lossy()));
        }
    }
    others.retain(|other| folder.join(other).is_file());
    others.sort();
    Ok(others)
}

fn is_share(folder: &std::ffi::OsStr) -> bool {
    folder.to_str().is_some_and(|name| name.starts_with(SHARE))
}

/// Writes the list whole, or takes it away where it would be empty.
fn write(list: &Path, others: &[String]) -> io::Result<()> {
    if others.is_empty() {
        return match std::fs::remove_file(list) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let staged = list.with_extension("beside-new");
    std::fs::write(&staged, others.join("\n") + "\n")?;
    std::fs::rename(&staged, list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_share_names_the_journals_of_the_others_and_nothing_is_copied() {
        let dataset = tempfile::tempdir().unwrap();
        let journal = |index, count, text: &str| {
            let folder = folder(dataset.path(), index, count);
            fs::create_dir_all(&folder).unwrap();
            if !text.is_empty() {
                fs::write(folder.join("dialogue.jsonl"), text).unwrap();
            }
            folder
        };
        let named = |folder: &Path| {
            name_others(folder, "dialogue.jsonl").unwrap();
            let list = fs::read_to_string(folder.join("dialogue.jsonl.beside"));
            list.map(|list| list.lines().map(str::to_owned).collect::<Vec<_>>())
        };
        let first = journal(0, 3, "a");
        assert!(named(&first).is_err(), "there is no other");
        journal(2, 3, "c");
        let own = journal(0, 1, "b");
        for _ in 0..2 {
            assert_eq!(
                named(&own).unwrap(),
                ["shard-0/dialogue.jsonl", "shard-2/dialogue.jsonl"]
            );
        }
        let new = journal(1, 2, "");
        let others = named(&new).unwrap();
        assert_eq!(
            others,
            [
                "../dialogue.jsonl",
                "../shard-0/dialogue.jsonl",
                "../shard-2/dialogue.jsonl"
            ]
        );
        assert!(others.iter().all(|other| new.join(other).is_file()));
        assert_eq!(fs::read_to_string(own.join("dialogue.jsonl")).unwrap(), "b");
    }
}
