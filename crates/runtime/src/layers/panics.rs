//! A panic in a handler, or in its stream, becomes INTERNAL for that call alone.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::FutureExt as _;
use http::Request;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use super::{Next, Reply, Step, refuse, trailers};
use crate::{Kind, error::plain};

/// See the module.
pub(crate) struct Panics;

impl Step for Panics {
    fn run(&self, request: Request<Body>, next: Next) -> Reply {
        // Unwind safety: what the handler touched is dropped with it, and what it shares with
        // other calls is behind locks that show poisoning.
        let answered = AssertUnwindSafe(async move { next.run(request).await }).catch_unwind();
        Box::pin(async move {
            match answered.await {
                Ok(response) => response.map(|inner| Body::new(Caught { inner: Some(inner) })),
                Err(panic) => refuse(report(panic.as_ref())),
            }
        })
    }
}

struct Caught {
    /// `None` after a panic: a stream that panicked is not polled again.
    inner: Option<Body>,
}

impl http_body::Body for Caught {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        match catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(context))) {
            Ok(polled) => polled,
            Err(panic) => {
                self.inner = None;
                Poll::Ready(Some(Ok(trailers(&report(panic.as_ref())))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map(http_body::Body::size_hint)
            .unwrap_or_default()
    }
}

fn report(panic: &(dyn Any + Send)) -> Status {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    tracing::error!(panic = text, "a handler panicked");
    plain(&Kind::Internal, "internal error; the service's log has it")
}
