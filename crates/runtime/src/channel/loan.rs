//! A request that is lent, and can be lent again as long as nobody has read of its body.
//!
//! tonic takes a request before it connects. When the connection does not come about, the call
//! never left this process, and another address can have it.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

/// See the module.
pub(super) struct Loan {
    head: Parts,
    lent: Arc<Lent>,
}

struct Lent {
    body: Mutex<Body>,
    read: AtomicBool,
}

struct Borrowed(Arc<Lent>);

impl Loan {
    /// Takes the request that is to be lent.
    pub(super) fn new(request: Request<Body>) -> Self {
        let (head, body) = request.into_parts();
        let lent = Arc::new(Lent {
            body: Mutex::new(body),
            read: AtomicBool::new(false),
        });
        Self { head, lent }
    }

    /// The request, to be sent.
    pub(super) fn request(&self) -> Request<Body> {
        let body = Body::new(Borrowed(Arc::clone(&self.lent)));
        Request::from_parts(self.head.clone(), body)
    }

    /// Whether it may be lent again.
    pub(super) fn is_unread(&self) -> bool {
        !self.lent.read.load(Ordering::Acquire)
    }
}

impl Lent {
    fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http_body::Body for Borrowed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.read.store(true, Ordering::Release);
        Pin::new(&mut *self.0.body()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body().size_hint()
    }
}
