//! Models in memory, and which of them makes room for another.
//!
//! A model that is asked for and not there is loaded; where the bound would be broken, the one that
//! was used longest ago leaves, an idle one before one that is at work. One that is at work gets no
//! new requests until it has left, so that a busy model keeps no other out for ever. Requests whose
//! model is not there stand in line; the first of the line makes room, and loads while the device goes
//! on with what is there.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::engine::MAX_WAITING_BYTES;
use crate::error::Error;

/// Loads the model at a place.
type Load<M> = Box<dyn Fn(usize) -> Result<M, Error> + Send + Sync>;

/// When a line that is full may have moved: a load takes seconds.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// See the module. Clones are the same shelf.
pub(crate) struct Shelf<M>(Arc<Inner<M>>);

struct Inner<M> {
    load: Load<M>,
    /// `None`: all models stay.
    max_bytes: Option<u64>,
    /// Pictures that may wait for models.
    max_waiting: usize,
    state: Mutex<State<M>>,
    /// A model came, left, was given back, or somebody left the line.
    changed: Arc<Notify>,
}

struct State<M> {
    slots: Vec<Slot<M>>,
    line: VecDeque<Waiting>,
    clock: u64,
    next_id: u64,
}

/// One model, there or not.
struct Slot<M> {
    bytes: u64,
    model: Option<Arc<M>>,
    is_loading: bool,
    /// No new requests until it has left.
    is_leaving: bool,
    last_used: u64,
    /// Loads that have ended, and what the last one failed of.
    loads: u64,
    failure: Option<Arc<Error>>,
}

/// What waits with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Burden {
    /// Pictures wanted.
    pub(crate) pictures: usize,
    /// Files of pictures to go on from, in bytes.
    pub(crate) bytes: usize,
}

/// A request in the line.
struct Waiting {
    id: u64,
    slot: usize,
    burden: Burden,
    /// Loads of its model that had ended when it came.
    loads: u64,
}

/// A model in use; it stays in memory as long as there is one of these.
pub(crate) struct Lease<M> {
    model: Arc<M>,
    // After the model: whoever is told finds it given back.
    returned: Returned,
}

#[derive(Clone)]
struct Returned(Arc<Notify>);

impl Drop for Returned {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl<M> Clone for Lease<M> {
    fn clone(&self) -> Self {
        Self {
            model: self.model.clone(),
            returned: self.returned.clone(),
        }
    }
}

impl<M> Deref for Lease<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.model
    }
}

impl<M> Clone for Shelf<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What the first look at a request's model finds.
enum Look<M> {
    There(Arc<M>),
    /// The asker is to begin loading, after these have been let go.
    Load(Vec<Arc<M>>),
    /// So many requests are before it.
    Wait(usize),
    Failed(Arc<Error>),
}

