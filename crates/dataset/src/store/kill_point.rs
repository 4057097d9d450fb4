//! Named places at which a test ends the process, as a power cut would, or holds it.
//!
//! `DIPTYCH_KILL_AT=manifest.before:2` ends it at the second passage of `manifest.before`, without
//! unwinding or flushing. `DIPTYCH_HOLD_AT=compare.before:1:FIFO` holds it there until somebody has
//! opened that named pipe for writing, and closed it. Unset, as everywhere but in a test, a passage
//! costs one atomic read.

use std::{
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
};

/// The environment variable: a place, a colon, and at which passage from 1.
pub const VARIABLE: &str = "DIPTYCH_KILL_AT";

/// Likewise, and after another colon the path of a named pipe.
pub const HOLD_VARIABLE: &str = "DIPTYCH_HOLD_AT";

struct Doom {
    place: String,
    passages_left: Mutex<u32>,
    /// The pipe that is waited for; the process ends where there is none.
    pipe: Option<PathBuf>,
}

/// Passes a place.
pub fn pass(place: &str) {
    static DOOM: OnceLock<Option<Doom>> = OnceLock::new();
    let Some(doom) = DOOM.get_or_init(read) else {
        return;
    };
    if doom.place != place || !doom.is_due() {
        return;
    }
    match &doom.pipe {
        None => std::process::abort(),
        // What comes through it says nothing, nor does its failure.
        Some(pipe) => drop(std::fs::read(pipe)),
    }
}

impl Doom {
    fn is_due(&self) -> bool {
        let left = self.passages_left.lock();
        let mut left = left.unwrap_or_else(PoisonError::into_inner);
        let is_due = *left == 1;
        *left = left.saturating_sub(1);
        is_due
    }
}

fn read() -> Option<Doom> {
    let value = |name| std::env::var(name).ok();
    let (text, pipe) = match (value(VARIABLE), value(HOLD_VARIABLE)) {
        (Some(text), _) => (text, None),
        (None, text) => {
            let (text, pipe) = split_pipe(&text?)?;
            (text, Some(pipe))
        }
    };
    let (place, passage) = text.split_once(':')?;
    Some(Doom {
        place: place.to_owned(),
        passages_left: Mutex::new(passage.parse().ok()?),
        pipe,
    })
}

/// `place:passage:pipe`.
fn split_pipe(text: &str) -> Option<(String, PathBuf)> {
    let mut parts = text.splitn(3, ':');
    let (place, passage) = (parts.next()?, parts.next()?);
    Some((format!("{place}:{passage}"), parts.next()?.into()))
}
