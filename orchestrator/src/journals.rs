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
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{files, suite::JOURNALS};

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
    let list = folder.join(format!("{name}{LIST}"));
    if !others.is_empty() {
        return files::write(&list, (others.join("\n") + "\n").as_bytes());
    }
    match fs::remove_file(&list) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", list.display()))
        }
        _ => Ok(()),
    }
}

/// Ending of the name of a list of journals.
const LIST: &str = ".beside";

/// Takes away a share's folder of journals where none of them holds an answer, and the folder of all where
/// it is empty then. Journals are opened before anything is asked: one without an answer is nothing yet.
pub(crate) fn remove_empty(folder: &Path) {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let files: Vec<fs::DirEntry> = files.collect();
    let is_list = |file: &fs::DirEntry| file.file_name().to_string_lossy().ends_with(LIST);
    let is_empty = |file: &fs::DirEntry| file.metadata().is_ok_and(|file| file.len() == 0);
    if !files.iter().all(|file| is_list(file) || is_empty(file)) {
        return;
    }
    for file in files {
        // What cannot be taken away is found by the next command, and harms none.
        let _ = fs::remove_file(file.path());
    }
    // Only empty folders can be removed so.
    let _ = fs::remove_dir(folder);
    if let Some(all) = folder.parent().filter(|all| all.ends_with(JOURNALS)) {
        let _ = fs::remove_dir(all);
    }
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
    for entry in fs::read_dir(all)? {
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn journals_without_an_answer_go_with_their_folders_and_no_others() {
        let dataset = tempfile::tempdir().unwrap();
        let (own, other) = (folder(dataset.path(), 0, 2), folder(dataset.path(), 1, 2));
        for folder in [&own, &other] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("dialogue.jsonl"), "").unwrap();
        }
        name_others(&own, "dialogue.jsonl").unwrap();
        remove_empty(&own);
        assert!(!own.exists() && other.join("dialogue.jsonl").exists());
        fs::write(other.join("promptgen.jsonl"), "an answer").unwrap();
        remove_empty(&other);
        assert_eq!(fs::read_dir(&other).unwrap().count(), 2);
        fs::remove_file(other.join("promptgen.jsonl")).unwrap();
        remove_empty(&other);
        assert_eq!(fs::read_dir(dataset.path()).unwrap().count(), 0);
    }
}
