//! A client's way to one service: TLS and token, trace and deadline forwarded, errors in sentences.
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

mod answer;

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION};
use opentelemetry::trace::{FutureExt as _, SpanKind};
use tonic::{
    Code, Status,
    body::Body,
    transport::{self, Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tower::Service;

use crate::{
    Kind, StartError, Telemetry,
    context::Deadline,
    error::plain,
    layers::{
        deadline::parse,
        observe::{Call, split},
    },
    listen::read,
    options::ClientOptions,
    token::TokenFile,
};

/// A connection to one service that opens when first used and again when lost. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Channel {
    inner: transport::Channel,
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
        let inner = self::endpoint(name, endpoint, options)?.connect_lazy();
        let token = options
            .client_token_file
            .as_deref()
            .map(TokenFile::open)
            .transpose()?;
        let (name, endpoint) = (name.to_owned(), endpoint.to_owned());
        let telemetry = telemetry.clone();
        Ok(Self {
            inner,
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
        let inner = self::endpoint(name, endpoint, options)?.connect().await;
        let inner = inner.map_err(|error| StartError::Unreachable {
            peer: name.to_owned(),
            endpoint: endpoint.to_owned(),
            reason: root_cause(&error),
        })?;
        Ok(Self { inner, ..channel })
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

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner
            .poll_ready(context)
            .map_err(|error| self.peer.explain(&error))
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
        let sent = self.inner.call(request);
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
                    Ok(response) => Ok(call.watch(answer::guard(response, deadline, peer))),
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
    fn explain(&self, error: &transport::Error) -> Status {
        let Self { name, endpoint, .. } = self;
        let cause = root_cause(error);
        if cause.contains("Timeout expired") {
            return self.late();
        }
        let text = if is_connect(error) {
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

fn endpoint(name: &str, url: &str, options: &ClientOptions) -> Result<Endpoint, StartError> {
    let invalid = || StartError::Endpoint {
        peer: name.to_owned(),
        endpoint: url.to_owned(),
    };
    let parsed = url::Url::parse(url).map_err(|_| invalid())?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
        return Err(invalid());
    }
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|_| invalid())?
        .connect_timeout(Duration::from_millis(options.connect_timeout_ms))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    match parsed.scheme() {
        "https" => endpoint
            .tls_config(tls(name, options)?)
            .map_err(StartError::Tls),
        _ => Ok(endpoint),
    }
}

/// A peer that vanished without closing is noticed after these two.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

fn tls(name: &str, options: &ClientOptions) -> Result<ClientTlsConfig, StartError> {
    crate::telemetry::install_crypto();
    let Some(authority) = &options.ca_file else {
        let text = format!("the endpoint of {name} is https: pass --ca-file");
        return Err(StartError::Options(text));
    };
    let authority = Certificate::from_pem(read("the authority", authority)?);
    let mut tls = ClientTlsConfig::new().ca_certificate(authority);
    if let (Some(certificate), Some(key)) = (&options.client_cert_file, &options.client_key_file) {
        tls = tls.identity(Identity::from_pem(
            read("the client certificate", certificate)?,
            read("the client key", key)?,
        ));
    }
    Ok(match &options.server_name {
        Some(name) => tls.domain_name(name),
        None => tls,
    })
}

/// The innermost cause, without the system's error number: `connection refused`.
fn root_cause(error: &transport::Error) -> String {
    let Some(last) = causes(error).last() else {
        return error.to_string();
    };
    match last
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind)
    {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(std::io::ErrorKind::TimedOut) => "no answer in time".to_owned(),
        _ => last.to_string(),
    }
}

fn causes(error: &transport::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |&cause| cause.source())
}

/// Whether it failed before a connection stood.
fn is_connect(error: &transport::Error) -> bool {
    causes(error).any(|cause| {
        let text = cause.to_string();
        text.contains("tcp connect error")
            || text.contains("dns error")
            || text.contains("ConnectError")
    })
}

/// Turns tonic's own timer, where it fires first, into the code everybody expects.
fn translate(status: Status, peer: &Peer) -> Status {
    match status.code() {
        Code::Cancelled if status.message() == "Timeout expired" => peer.late(),
        _ => status,
    }
}
