//! What travels with a request: who waits for it, until when, and under which trace.

use std::time::{Duration, Instant};

use opentelemetry::{
    Context, KeyValue,
    trace::{FutureExt as _, Span as _, TraceContextExt as _, Tracer as _},
};
use tokio_util::sync::CancellationToken;

use crate::Telemetry;

/// What a request carries. Take it at the top of a handler with [`RequestContext::of`], and hand
/// it (or its token) to whatever works for the request, device threads included.
#[derive(Debug, Clone)]
pub struct RequestContext {
    pub(crate) cancelled: CancellationToken,
    pub(crate) draining: CancellationToken,
    pub(crate) deadline: Option<Instant>,
    pub(crate) trace: Context,
    pub(crate) telemetry: Option<Telemetry>,
}

impl RequestContext {
    /// The context of a request that came through [`serve`](crate::serve()). A request made
    /// without a server (a unit test) has one that is never cancelled.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .unwrap_or_else(Self::detached)
    }

    /// A context that belongs to no request: never cancelled, no deadline, the current trace.
    pub fn detached() -> Self {
        Self {
            cancelled: CancellationToken::new(),
            draining: CancellationToken::new(),
            deadline: None,
            trace: Context::current(),
            telemetry: None,
        }
    }

    /// Cancelled when the caller leaves, when the deadline passes, when the drain is over, and
    /// after the answer's last byte. Long work checks it once a step.
    pub fn cancelled(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// Whether the work is no longer wanted.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Cancelled when the service was asked to stop. Streams that only watch should end then;
    /// work goes on until the drain's deadline.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// When the answer must be complete.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The time that is left, zero when it is over.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Runs `future` inside this request: its onward calls carry the trace and the remaining time.
    /// A handler already runs so; what it spawns does not, and is wrapped in this.
    pub async fn scope<F: Future>(&self, future: F) -> F::Output {
        future.with_context(self.trace.clone()).await
    }

    /// The id of the trace, 32 hexadecimal digits; `None` outside any trace.
    pub fn trace_id(&self) -> Option<String> {
        let span = self.trace.span();
        let context = span.span_context();
        context.is_valid().then(|| context.trace_id().to_string())
    }

    /// A span under this request that ends when dropped: device work, one batch, one remote call.
    pub fn span(&self, name: &'static str, attributes: Vec<KeyValue>) -> SpanGuard {
        let span = self.telemetry.as_ref().map(|telemetry| {
            let builder = telemetry
                .tracer()
                .span_builder(name)
                .with_attributes(attributes);
            telemetry.tracer().build_with_context(builder, &self.trace)
        });
        SpanGuard { span }
    }
}

/// A running span; it ends when this is dropped.
#[derive(Debug)]
pub struct SpanGuard {
    span: Option<opentelemetry_sdk::trace::Span>,
}

impl SpanGuard {
    /// Adds what only became known on the way.
    pub fn set(&mut self, attribute: KeyValue) {
        if let Some(span) = &mut self.span {
            span.set_attribute(attribute);
        }
    }
}

impl Drop for SpanGuard {
    fn drop(&mut self) {
        if let Some(span) = &mut self.span {
            span.end();
        }
    }
}

/// A deadline inside an OpenTelemetry context, where the client channel finds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(pub(crate) Instant);
