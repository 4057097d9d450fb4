//! The file of an ability, written into as a careful person would: comments, order and spacing stay,
//! nothing stands there twice, and what the suite would not load never replaces what it does.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use dataset::ability::Ability;
use proto::dataset::v1::Ability as Told;
use serde::Serialize;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value};

use super::{Counts, Entry};
use crate::{assets::Assets, bad_input::BadInput, files};

/// How often a file may be replaced by others while this one takes hold of it.
const MAX_LOCK_ATTEMPTS: usize = 8;

/// One ability's file.
#[derive(Debug)]
pub(crate) struct AbilityFile {
    ability: String,
    path: PathBuf,
}

/// Another process writes into the file at this moment.
#[derive(Debug, thiserror::Error)]
#[error("another `diptych curate` is writing {path}; save again")]
pub(crate) struct Taken {
    path: String,
}

/// The examples of a file.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Held {
    /// `prompt_examples`.
    pub(crate) prompts: Vec<Entry>,
    /// `[[dialogue_examples]]`.
    pub(crate) dialogues: Vec<Entry>,
}

impl Held {
    /// Whether an example like this one stands there.
    pub(crate) fn contains(&self, entry: &Entry) -> bool {
        let all = match entry {
            Entry::Prompt { .. } => &self.prompts,
            Entry::Dialogue { .. } => &self.dialogues,
        };
        all.iter().any(|held| held.is_like(entry))
    }

    fn of(ability: &Ability) -> Self {
        let told = Told::from(ability);
        let prompts = told.prompt_examples.into_iter();
        let dialogues = told.dialogue_examples.into_iter();
        Self {
            prompts: prompts.map(|text| Entry::Prompt { text }).collect(),
            dialogues: dialogues
                .map(|example| Entry::Dialogue {
                    prompt: example.prompt,
                    question: example.question,
                    answer: example.answer,
                })
                .collect(),
        }
    }
}

impl AbilityFile {
    /// Finds the file of an ability by its name.
    ///
    /// # Errors
    /// There is none; the known names are listed.
    pub(crate) fn find(assets: &Assets, ability: &str) -> Result<Self> {
        let folder = assets.root().join("abilities");
        let known = names(&folder)?;
        if !known.iter().any(|name| name == ability) {
            let unknown = anyhow!(
                "there is no ability `{ability}` in {}; there are {}",
                folder.display(),
                known.join(", ")
            );
            return Err(unknown.context(BadInput));
        }
        // A link is followed, so that the file and not the link is replaced.
        let path = folder.join(format!("{ability}.toml"));
        Ok(Self {
            ability: ability.to_owned(),
            path: path.canonicalize().unwrap_or(path),
        })
    }

    /// The ability's name.
    pub(crate) fn ability(&self) -> &str {
        &self.ability
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What stands in it now.
    ///
    /// # Errors
    /// It cannot be read, or is no ability's file: key and line are named.
    pub(crate) fn held(&self) -> Result<Held> {
        Ok(Held::of(&self.load(&self.read()?)?))
    }

    /// Enters what does not stand there yet, in order, and counts it.
    ///
    /// # Errors
    /// As [`held`](Self::held), before and after; [`Taken`]; or the file cannot be written. It is then
    /// as it was.
    pub(crate) fn enter(&self, entries: &[Entry]) -> Result<Counts> {
        // What is read now is what others have entered until now, and nobody enters until it is
        // replaced.
        let _lock = self.lock()?;
        let text = self.read()?;
        let mut held = Held::of(&self.load(&text)?);
        let mut document: DocumentMut = text
            .parse()
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        let mut counts = Counts::default();
        for entry in entries {
            if held.contains(entry) {
                continue;
            }
            match entry {
                Entry::Prompt { text } => {
                    add_prompt(&mut document, text).with_context(|| self.key("prompt_examples"))?;
                    counts.prompts += 1;
                    held.prompts.push(entry.clone());
                }
                Entry::Dialogue { .. } => {
                    add_dialogue(&mut document, entry)
                        .with_context(|| self.key("dialogue_examples"))?;
                    counts.dialogues += 1;
                    held.dialogues.push(entry.clone());
                }
            }
        }
        if counts != Counts::default() {
            self.replace(&document.to_string())?;
        }
        Ok(counts)
    }

    /// The right to replace the file, until the handle is dropped. The file itself bears the lock, and is
    /// another one after each replacement: one that was replaced before it was locked gives no right.
    fn lock(&self) -> Result<fs::File> {
        let path = self.path.display();
        for _ in 0..MAX_LOCK_ATTEMPTS {
            // Network file systems lock for writing only what was opened for it.
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(&self.path)
                .with_context(|| format!("cannot write {path}"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => break,
                Err(fs::TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {path}"));
                }
            }
            let is_same = || -> std::io::Result<bool> {
                let (locked, named) = (file.metadata()?, fs::metadata(&self.path)?);
                Ok((locked.dev(), locked.ino()) == (named.dev(), named.ino()))
            };
            if is_same().with_context(|| format!("cannot read {path}"))? {
                return Ok(file);
            }
        }
        let path = path.to_string();
        Err(anyhow::Error::new(Taken { path }))
    }

    fn replace(&self, text: &str) -> Result<()> {
        self.load(text)
            .context("the file would not load any more, and stays as it was")?;
        let permissions = fs::metadata(&self.path).map(|file| file.permissions());
        files::write(&self.path, text.as_bytes())?;
        let kept = permissions.and_then(|permissions| fs::set_permissions(&self.path, permissions));
        kept.with_context(|| format!("cannot keep the permissions of {}", self.path.display()))
    }

    fn read(&self) -> Result<String> {
        fs::read_to_string(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))
    }

    fn load(&self, text: &str) -> Result<Ability> {
        Ability::from_text(&self.path, text)
            .map_err(|error| anyhow::Error::new(error).context(BadInput))
    }

    fn key(&self, key: &str) -> String {
        format!(
            "cannot enter examples under `{key}` of {}",
            self.path.display()
        )
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()));
    let mut names = Vec::new();
    for entry in entries? {
        let path = entry?.path();
        let is_toml = path
            .extension()
            .is_some_and(|extension| extension == "toml");
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        names.extend(
            stem.filter(|stem| is_toml && *stem != "shared")
                .map(str::to_owned),
        );
    }
    names.sort();
    Ok(names)
}

