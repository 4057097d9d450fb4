//! Answers that were paid for, kept before they are used.
//!
//! A file of JSON lines, each with its key and the whole answer; every line is synced before the
//! answer is handed on. So a run that is killed at any moment asks again only what it had not yet
//! been answered. A last line that was not written to its end, and so has none, is dropped on opening;
//! damage anywhere else, in a last line that is whole too, is an error: no torn write leaves that, and
//! the answer would be asked, and paid, again without a word.
//!
//! A file `<journal>.beside` names other journals, a path in each line, seen from the journal's folder.
//! Their answers are found too, where they lie: they are read when the journal is opened, and read on
//! where it holds no answer itself, since their owners may be writing; they are neither copied nor locked
//! nor written. Damage in one of them is an error as well.

mod beside;

use std::{
    collections::HashMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use beside::Other;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Client, Error, ask::Ask, completion::Completion, message::Chat};

/// Longest line that is read, in bytes: far above the largest answer.
const MAX_LINE_BYTES: u64 = 256 << 20;

/// A journal of answers. Clones share the file; one process at a time has it open.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Journals beside it.
    others: Vec<Other>,
    /// Where the next line goes.
    end: u64,
    /// Where the line of an answer lies. The answers themselves stay in the file.
    places: HashMap<Name, Place>,
    /// A line was half written and could not be taken back.
    is_broken: bool,
}

/// Hears of the places that an answer passes: `journal.before` and `journal.after` its line is on the
/// disk. For programs that are tested by ending them there.
pub type Passage = fn(&'static str);

static PASSAGE: OnceLock<Passage> = OnceLock::new();

/// Sets who hears of all journals of this process; a second call changes nothing.
pub fn on_passage(passage: Passage) {
    PASSAGE.get_or_init(|| passage);
}

fn pass(place: &'static str) {
    if let Some(passage) = PASSAGE.get() {
        passage(place);
    }
}

/// Hash of a key and a request.
type Name = [u8; 32];

#[derive(Debug, Clone, Copy)]
struct Place {
    /// Number of the journal beside this one; none for its own file.
    other: Option<usize>,
    offset: u64,
    length_bytes: usize,
}

#[derive(Serialize)]
struct NewLine<'a> {
    key: &'a str,
    answer: &'a Completion,
}

#[derive(Deserialize)]
struct Line {
    key: String,
    answer: Completion,
}

impl Journal {
    /// Opens the journal at `path`, or makes it.
    ///
    /// # Errors
    /// A file that cannot be opened, that another process has open, or that is damaged; the file and
    /// the line are named.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        blocking(move || {
            let state = open(&path)?;
            let state = Mutex::new(state);
            Ok(Self(Arc::new(Inner { path, state })))
        })
        .await
    }

    /// Answers in the journal and in those beside it.
    pub fn len(&self) -> usize {
        self.0.lock().places.len()
    }

    /// Whether it holds no answer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The answer to the request with the hash `request_sha256` that was kept under `key`.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub async fn get(&self, key: &str, request_sha256: &str) -> Result<Option<Completion>, Error> {
        let inner = Arc::clone(&self.0);
        let name = name(key, request_sha256);
        blocking(move || inner.get(&name)).await
    }

    /// Keeps an answer under `key`, and gives back what the journal then holds: the answer, or an
    /// earlier one to the same request. Once this returns, the answer is on the disk. It gets there
    /// too when the caller leaves in between.
    ///
    /// # Errors
    /// A disk that is full or broken, a key without a character.
    pub async fn keep(&self, key: &str, answer: Completion) -> Result<Completion, Error> {
        if key.is_empty() {
            let reason = "an answer needs a key: the sample, the attempt and what was asked for";
            return Err(self.0.error(reason));
        }
        let inner = Arc::clone(&self.0);
        let key = key.to_owned();
        blocking(move || inner.keep(&key, answer)).await
    }
}

impl Client {
    /// The client with a journal before it: what is in there under `key` is not asked again, and
    /// what is asked is kept before it is handed on.
    ///
    /// `key` says what the answer is for: the sample's id, its attempt, and the step if there are
    /// several. Two samples never share an answer, even to the same question.
    pub fn journaled<'a>(&'a self, journal: &'a Journal, key: impl Into<String>) -> Journaled<'a> {
        Journaled {
            client: self,
            journal,
            key: key.into(),
        }
    }
}

/// A client that looks into a journal first. See [`Client::journaled`].
#[derive(Debug)]
pub struct Journaled<'a> {
    client: &'a Client,
    journal: &'a Journal,
    key: String,
}

