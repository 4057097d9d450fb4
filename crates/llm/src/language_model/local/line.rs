//! Whose turn it is: one at a time, first come, first served, and not more than so many waiting.

use std::sync::{Arc, atomic::AtomicUsize};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, place::Place};

/// The line before a model.
#[derive(Debug)]
pub(super) struct Line {
    /// Tokio's semaphore is fair.
    turn: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
}

impl Line {
    pub(super) fn new(max_waiting: usize) -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
            max_waiting,
        }
    }

    /// Waits for the turn; dropping the result gives it to the next.
    ///
    /// # Errors
    /// A line that is full, at once.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() {
            return Ok(turn);
        }
        let option = "--language-model-max-waiting";
        let _place = Place::take(&self.waiting, self.max_waiting, option)?;
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        Ok(turn.expect("nobody closes the semaphore"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_line_is_refused_at_once_and_who_leaves_makes_room() {
        let line = Line::new(1);
        let running = line.turn().await.expect("nobody is before it");
        let mut waiting = Box::pin(line.turn());
        assert!(futures::poll!(&mut waiting).is_pending());
        let refused = line.turn().await.expect_err("it is full").to_string();
        assert!(
            refused.contains("--language-model-max-waiting"),
            "{refused}"
        );
        drop(waiting);
        let mut waiting = Box::pin(line.turn());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(running);
        let _turn = waiting.await.expect("its turn");
    }
}
