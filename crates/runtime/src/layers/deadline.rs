//! Deadlines and cancellation, to the last byte of the answer.
//!
//! tonic answers every timeout with CANCELLED and stops watching once a stream has begun. Here
//! the caller's `grpc-timeout`, capped by the service, ends in DEADLINE_EXCEEDED, for streams too;
//! the handler is dropped, its token cancelled, and what remains of the time is where onward calls
//! find it. tonic's own timer also runs: ours counts from the arrival, which is before tonic's
//! starts, and ends one tick of tokio's clock (1 ms) sooner, so that ours always answers.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Frame, SizeHint};
use opentelemetry::{Context, trace::FutureExt as _};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use super::{Arrival, Next, Reply, Step, refuse, trailers};
use crate::{Kind, RequestContext, Telemetry, context::Deadline as Until, error::plain};

/// See the module.
pub(crate) struct Deadline {
    /// The longest any call may take.
    pub(crate) cap: Duration,
    /// Cancelled when a stop was asked for.
    pub(crate) draining: CancellationToken,
    /// Cancelled when the drain is over: whatever still runs ends now.
    pub(crate) killed: CancellationToken,
    pub(crate) telemetry: Telemetry,
}

impl Step for Deadline {
    fn run(&self, mut request: Request<Body>, next: Next) -> Reply {
        let arrival = request
            .extensions()
            .get::<Arrival>()
            .map_or_else(Instant::now, |at| at.0);
        let wanted = parse(request.headers()).map(|time| time.saturating_sub(TICK));
        let deadline = arrival + wanted.map_or(self.cap, |time| time.min(self.cap));
        let context = self.context(deadline);
        let trace = context.trace.clone();
        let mut limits = Limits {
            expiry: Box::pin(tokio::time::sleep_until(deadline.into())),
            killed: Box::pin(self.killed.clone().cancelled_owned()),
            trace: trace.clone(),
            _cancel_on_drop: context.cancelled.clone().drop_guard(),
        };
        request.extensions_mut().insert(context);
        Box::pin(async move {
            let answered = next.run(request).with_context(trace);
            tokio::select! {
                response = answered => {
                    response.map(|inner| Body::new(Limited { inner: Some(inner), limits: Some(limits) }))
                }
                status = limits.reached() => refuse(status),
            }
        })
    }
}

impl Deadline {
    fn context(&self, deadline: Instant) -> RequestContext {
        RequestContext {
            cancelled: self.killed.child_token(),
            draining: self.draining.clone(),
            deadline: Some(deadline),
            trace: Context::current_with_value(Until(deadline)),
            telemetry: Some(self.telemetry.clone()),
        }
    }
}

/// The resolution of tokio's timer.
const TICK: Duration = Duration::from_millis(1);

/// What may end a call early.
struct Limits {
    expiry: Pin<Box<Sleep>>,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The current context of the handler, and of its stream: onward calls of both look there.
    trace: Context,
    _cancel_on_drop: DropGuard,
}

impl Limits {
    async fn reached(&mut self) -> Status {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut TaskContext<'_>) -> Poll<Status> {
        if self.expiry.as_mut().poll(context).is_ready() {
            return Poll::Ready(plain(&Kind::DeadlineExceeded, "the deadline passed"));
        }
        if self.killed.as_mut().poll(context).is_ready() {
            let kind = Kind::Unavailable { retry_after: None };
            return Poll::Ready(plain(
                &kind,
                "the service stopped before the answer was complete",
            ));
        }
        Poll::Pending
    }
}

struct Limited {
    /// Both `None` once the body was broken off; the handler's stream is gone then.
    inner: Option<Body>,
    limits: Option<Limits>,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let (Some(inner), Some(limits)) = (&mut this.inner, &mut this.limits) else {
            return Poll::Ready(None);
        };
        // The limits first: a stream that is always ready must not run past them.
        if let Poll::Ready(status) = limits.poll(context) {
            this.inner = None;
            this.limits = None;
            return Poll::Ready(Some(Ok(trailers(&status))));
        }
        let _current = limits.trace.clone().attach();
        Pin::new(inner).poll_frame(context)
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

/// The `grpc-timeout` header: up to 8 digits and a unit (gRPC over HTTP/2). A malformed one is
/// ignored, as every implementation does; the cap still holds.
pub(crate) fn parse(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_header_is_read_as_the_protocol_says_and_nonsense_is_ignored() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a header value"));
            parse(&headers)
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            read("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        for nonsense in ["", "m", "123456789S", "-1S", "+1S", "5x", "5"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
    }
}
