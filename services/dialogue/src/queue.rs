//! Conversations that were asked for and are not yet written, shown as the service's queue.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use runtime::prometheus::QueueDepth;

/// How many wait, over all streams.
pub(crate) struct Queue {
    waiting: AtomicUsize,
    depth: QueueDepth,
}

/// One that waits; dropped when it is written, or its caller has left.
pub(crate) struct Place(Arc<Queue>);

impl Queue {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicUsize::new(0),
            depth: QueueDepth::new("dialogue", "conversations"),
        })
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        self.depth.set(waiting);
        Place(Arc::clone(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let before = self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.depth.set(before.saturating_sub(1));
    }
}
