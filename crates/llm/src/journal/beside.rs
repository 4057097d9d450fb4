//! A journal beside another: read where it lies, and read on when it has grown. Its file is open only
//! while it is read, so that a hundred shares cost no handle.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{Line, MAX_LINE_BYTES, Name, Place, error, name, read_line};
use crate::{Error, completion::Completion};

/// A journal of another owner.
#[derive(Debug)]
pub(super) struct Other {
    path: PathBuf,
    /// Its length when it was looked at last.
    seen_bytes: u64,
    /// Where the last whole line begins. It is read again with what follows: an owner whose line did not
    /// reach the disk cuts that line back, and the next may be longer.
    last: Position,
}

#[derive(Debug, Clone, Copy, Default)]
struct Position {
    offset: u64,
    /// Lines before it.
    lines: u64,
}

impl Other {
    /// The journals that stand in the list beside the journal at `path`. None is read yet.
    ///
    /// # Errors
    /// A list that is there and cannot be read.
    pub(super) fn beside(path: &Path) -> io::Result<Vec<Self>> {
        let mut list = path.as_os_str().to_owned();
        list.push(LIST);
        let folder = path.parent().unwrap_or(Path::new(""));
        let other = |name: &str| Self {
            path: folder.join(name),
            seen_bytes: 0,
            last: Position::default(),
        };
        match std::fs::read_to_string(list) {
            Ok(names) => Ok(names.lines().map(other).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Finds the whole lines that were written since the last look, for the journal that this is the
    /// `number`-th beside. A last one without its end is somebody's who is still writing.
    ///
    /// # Errors
    /// A file that cannot be read; a line that is damaged or too long, with its number: to pass it over
    /// would be to pay for its answer again.
    pub(super) fn read_on(
        &mut self,
        number: usize,
        places: &mut HashMap<Name, Place>,
    ) -> Result<(), Error> {
        let length = std::fs::metadata(&self.path).map_err(|cause| self.unreadable(&cause))?;
        let length = length.len();
        if length == self.seen_bytes {
            return Ok(());
        }
        if length < self.last.offset {
            // Another file stands in its place.
            places.retain(|_, place| place.other != Some(number));
            self.last = Position::default();
        }
        self.read_from_last(number, places)?;
        self.seen_bytes = length;
        Ok(())
    }

    fn read_from_last(
        &mut self,
        number: usize,
        places: &mut HashMap<Name, Place>,
    ) -> Result<(), Error> {
        let unreadable = |cause: io::Error| self.unreadable(&cause);
        let mut file = File::open(&self.path).map_err(unreadable)?;
        file.seek(SeekFrom::Start(self.last.offset))
            .map_err(unreadable)?;
        let mut reader = BufReader::new(file);
        let (mut bytes, mut at) = (Vec::new(), self.last);
        loop {
            bytes.clear();
            let mut line = reader.by_ref().take(MAX_LINE_BYTES);
            let read = line.read_until(b'\n', &mut bytes);
            read.map_err(|cause| self.unreadable(&cause))?;
            let is_cut = (bytes.len() as u64) < MAX_LINE_BYTES;
            if is_cut && !bytes.ends_with(b"\n") {
                return Ok(());
            }
            let found = read_line(&bytes).map_err(|reason| self.damaged(at.lines + 1, &reason))?;
            // What was found before stands, the journal's own first of all.
            places.entry(found).or_insert(Place {
                other: Some(number),
                offset: at.offset,
                length_bytes: bytes.len(),
            });
            self.last = at;
            at.offset += bytes.len() as u64;
            at.lines += 1;
        }
    }

    /// The answer at a place; `None` where its owner took the line back, and another may stand there.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub(super) fn answer(&self, place: Place, wanted: &Name) -> Result<Option<Completion>, Error> {
        let mut bytes = vec![0; place.length_bytes];
        let file = File::open(&self.path).map_err(|cause| self.unreadable(&cause))?;
        match file.read_exact_at(&mut bytes, place.offset) {
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read.map_err(|cause| self.unreadable(&cause))?,
        }
        let line: Option<Line> = serde_json::from_slice(&bytes).ok();
        let line = line.filter(|line| name(&line.key, &line.answer.request_sha256) == *wanted);
        Ok(line.map(|line| line.answer))
    }

    fn unreadable(&self, cause: &io::Error) -> Error {
        error(&self.path, &format!("cannot be read: {cause}"))
    }

    fn damaged(&self, number: u64, reason: &str) -> Error {
        let reason = format!(
            "line {number} is damaged: {reason}; restore the file, or remove that line to ask again"
        );
        error(&self.path, &reason)
    }
}

/// Ending of the name of the file that names the journals beside one.
const LIST: &str = ".beside";
