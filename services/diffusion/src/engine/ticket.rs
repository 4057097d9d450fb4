//! A picture that is wanted, whose it is, and the way of its events.

use std::net::SocketAddr;

use models::stable_diffusion::{Pipeline, Request};
use runtime::RequestContext;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::models_served::Safety;
use crate::picture::Rendered;
use crate::request::Place;
use crate::shelf::Lease;

/// What becomes of a picture.
pub(crate) enum Event {
    /// So many evaluations of so many are done; so many pictures are before it in the queue.
    Progress {
        done: usize,
        total: usize,
        queue_position: usize,
    },
    /// It is there, or will never be.
    End(Box<Result<Rendered, Error>>),
}

/// A picture that waits.
pub(crate) struct Ticket {
    /// Who renders it.
    pub(crate) pipeline: Lease<Pipeline>,
    /// What to render, already checked.
    pub(crate) request: Request,
    /// What becomes of the picture when it is there.
    pub(crate) safety: SafetyRule,
    /// Whose turn it takes.
    pub(crate) caller: Caller,
    /// Whose it is: cancelled when the caller leaves.
    pub(crate) context: RequestContext,
    /// Where its events go.
    pub(crate) events: Events,
}

impl Ticket {
    /// What it costs the device, in pictures of its model's own size.
    pub(super) fn cost(&self) -> usize {
        self.pipeline.cost(&self.request)
    }

    /// Bytes of the files that wait with it.
    pub(super) fn bytes(&self) -> usize {
        self.request.original.as_ref().map_or(0, |original| {
            let mask = original.mask.as_ref().map_or(0, |mask| mask.bytes().len());
            original.picture.bytes().len() + mask
        })
    }
}

/// What a picture must pass before it is handed over.
#[derive(Clone)]
pub(crate) struct SafetyRule {
    /// Who tells; nothing is checked without.
    pub(crate) checker: Option<Safety>,
    /// Whether flagged pictures are handed over all the same.
    pub(crate) delivers_unsafe: bool,
}

/// Who asks, as far as turns go: the device is shared out among callers and not among calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// By the name that the request gives, over whatever connection.
    Named(String),
    /// By the connection, for requests without a name. `None`: a transport that tells none.
    Connection(Option<SocketAddr>),
}

/// The way of one picture's events to its caller.
///
/// The device never waits for a slow reader: the channel has a place for the end of every picture of
/// the call, and progress takes only what is left over.
#[derive(Clone)]
pub(crate) struct Events {
    place: Place,
    sender: mpsc::Sender<(Place, Event)>,
    /// Places that belong to the ends.
    reserved: usize,
    report_progress: bool,
}

impl Events {
    /// Events of the picture at `place` over a channel with room for `reserved` ends and some progress.
    pub(crate) fn new(
        place: Place,
        sender: mpsc::Sender<(Place, Event)>,
        reserved: usize,
        report_progress: bool,
    ) -> Self {
        Self {
            place,
            sender,
            reserved,
            report_progress,
        }
    }

    pub(crate) fn progress(&self, done: usize, total: usize, queue_position: usize) {
        if self.report_progress && self.sender.capacity() > self.reserved {
            let event = Event::Progress {
                done,
                total,
                queue_position,
            };
            let _the_caller_may_have_left = self.sender.try_send((self.place.clone(), event));
        }
    }

    pub(crate) fn end(&self, result: Result<Rendered, Error>) {
        let event = Event::End(Box::new(result));
        let _the_caller_may_have_left = self.sender.try_send((self.place.clone(), event));
    }
}
