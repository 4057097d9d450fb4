//! A client's way to one service: TLS and token, trace and deadline forwarded, errors in sentences.
//!
//! Calls are spread over all addresses of the endpoint's host, which is looked up again and again;
//! addresses that fail are left out for a while.
//!
//! tonic's own client reports every timeout as CANCELLED, forwards no deadline, and says
//! "transport error" for a closed port. [`Channel`] wraps it; generated clients take it as they
//! take tonic's:
//!
//! ```no_run
//! # async fn example(telemetry: runtime::Telemetry) -> Result<(), runtime::StartError> {
//! use runtime::{Channel, options::ClientOptions};
//! let options = ClientOptions::default();
//! let channel = Channel::lazy("diffusion", "http://127.0.0.1:50052", &options, &telemetry)?;
//! let client = tonic_health::pb::health_client::HealthClient::new(channel)
//!     .max_decoding_message_size(16 << 20);
//! # let _ = client; Ok(())
//! # }
//! ```

mod address;
mod answer;
mod balancer;
mod failure;
mod health;
mod loan;
mod resolver;
mod target;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION};
use opentelemetry::trace::{FutureExt as _, SpanKind};
use tonic::{Code, Status, body::Body};
use tower::Service;

pub use self::resolver::{Dns, Lookup, Resolve};
use self::{
    balancer::Balancer,
    failure::{Failure, is_reset, root_cause},
    target::Target,
};

use crate::{
    Kind, StartError, Telemetry,
    context::Deadline,
    error::plain,
    layers::{
        deadline::parse,
        observe::{Call, split},
    },
    options::ClientOptions,
    token::TokenFile,
};

/// Connections to one service, one for each of its addresses, that open when first used and again
/// when lost. Cheap to clone; the last clone takes all that runs for it along.
#[derive(Debug, Clone)]
pub struct Channel {
    balancer: Arc<Balancer>,
    peer: Arc<Peer>,
}

#[derive(Debug)]
struct Peer {
    name: String,
    endpoint: String,
    token: Option<TokenFile>,
    telemetry: Telemetry,
}

impl Channel {
    /// A channel to the service `name` at `endpoint`, `http://…` or `https://…`. Nothing is sent
    /// yet.
    ///
    /// # Errors
    /// An endpoint that is no URL, https without an authority, files that cannot be read.
    pub fn lazy(
        name: &str,
        endpoint: &str,
        options: &ClientOptions,
        telemetry: &Telemetry,
    ) -> Result<Self, StartError> {
        let target = Target::parse(name, endpoint, options)?;
        let token = options
            .client_token_file
            .as_deref()
            .map(TokenFile::open)
            .transpose()?;
        let (name, endpoint) = (name.to_owned(), endpoint.to_owned());
        let telemetry = telemetry.clone();
        Ok(Self {
            balancer: Arc::new(Balancer::new(target, Arc::new(Dns))),
            peer: Arc::new(Peer {
                name,
                endpoint,
                token,
                telemetry,
            }),
        })
    }

    /// As [`lazy`](Self::lazy), and connects, to know now whether anybody is there.
    ///
    /// # Errors
    /// Also [`StartError::Unreachable`].
    pub async fn connect(
        name: &str,
        endpoint: &str,
        options: &ClientOptions,
        telemetry: &Telemetry,
    ) -> Result<Self, StartError> {
        let channel = Self::lazy(name, endpoint, options, telemetry)?;
        let connected = channel.balancer.connect().await;
        connected.map_err(|failure| StartError::Unreachable {
            peer: name.to_owned(),
            endpoint: endpoint.to_owned(),
            reason: failure.root_cause(),
        })?;
        Ok(channel)
    }

    /// The same channel, not yet connected, over the addresses that `resolver` finds. An endpoint
    /// that names an address is not looked up, by any resolver.
    #[must_use]
    pub fn with_resolver(self, resolver: impl Resolve) -> Self {
        let target = self.balancer.target().clone();
        Self {
            balancer: Arc::new(Balancer::new(target, Arc::new(resolver))),
            ..self
        }
    }

    /// The endpoint, as it was given.
    pub fn endpoint(&self) -> &str {
        &self.peer.endpoint
    }

