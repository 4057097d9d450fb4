//! Named places at which a test ends the process, as a power cut would.
//!
//! `DIPTYCH_KILL_AT=manifest.before:2` ends it at the second passage of `manifest.before`, without
//! unwinding or flushing. Unset, as everywhere but in a test, a passage costs one atomic read.

use std::sync::{Mutex, OnceLock, PoisonError};

/// The environment variable: a place, a colon, and at which passage from 1.
pub const VARIABLE: &str = "DIPTYCH_KILL_AT";

struct Doom {
    place: String,
    passages_left: Mutex<u32>,
}

/// Passes a place.
pub fn pass(place: &str) {
    static DOOM: OnceLock<Option<Doom>> = OnceLock::new();
    let Some(doom) = DOOM.get_or_init(read) else {
        return;
    };
    if doom.place != place {
        return;
    }
    let mut left = doom
        .passages_left
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    *left = left.saturating_sub(1);
    if *left == 0 {
        std::process::abort();
    }
}

fn read() -> Option<Doom> {
    let text = std::env::var(VARIABLE).ok()?;
    let (place, passage) = text.split_once(':')?;
    Some(Doom {
        place: place.to_owned(),
        passages_left: Mutex::new(passage.parse().ok()?),
    })
}