impl Ask for Journaled<'_> {
    async fn ask(&self, chat: &Chat) -> Result<Completion, Error> {
        let request_sha256 = self.client.request_sha256(chat);
        if let Some(kept) = self.journal.get(&self.key, &request_sha256).await? {
            return Ok(kept);
        }
        let answer = self.client.ask(chat).await?;
        self.journal.keep(&self.key, answer).await
    }

    fn max_repairs(&self) -> u32 {
        self.client.max_repairs()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, reason: &str) -> Error {
        error(&self.path, reason)
    }

    fn get(&self, name: &Name) -> Result<Option<Completion>, Error> {
        self.get_in(&mut self.lock(), name)
    }

    fn get_in(&self, state: &mut State, name: &Name) -> Result<Option<Completion>, Error> {
        if let Some(known) = self.known(state, name)? {
            return Ok(Some(known));
        }
        state.read_others()?;
        self.known(state, name)
    }

    fn known(&self, state: &mut State, name: &Name) -> Result<Option<Completion>, Error> {
        let Some(&place) = state.places.get(name) else {
            return Ok(None);
        };
        let other = place.other.and_then(|other| state.others.get(other));
        let answer = match other {
            Some(other) => other.answer(place, name)?,
            None => Some(self.own(&state.file, place)?),
        };
        if answer.is_none() {
            state.places.remove(name);
        }
        Ok(answer.map(|answer| Completion {
            is_replayed: true,
            ..answer
        }))
    }

    fn own(&self, file: &File, place: Place) -> Result<Completion, Error> {
        let mut bytes = vec![0; place.length_bytes];
        let read = file.read_exact_at(&mut bytes, place.offset);
        read.map_err(|error| self.error(&format!("cannot read an answer: {error}")))?;
        let line: Line = serde_json::from_slice(&bytes)
            .map_err(|error| self.error(&format!("an answer is damaged: {error}")))?;
        Ok(line.answer)
    }

    fn keep(&self, key: &str, answer: Completion) -> Result<Completion, Error> {
        let name = name(key, &answer.request_sha256);
        let mut state = self.lock();
        if let Some(earlier) = self.get_in(&mut state, &name)? {
            return Ok(earlier);
        }
        let new = NewLine {
            key,
            answer: &answer,
        };
        let mut line = serde_json::to_vec(&new)
            .map_err(|error| self.error(&format!("cannot write an answer: {error}")))?;
        line.push(b'\n');
        state.append(name, &line).map_err(|error| {
            self.error(&format!(
                "cannot keep an answer: {error}; make room, and run again: nothing kept is asked twice"
            ))
        })?;
        Ok(answer)
    }
}

impl State {
    fn append(&mut self, name: Name, line: &[u8]) -> io::Result<()> {
        if self.is_broken {
            return Err(io::Error::other("an earlier line could not be taken back"));
        }
        pass("journal.before");
        let written = self.file.write_all_at(line, self.end);
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            self.is_broken = self.file.set_len(self.end).is_err();
            return Err(error);
        }
        pass("journal.after");
        let place = Place {
            other: None,
            offset: self.end,
            length_bytes: line.len(),
        };
        self.end += line.len() as u64;
        self.places.insert(name, place);
        Ok(())
    }
}

fn open(path: &Path) -> Result<State, Error> {
    let failed = |cause: io::Error| error(path, &format!("cannot be opened: {cause}"));
    let is_new = !path.exists();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let reason = "another process has it open; wait for it, or give each its own journal";
            return Err(error(path, reason));
        }
        Err(TryLockError::Error(cause)) => return Err(failed(cause)),
    }
    if is_new {
        sync_folder(path).map_err(failed)?;
    }
    let mut state = State {
        file,
        others: Vec::new(),
        end: 0,
        places: HashMap::new(),
        is_broken: false,
    };
    state.read_lines(path)?;
    state.others = Other::beside(path).map_err(failed)?;
    state.read_others()?;
    Ok(state)
}

impl State {
    /// Finds the lines; drops a last one that is not whole.
    fn read_lines(&mut self, path: &Path) -> Result<(), Error> {
        let failed = |cause: io::Error| error(path, &format!("cannot be read: {cause}"));
        let length = self.file.metadata().map_err(failed)?.len();
        let mut reader = BufReader::new(self.file.try_clone().map_err(failed)?);
        let mut bytes = Vec::new();
        let mut number = 0u64;
        while self.end < length {
            bytes.clear();
            number += 1;
            let mut line = reader.by_ref().take(MAX_LINE_BYTES);
            line.read_until(b'\n', &mut bytes).map_err(failed)?;
            let is_last = self.end + bytes.len() as u64 >= length;
            match read_line(&bytes) {
                Ok(name) => self.found(name, bytes.len()),
                Err(_) if is_last && !bytes.ends_with(b"\n") => {
                    return self.drop_rest(path, length).map_err(failed);
                }
                Err(reason) => {
                    return Err(error(
                        path,
                        &format!(
                            "line {number} is damaged: {reason}; restore the file, or remove that line to ask again"
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Finds what was written into the journals beside since they were read.
    fn read_others(&mut self) -> Result<(), Error> {
        let others = self.others.iter_mut().enumerate();
        for (number, other) in others {
            other.read_on(number, &mut self.places)?;
        }
        Ok(())
    }

    fn found(&mut self, name: Name, length_bytes: usize) {
        let place = Place {
            other: None,
            offset: self.end,
            length_bytes,
        };
        // The first stands: it is the one that was used.
        self.places.entry(name).or_insert(place);
        self.end += length_bytes as u64;
    }

    fn drop_rest(&self, path: &Path, length: u64) -> io::Result<()> {
        let dropped_bytes = length - self.end;
        tracing::warn!(path = %path.display(), dropped_bytes, "the journal's last line was not whole");
        self.file.set_len(self.end)?;
        self.file.sync_data()
    }
}

fn read_line(bytes: &[u8]) -> Result<Name, String> {
    let bytes = bytes.strip_suffix(b"\n").ok_or("it has no end")?;
    let line: Line = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(name(&line.key, &line.answer.request_sha256))
}

/// Keys may hold anything, so the lengths separate them from the request.
fn name(key: &str, request_sha256: &str) -> Name {
    let mut hasher = Sha256::new();
    hasher.update((key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(request_sha256);
    hasher.finalize().into()
}

/// A new file is there for good only when its folder says so.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn error(path: &Path, reason: &str) -> Error {
    Error::Journal {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Runs what waits for the disk where it blocks nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|cause| Err(error(Path::new(""), &format!("its thread ended: {cause}"))))
}
