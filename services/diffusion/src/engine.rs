//! The thread that owns the device, and the queue in front of it.
//!
//! Pictures of all callers wait in one bounded queue and share batches: a picture joins when there is
//! room, moves on by one step with whoever is there, and leaves when it is done or its caller is gone.
//! A picture's bytes do not depend on its company, so nothing need wait for equals; a device with
//! nothing to do waits a moment for more, so that those who come together begin together.
//!
//! * [`ticket`]: a picture that is wanted, its caller, and the way of its events.
//! * [`device`]: the thread.

mod device;
#[cfg(test)]
mod tests;
mod ticket;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::prometheus::QueueDepth;

use self::device::Device;
pub(crate) use self::ticket::{Caller, Event, Events, SafetyRule, Ticket};
use crate::error::Error;
use crate::line::{Line, Loads};

/// Files of pictures to go on from that may wait, in bytes.
pub(crate) const MAX_WAITING_BYTES: usize = 512 << 20;

/// Bounds on the engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Pictures that may wait.
    pub(crate) capacity: usize,
    /// Pictures of their models' own sizes on the device, or as many pixels in fewer larger ones.
    pub(crate) max_batch: usize,
    /// How long a device with nothing to do waits for a full batch.
    pub(crate) batch_wait: Duration,
}

/// The device's owner. Dropping it ends the thread after the step it is in.
pub(crate) struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something waits, or the engine is closed.
    wake: Condvar,
    capacity: usize,
    depth: QueueDepth,
}

struct Queue {
    line: Line<Caller, Ticket>,
    closed: bool,
    /// Smoothed time between two finished pictures.
    interval: Duration,
    /// Pictures refused and not yet made up for by others that were taken.
    refused: usize,
    /// What callers had on the device when it was last looked at.
    loads: Loads<Caller>,
}

impl Engine {
    /// Starts the device thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(bounds: Bounds) -> std::io::Result<Self> {
        let queue = Queue {
            line: Line::new(),
            closed: false,
            interval: Duration::from_millis(500),
            refused: 0,
            loads: Loads::new(),
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
            capacity: bounds.capacity,
            depth: QueueDepth::new(crate::NAME, "device"),
        });
        let device = Device {
            shared: shared.clone(),
            max_batch: bounds.max_batch.max(1),
            batch_wait: bounds.batch_wait,
            on_device: Vec::new(),
        };
        std::thread::Builder::new()
            .name("diffusion-device".to_owned())
            .spawn(move || device.run())?;
        Ok(Self { shared })
    }

    /// Queues all pictures of a call, or none.
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::Heavy`] at once, and [`Error::Stopping`].
    pub(crate) fn submit(&self, tickets: Vec<Ticket>) -> Result<(), Error> {
        let mut queue = self.shared.lock();
        // Callers that left hold no places.
        queue.drop_left();
        let (waiting, capacity) = (queue.line.len(), self.shared.capacity);
        if queue.closed {
            return Err(Error::Stopping);
        }
        let there = queue.line.items().map(Ticket::bytes);
        let bytes: usize = there.chain(tickets.iter().map(Ticket::bytes)).sum();
        if bytes > MAX_WAITING_BYTES {
            return Err(Error::Heavy {
                bytes,
                most: MAX_WAITING_BYTES,
                retry_after: queue.wait(waiting),
            });
        }
        if waiting + tickets.len() > capacity {
            let excess = waiting + tickets.len() - capacity;
            let retry_after = queue.retry_after(excess, capacity);
            return Err(Error::Full {
                waiting,
                capacity,
                retry_after,
            });
        }
        for ticket in tickets {
            let cost = ticket.cost();
            queue.line.push(ticket.caller.clone(), ticket, cost);
        }
        let loads = queue.loads.clone();
        queue.tell(&loads);
        self.shared.depth.set(queue.line.len());
        self.shared.wake.notify_one();
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// When there may be room for one that is so many pictures too large. Those refused one after
    /// another are told later and later, so that they do not all come back for the first place; but
    /// none later than the queue takes to empty.
    fn retry_after(&mut self, excess: usize, capacity: usize) -> Duration {
        let turn = excess + self.refused.min(capacity);
        self.refused += excess;
        self.wait(turn)
    }

    /// When so many pictures more may be done.
    fn wait(&self, pictures: usize) -> Duration {
        let wait = self
            .interval
            .saturating_mul(u32::try_from(pictures).unwrap_or(u32::MAX));
        wait.clamp(Duration::from_millis(100), Duration::from_secs(60))
    }

    fn drop_left(&mut self) {
        self.line.retain(|ticket| !ticket.context.is_cancelled());
    }

    /// Tells the places that have changed.
    fn tell(&mut self, loads: &Loads<Caller>) {
        self.loads.clone_from(loads);
        self.line.tell(loads, |ticket, position| {
            ticket.events.progress(0, ticket.request.steps, position);
        });
    }
}
