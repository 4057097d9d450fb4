//! Bounded concurrency. A full service refuses at once, with the time to come back.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Code, Status, body::Body};

use super::{Next, Reply, Step, refuse};
use crate::{Kind, error::plain, serve::Phase};

/// See the module. A permit is held to the last byte of the answer.
pub(crate) struct Admission {
    pub(crate) service_name: String,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) capacity: usize,
    pub(crate) phase: watch::Receiver<Phase>,
}

const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Step for Admission {
    fn run(&self, request: Request<Body>, next: Next) -> Reply {
        let permit = match self.admit(request.uri().path()) {
            Ok(permit) => permit,
            Err(status) => return Box::pin(std::future::ready(refuse(*status))),
        };
        Box::pin(async move {
            let response = mend(next.run(request).await);
            response.map(|inner| {
                Body::new(Held {
                    inner,
                    _permit: permit,
                })
            })
        })
    }
}

impl Admission {
    fn admit(&self, path: &str) -> Result<OwnedSemaphorePermit, Box<Status>> {
        // Reflection tells what a service is, which is true before the model is loaded.
        if *self.phase.borrow() == Phase::Warming && !path.starts_with("/grpc.reflection.") {
            let text = format!("{} is loading its model", self.service_name);
            let kind = Kind::Unavailable {
                retry_after: Some(RETRY_AFTER),
            };
            return Err(Box::new(plain(&kind, text)));
        }
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            let text = format!(
                "{} is already serving {} calls",
                self.service_name, self.capacity
            );
            Box::new(plain(
                &Kind::ResourceExhausted {
                    retry_after: Some(RETRY_AFTER),
                },
                text,
            ))
        })
    }
}

/// tonic calls a message over the limit OUT_OF_RANGE; all other stacks say RESOURCE_EXHAUSTED.
fn mend(response: Response<Body>) -> Response<Body> {
    match Status::from_header_map(response.headers()) {
        Some(status) if too_large(&status, response.headers()) => refuse(plain(
            &Kind::ResourceExhausted { retry_after: None },
            status.message(),
        )),
        _ => response,
    }
}

fn too_large(status: &Status, headers: &HeaderMap) -> bool {
    status.code() == Code::OutOfRange
        && status.message().contains("message length too large")
        && !headers.contains_key("grpc-status-details-bin")
}

struct Held {
    inner: Body,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