impl<M: Send + Sync + 'static> Shelf<M> {
    /// A shelf for models of these sizes in bytes, each of which must fit alone. `max_waiting` pictures
    /// may wait for models that are not there.
    pub(crate) fn new(
        sizes_bytes: Vec<u64>,
        max_bytes: Option<u64>,
        max_waiting: usize,
        load: impl Fn(usize) -> Result<M, Error> + Send + Sync + 'static,
    ) -> Self {
        let slots = sizes_bytes.into_iter().map(|bytes| Slot {
            bytes,
            model: None,
            is_loading: false,
            is_leaving: false,
            last_used: 0,
            loads: 0,
            failure: None,
        });
        let state = State {
            slots: slots.collect(),
            line: VecDeque::new(),
            clock: 0,
            next_id: 0,
        };
        Self(Arc::new(Inner {
            load: Box::new(load),
            max_bytes,
            max_waiting,
            state: Mutex::new(state),
            changed: Arc::default(),
        }))
    }

    /// Loads a model and leaves it there, while nobody else asks: for the start.
    ///
    /// # Errors
    /// What loading gives.
    pub(crate) fn load_now(&self, slot: usize) -> Result<Arc<M>, Error> {
        let mut state = self.0.lock();
        state.make_room(slot, self.0.max_bytes);
        drop(state);
        let model = Arc::new((self.0.load)(slot)?);
        self.0.lock().put(slot, Ok(model.clone()));
        Ok(model)
    }

    /// The model, where it is there and stays.
    pub(crate) fn try_lease(&self, slot: usize) -> Option<Lease<M>> {
        let model = self.0.lock().take(slot)?;
        Some(self.lent(model))
    }

    /// The model for a request, loaded where need be. `tell` learns how many
    /// requests are before this one, again when it changes.
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::Heavy`] at once when too much waits; what loading gives.
    pub(crate) async fn lease(
        &self,
        slot: usize,
        burden: Burden,
        mut tell: impl FnMut(usize) + Send,
    ) -> Result<Lease<M>, Error> {
        let place = self.line_up(slot, burden)?;
        let mut told = None;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let look = self.0.lock().look(place.id, self.0.max_bytes);
            match look {
                Look::There(model) => return Ok(self.lent(model)),
                Look::Failed(error) => return Err(Error::Shared(error)),
                Look::Load(gone) => {
                    self.begin_loading(slot, gone);
                    tell_once(0, &mut told, &mut tell);
                }
                Look::Wait(before) => tell_once(before, &mut told, &mut tell),
            }
            changed.await;
        }
    }

    fn line_up(&self, slot: usize, burden: Burden) -> Result<Place<M>, Error> {
        let mut state = self.0.lock();
        let burdens = || state.line.iter().map(|waiting| waiting.burden);
        let bytes = burdens().map(|known| known.bytes).sum::<usize>() + burden.bytes;
        if bytes > MAX_WAITING_BYTES {
            return Err(Error::Heavy {
                bytes,
                most: MAX_WAITING_BYTES,
                retry_after: RETRY_AFTER,
            });
        }
        let waiting: usize = burdens().map(|known| known.pictures).sum();
        let capacity = self.0.max_waiting;
        if waiting + burden.pictures > capacity {
            return Err(Error::Full {
                waiting,
                capacity,
                retry_after: RETRY_AFTER,
            });
        }
        let id = state.next_id;
        state.next_id += 1;
        let loads = state.slots[slot].loads;
        state.line.push_back(Waiting {
            id,
            slot,
            burden,
            loads,
        });
        let shelf = self.clone();
        Ok(Place { shelf, id })
    }

    /// Loads on a thread of its own, to the end even if the asker leaves: others may wait for it.
    fn begin_loading(&self, slot: usize, gone: Vec<Arc<M>>) {
        let shelf = self.clone();
        tokio::task::spawn_blocking(move || {
            if !gone.is_empty() {
                drop(gone);
                runtime::memory::give_back();
            }
            let load = std::panic::AssertUnwindSafe(|| (shelf.0.load)(slot));
            let loaded = std::panic::catch_unwind(load);
            let loaded = loaded.unwrap_or_else(|_| Err(Error::Task("a load panicked".to_owned())));
            if let Err(error) = &loaded {
                let reason = runtime::error::chain(error);
                tracing::error!(reason, "a model that had been served does not load");
            }
            shelf.0.lock().put(slot, loaded.map(Arc::new));
            shelf.0.changed.notify_waiters();
        });
    }

    fn lent(&self, model: Arc<M>) -> Lease<M> {
        let returned = Returned(self.0.changed.clone());
        Lease { model, returned }
    }
}

impl<M> Inner<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> State<M> {
    fn take(&mut self, slot: usize) -> Option<Arc<M>> {
        self.clock += 1;
        let clock = self.clock;
        let slot = self.slots.get_mut(slot).filter(|slot| !slot.is_leaving)?;
        let model = slot.model.clone()?;
        slot.last_used = clock;
        Some(model)
    }

    fn put(&mut self, slot: usize, loaded: Result<Arc<M>, Error>) {
        self.clock += 1;
        let clock = self.clock;
        let slot = &mut self.slots[slot];
        slot.is_loading = false;
        slot.loads += 1;
        slot.last_used = clock;
        slot.failure = None;
        match loaded {
            Ok(model) => slot.model = Some(model),
            Err(error) => slot.failure = Some(Arc::new(error)),
        }
    }

    fn look(&mut self, id: u64, max_bytes: Option<u64>) -> Look<M> {
        let Some(place) = self.line.iter().position(|waiting| waiting.id == id) else {
            return Look::Wait(0);
        };
        let Waiting { slot, loads, .. } = self.line[place];
        if let Some(model) = self.take(slot) {
            return Look::There(model);
        }
        let found = &self.slots[slot];
        if let Some(error) = found.failure.as_ref().filter(|_| found.loads > loads) {
            return Look::Failed(error.clone());
        }
        // Whoever waits for a load that is under way keeps nobody from the next.
        let slots = &self.slots;
        let mut before = self.line.iter().take(place);
        let is_first = before.all(|waiting| slots[waiting.slot].is_loading);
        if found.is_loading || !is_first {
            return Look::Wait(place);
        }
        match self.make_room(slot, max_bytes) {
            Some(gone) => {
                self.slots[slot].is_loading = true;
                Look::Load(gone)
            }
            None => Look::Wait(place),
        }
    }

    /// Takes out what must leave for `slot`, idle models first; `None` while one at work must leave.
    fn make_room(&mut self, slot: usize, max_bytes: Option<u64>) -> Option<Vec<Arc<M>>> {
        let mut gone = Vec::new();
        let Some(max_bytes) = max_bytes else {
            return Some(gone);
        };
        let mut order: Vec<usize> = (0..self.slots.len()).collect();
        order.sort_by_key(|place| self.slots[*place].last_used);
        self.stay();
        let wanted = self.slots[slot].bytes;
        for place in &order {
            let idle = |model: &Arc<M>| Arc::strong_count(model) == 1;
            if self.used() + wanted > max_bytes
                && self.slots[*place].model.as_ref().is_some_and(idle)
            {
                gone.extend(self.slots[*place].model.take());
            }
        }
        let mut excess = (self.used() + wanted).saturating_sub(max_bytes);
        if excess == 0 {
            return Some(gone);
        }
        for place in order {
            let found = &mut self.slots[place];
            if excess > 0 && found.model.is_some() {
                found.is_leaving = true;
                excess = excess.saturating_sub(found.bytes);
            }
        }
        None
    }

    /// What is there, or on its way.
    fn used(&self) -> u64 {
        let there = |slot: &&Slot<M>| slot.model.is_some() || slot.is_loading;
        self.slots.iter().filter(there).map(|s| s.bytes).sum()
    }

    fn stay(&mut self) {
        self.slots
            .iter_mut()
            .for_each(|slot| slot.is_leaving = false);
    }
}

fn tell_once(before: usize, told: &mut Option<usize>, tell: &mut impl FnMut(usize)) {
    if told.replace(before) != Some(before) {
        tell(before);
    }
}

/// A place in the line; left when dropped.
struct Place<M> {
    shelf: Shelf<M>,
    id: u64,
}

impl<M> Drop for Place<M> {
    fn drop(&mut self) {
        let mut state = self.shelf.0.lock();
        state.line.retain(|waiting| waiting.id != self.id);
        // Whoever was to leave for this one may stay, unless the next wants its room too.
        state.stay();
        drop(state);
        self.shelf.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
