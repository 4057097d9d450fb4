//! A place in a line that ends somewhere.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Error;

/// One that waits; dropped when it starts, or its caller has left.
pub(crate) struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    /// Takes a place in the line that `waiting` counts.
    ///
    /// # Errors
    /// A line of `max_waiting`, at once; `option` is what the operator bounds it by.
    pub(crate) fn take(
        waiting: &'a AtomicUsize,
        max_waiting: usize,
        option: &'static str,
    ) -> Result<Self, Error> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(waiting);
        match before < max_waiting {
            true => Ok(place),
            false => Err(Error::Full {
                waiting: before,
                option,
            }),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
