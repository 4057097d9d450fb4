//! The two streams of a command: its result on stdout, all else on stderr. Whoever reads them may
//! have heard enough and be gone, as `head` is: nobody is left to tell then, and nothing has failed.

use std::io::{ErrorKind, Write, stderr, stdout};

use anyhow::{Context as _, Result};

/// Prints a result, at once: whoever started the program may wait for it.
///
/// # Errors
/// Stdout does not take it, for another reason than that its reader is gone.
pub(crate) fn result(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}

/// Says something beside the result.
pub(crate) fn note(text: &str) {
    // What cannot be said on stderr cannot be complained about either.
    let _ = writeln!(stderr().lock(), "{text}");
}
