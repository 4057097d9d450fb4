//! Health checks pass unauthenticated, uncounted and untraced, and end when the drain begins.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::{Next, Reply, Step, trailers};
use crate::{Kind, error::plain};

const HEALTH_PREFIX: &str = "/grpc.health.v1.Health/";

/// See the module.
pub(crate) struct Probe {
    /// Cancelled when the service stops; health has said NOT_SERVING before.
    pub(crate) draining: CancellationToken,
}

impl Step for Probe {
    fn run(&self, request: Request<Body>, next: Next) -> Reply {
        if !request.uri().path().starts_with(HEALTH_PREFIX) {
            return next.run(request);
        }
        let stop = Box::pin(self.draining.clone().cancelled_owned());
        Box::pin(async move {
            let response = next.finish(request).await;
            response.map(|inner| {
                Body::new(Ending {
                    inner,
                    stop: Some(stop),
                })
            })
        })
    }
}

/// A watch of the health, which would otherwise hold its connection for as long as its caller
/// likes.
struct Ending {
    inner: Body,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // The inner stream first: it has the NOT_SERVING that the watcher is to see.
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let Some(stop) = &mut self.stop else {
            return Poll::Ready(None);
        };
        ready!(stop.as_mut().poll(context));
        self.stop = None;
        self.inner = Body::empty();
        let status = plain(
            &Kind::Unavailable { retry_after: None },
            "the service is stopping",
        );
        Poll::Ready(Some(Ok(trailers(&status))))
    }

    fn is_end_stream(&self) -> bool {
        self.stop.is_none() || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
