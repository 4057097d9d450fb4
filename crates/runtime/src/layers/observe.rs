//! One span and one duration per call, on the server's side and on the client's.
//!
//! Names follow OpenTelemetry's stable RPC conventions (semconv 1.45): the histograms
//! `rpc_server_call_duration_seconds` and `rpc_client_call_duration_seconds`, with the labels
//! `rpc_service`, `rpc_method`, `rpc_response_status_code`. A call ends with its last byte, so a
//! stream's duration is the whole stream's.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use opentelemetry::{
    Context, KeyValue,
    trace::{FutureExt as _, SpanKind, Status as SpanStatus, TraceContextExt as _},
};
use tonic::{Code, Status, body::Body};
use tracing::Instrument as _;

use super::{Next, Reply, Step};
use crate::{Telemetry, error::code_name, telemetry};

/// The server's side.
pub(crate) struct Observe {
    pub(crate) telemetry: Telemetry,
    /// Services this server has. Calls to others share one label: a caller must not be able to
    /// grow the metrics at will.
    pub(crate) services: Arc<HashSet<&'static str>>,
}

impl Step for Observe {
    fn run(&self, request: Request<Body>, next: Next) -> Reply {
        let (service, method) = split(request.uri().path());
        let known = self.services.contains(service);
        let (service, method) = if known {
            (service, method)
        } else {
            ("_OTHER", "_OTHER")
        };
        let parent = telemetry::extract(request.headers());
        let call = Call::begin(
            &self.telemetry,
            SpanKind::Server,
            (service, method),
            &parent,
        );
        let context = call.context.clone();
        let log = tracing::info_span!(
            "rpc",
            service = self.telemetry.service_name(),
            method = format!("{service}/{method}"),
            trace_id = %context.span().span_context().trace_id(),
        );
        let answered = async move { call.watch(next.run(request).await) };
        Box::pin(answered.with_context(context).instrument(log))
    }
}

/// A call under way. Dropped without an end, it was left by its caller: CANCELLED.
pub(crate) struct Call {
    pub(crate) context: Context,
    began: Instant,
    metric: &'static str,
    server: bool,
    service: String,
    method: String,
    ended: bool,
}

impl Call {
    /// Starts the span of `(service, method)` under `parent`.
    pub(crate) fn begin(
        telemetry: &Telemetry,
        side: SpanKind,
        (service, method): (&str, &str),
        parent: &Context,
    ) -> Self {
        let server = side == SpanKind::Server;
        let attributes = vec![
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", format!("{service}/{method}")),
        ];
        let context = telemetry.child(format!("{service}/{method}"), side, parent, attributes);
        Self {
            context,
            began: Instant::now(),
            metric: match server {
                true => "rpc_server_call_duration_seconds",
                false => "rpc_client_call_duration_seconds",
            },
            server,
            service: service.to_owned(),
            method: method.to_owned(),
            ended: false,
        }
    }

    /// Follows the answer to its end.
    pub(crate) fn watch(mut self, response: Response<Body>) -> Response<Body> {
        if let Some(code) = code_of(response.headers()) {
            self.end(code);
            return response;
        }
        response.map(|inner| Body::new(Watched { inner, call: self }))
    }

    /// Ends the call; later ends change nothing.
    pub(crate) fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let name = code_name(code);
        let span = self.context.span();
        span.set_attribute(KeyValue::new("rpc.response.status_code", name));
        if is_fault(code, self.server) {
            span.set_status(SpanStatus::error(name));
        }
        span.end();
        metrics::histogram!(
            self.metric,
            "rpc_service" => self.service.clone(),
            "rpc_method" => self.method.clone(),
            "rpc_response_status_code" => name,
        )
        .record(self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// `/package.Service/Method` as its two halves.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.trim_start_matches('/')
        .split_once('/')
        .unwrap_or(("_OTHER", "_OTHER"))
}

struct Watched {
    inner: Body,
    call: Call,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(code_of) {
                    self.call.end(code);
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.end(status.code()),
            // A gRPC body ends with trailers; one without them broke off.
            Poll::Ready(None) => self.call.end(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers
        .get("grpc-status")
        .map(|value| Code::from_bytes(value.as_bytes()))
}

/// Which codes make a span an error: on the server only its own faults, on the client all.
fn is_fault(code: Code, server: bool) -> bool {
    let ours = matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    if server { ours } else { code != Code::Ok }
}