fn add_prompt(document: &mut DocumentMut, text: &str) -> Result<()> {
    let list = document
        .get_mut("prompt_examples")
        .and_then(Item::as_array_mut);
    append(list.context("it is no list")?, Value::from(text));
    Ok(())
}

fn add_dialogue(document: &mut DocumentMut, entry: &Entry) -> Result<()> {
    let pairs = ["prompt", "question", "answer"]
        .into_iter()
        .zip(entry.texts());
    match document.get_mut("dialogue_examples") {
        Some(Item::ArrayOfTables(tables)) => {
            let mut table = Table::new();
            for (key, text) in pairs {
                table.insert(key, toml_edit::value(text));
            }
            table.decor_mut().set_prefix("\n");
            tables.push(table);
            Ok(())
        }
        Some(Item::Value(Value::Array(list))) => {
            let table: InlineTable = pairs.map(|(key, text)| (key, Value::from(text))).collect();
            append(list, Value::from(table));
            Ok(())
        }
        _ => Err(anyhow!("it is neither `[[dialogue_examples]]` nor a list")),
    }
}

/// Adds a value as the last one stands: on a line of its own where that does. A comment behind the
/// last value stays behind it.
fn append(list: &mut Array, mut value: Value) {
    let line = line_prefix(list);
    if !list.trailing_comma() {
        let last = list.len().saturating_sub(1);
        if let Some(last) = list.get_mut(last) {
            let suffix = raw(last.decor().suffix());
            last.decor_mut().set_suffix("");
            list.set_trailing(suffix);
        }
    }
    let trailing = raw(Some(list.trailing()));
    match line {
        Some(line) => {
            let (comment, rest) = trailing.rsplit_once('\n').unwrap_or((&trailing, ""));
            value.decor_mut().set_prefix(format!("{comment}{line}"));
            list.set_trailing(format!("\n{rest}"));
            list.set_trailing_comma(true);
        }
        None if list.is_empty() => value.decor_mut().set_prefix(""),
        None => value.decor_mut().set_prefix(" "),
    }
    list.push_formatted(value);
}

/// Line break and indentation of the last value; none where the list stands on one line.
fn line_prefix(list: &Array) -> Option<String> {
    let last = list.get(list.len().checked_sub(1)?)?;
    let prefix = raw(last.decor().prefix());
    let (_, indentation) = prefix.rsplit_once('\n')?;
    Some(format!("\n{indentation}"))
}

fn raw(text: Option<&toml_edit::RawString>) -> String {
    let text = text.and_then(toml_edit::RawString::as_str);
    text.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(text: &str, add: &str) -> String {
        let mut document: DocumentMut = text.parse().unwrap();
        add_prompt(&mut document, add).unwrap();
        document.to_string()
    }

    #[test]
    fn a_list_grows_in_its_own_style_and_comments_stay_with_their_lines() {
        for (before, after) in [
            (
                "prompt_examples = [\n  \"a\",\n  \"b\", # why\n]\n",
                "prompt_examples = [\n  \"a\",\n  \"b\", # why\n  \"c\",\n]\n",
            ),
            (
                "prompt_examples = [\n  # first\n  \"a\"\n]\nx = 1 # one\n",
                "prompt_examples = [\n  # first\n  \"a\",\n  \"c\",\n]\nx = 1 # one\n",
            ),
            (
                "prompt_examples = [\"a\", \"b\"]\n",
                "prompt_examples = [\"a\", \"b\", \"c\"]\n",
            ),
        ] {
            assert_eq!(appended(before, "c"), after);
        }
    }
}