    /// The name of the service at the other end.
    pub fn name(&self) -> &str {
        &self.peer.name
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    /// Always: which address is ready shows when a call asks for one.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let parent = opentelemetry::Context::current();
        let telemetry = &self.peer.telemetry;
        let names = split(request.uri().path());
        let mut call = Call::begin(telemetry, SpanKind::Client, names, &parent);
        let deadline = deadline(request.headers(), &parent);
        crate::telemetry::inject(&call.context, request.headers_mut());
        self.peer.authorize(request.headers_mut());
        if let Some(deadline) = deadline {
            request
                .headers_mut()
                .insert("grpc-timeout", remaining(deadline));
        }
        let sent = Arc::clone(&self.balancer).send(request);
        let peer = Arc::clone(&self.peer);
        let context = call.context.clone();
        Box::pin(
            async move {
                let answered = async { sent.await.map_err(|error| peer.explain(&error)) };
                let result = match deadline {
                    None => answered.await,
                    Some(at) => tokio::time::timeout_at(at.into(), answered)
                        .await
                        .unwrap_or_else(|_| Err(peer.late())),
                };
                match result {
                    Ok(answer) => Ok(call.watch(answer::guard(answer, deadline, peer))),
                    Err(status) => {
                        call.end(status.code());
                        Err(status)
                    }
                }
            }
            .with_context(context),
        )
    }
}

impl Peer {
    fn authorize(&self, headers: &mut HeaderMap) {
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.header());
        }
    }

    /// A failure below gRPC: nobody there, a handshake that failed, a connection that broke.
    fn explain(&self, failure: &Failure) -> Status {
        let Self { name, endpoint, .. } = self;
        let cause = failure.root_cause();
        if cause.contains("Timeout expired") {
            return self.late();
        }
        let text = if failure.is_unreachable() {
            format!("cannot reach {name} at {endpoint}: {cause}; start it, or correct --endpoints")
        } else if cause.contains("peer certificate") {
            format!("cannot trust {name} at {endpoint}: {cause}; is --ca-file its authority?")
        } else if endpoint.starts_with("https") {
            format!(
                "the connection to {name} at {endpoint} broke: {cause}; if it asks for a client certificate, pass --client-cert-file"
            )
        } else {
            format!("the connection to {name} at {endpoint} broke: {cause}")
        };
        plain(&Kind::Unavailable { retry_after: None }, text)
    }

    /// A connection that broke while its answer was read. The peer may be there again by now, so
    /// it is worth the retry that UNKNOWN, tonic's word for it, is not.
    fn broke_off(&self, body: &Status) -> Status {
        let Self { name, endpoint, .. } = self;
        let cause = root_cause(body);
        let text = format!(
            "the connection to {name} at {endpoint} broke in the middle of an answer: {cause}"
        );
        plain(&Kind::Unavailable { retry_after: None }, text)
    }

    fn late(&self) -> Status {
        let text = format!("{} did not answer within the deadline", self.name);
        plain(&Kind::DeadlineExceeded, text)
    }
}

/// The sooner of the caller's own timeout and of the deadline this work is under.
fn deadline(headers: &HeaderMap, current: &opentelemetry::Context) -> Option<Instant> {
    let own = parse(headers).map(|timeout| Instant::now() + timeout);
    let inherited = current.get::<Deadline>().map(|deadline| deadline.0);
    [own, inherited].into_iter().flatten().min()
}

/// The remaining time as a `grpc-timeout`: microseconds while 8 digits hold them.
fn remaining(deadline: Instant) -> HeaderValue {
    const MAX: u128 = 99_999_999;
    let left = deadline.saturating_duration_since(Instant::now());
    let text = match (left.as_micros(), left.as_millis()) {
        (micros, _) if micros <= MAX => format!("{micros}u"),
        (_, millis) if millis <= MAX => format!("{millis}m"),
        _ => format!("{}S", left.as_secs().min(99_999_999)),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0u"))
}

/// Turns what fails a body into the code everybody expects. A status of the peer is not among
/// that: it comes in the trailers. What fails a body is tonic's own timer, where it fires first, a
/// reset of the one call, whose reason tonic translates, and a connection that broke.
fn translate(status: Status, peer: &Peer) -> Status {
    match status.code() {
        Code::Cancelled if status.message() == "Timeout expired" => peer.late(),
        _ if is_reset(&status) => status,
        _ => peer.broke_off(&status),
    }
}
