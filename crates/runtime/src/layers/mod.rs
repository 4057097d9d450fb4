//! The steps a call passes on its way to a handler, outermost first:
//!
//! | step | does |
//! |---|---|
//! | [`probe`] | lets health checks past everything else |
//! | [`observe`] | span, RED metrics, log context |
//! | [`panics`] | a panic becomes INTERNAL |
//! | [`auth`] | bearer token |
//! | [`deadline`] | deadline and cancellation; makes the `RequestContext` |
//! | [`admission`] | refuses at once when full or not yet warm |
//!
//! A step sees the request, and wraps the body of the answer where it must act until the last byte.

pub(crate) mod admission;
pub(crate) mod auth;
pub(crate) mod deadline;
pub(crate) mod observe;
pub(crate) mod panics;
pub(crate) mod probe;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tonic::{Status, body::Body, service::Routes};
use tower::Service;

/// The answer on its way.
pub(crate) type Reply = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// One step of a call's way.
pub(crate) trait Step: Send + Sync + 'static {
    /// Answers the request, by `next` or alone.
    fn run(&self, request: Request<Body>, next: Next) -> Reply;
}

/// All steps, then the service's routes.
#[derive(Clone)]
pub(crate) struct Chain {
    steps: Arc<[Box<dyn Step>]>,
    routes: Routes,
}

/// What is left of the way.
pub(crate) struct Next {
    chain: Chain,
    passed: usize,
}

/// When the request arrived. tonic's own timer starts just after; see [`deadline`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival(pub(crate) Instant);

impl Chain {
    pub(crate) fn new(steps: Vec<Box<dyn Step>>, routes: Routes) -> Self {
        Self {
            steps: steps.into(),
            routes: routes.prepare(),
        }
    }
}

impl Next {
    /// The next step, or the handler after the last.
    pub(crate) fn run(mut self, request: Request<Body>) -> Reply {
        let steps = Arc::clone(&self.chain.steps);
        match steps.get(self.passed) {
            Some(step) => {
                self.passed += 1;
                step.run(request, self)
            }
            None => self.finish(request),
        }
    }

    /// The handler, past all other steps.
    pub(crate) fn finish(self, request: Request<Body>) -> Reply {
        let mut routes = self.chain.routes;
        Box::pin(async move {
            match routes.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        })
    }
}

impl Service<Request<Body>> for Chain {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Each step refuses by itself, with a status; none makes the connection wait.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(Arrival(Instant::now()));
        let reply = Next {
            chain: self.clone(),
            passed: 0,
        }
        .run(request);
        Box::pin(async move { Ok(reply.await) })
    }
}

/// A step's own answer.
pub(crate) fn refuse(status: Status) -> Response<Body> {
    status.into_http()
}

/// The end of a body that a step breaks off.
pub(crate) fn trailers(status: &Status) -> Frame<Bytes> {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // Details that no header can carry: the bare code still arrives.
        headers = HeaderMap::new();
        headers.insert("grpc-status", http::HeaderValue::from(status.code() as i32));
    }
    Frame::trailers(headers)
}
