//! What becomes of a call whose deadline passes, as the service answers it.
//!
//! Every client library ends such a call on its own, and so hides what the service does. These
//! calls go over a bare HTTP/2 connection that carries `grpc-timeout` and waits on.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::{Code, Request, Response, Status, Streaming, body::Body};
use url::Url;

use super::{
    Case,
    ledger::{Ledger, Miss, Rule, Seen, collect, sentence},
};

/// How long after the deadline an answer may come: one step of the work, and the way back.
const GRACE: Duration = Duration::from_secs(5);

/// A connection without a clock of its own.
#[derive(Clone)]
pub(super) struct Wire(http2::SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Wire {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Judges a call that takes longer than `deadline`.
pub(super) async fn judge<R, M>(
    ledger: &mut Ledger,
    case: &Case,
    deadline: Duration,
    request: R,
    call: impl AsyncFnOnce(Wire, http::Uri, Request<R>) -> Result<Response<Streaming<M>>, Status>,
) {
    let rule = Rule::must(
        "deadline",
        "A call whose deadline passes ends with DEADLINE_EXCEEDED, and its work with it.",
        "watch grpc-timeout, stop the work when it has passed, and answer DEADLINE_EXCEEDED, not CANCELLED",
    );
    let look = async {
        let (wire, origin) = connect(case).await?;
        let mut request = Request::new(request);
        request.set_timeout(deadline);
        let begun = Instant::now();
        let ended = async { collect(call(wire, origin, request).await).await };
        let ended = tokio::time::timeout(deadline + GRACE, ended).await;
        let seconds = (begun.elapsed().as_secs_f64(), deadline.as_secs_f64());
        let after = format!("{:.2} s, deadline {:.2} s", seconds.0, seconds.1);
        match ended {
            Err(_) => Err(Miss::broken(format!("it went on after {after}"))),
            Ok(Ok(_)) => Err(Miss::not_judged(format!(
                "it had done the work after {after}"
            ))),
            Ok(Err(status)) => late(&status, &after),
        }
    };
    ledger.judge(rule, look).await;
}

fn late(status: &Status, after: &str) -> Seen {
    let seen = format!("{} after {after}", sentence(status));
    match status.code() {
        Code::DeadlineExceeded => Ok(format!("DEADLINE_EXCEEDED after {after}")),
        _ => Err(Miss::broken(seen)),
    }
}

async fn connect(case: &Case) -> Result<(Wire, http::Uri), Miss> {
    let unfit = |why: &str| Miss::not_judged(format!("{why}: looked at over plain HTTP/2 only"));
    let url = Url::parse(&case.endpoint).map_err(|error| Miss::broken(error.to_string()))?;
    if url.scheme() != "http" || case.client.client_token_file.is_some() {
        return Err(unfit("the endpoint wants TLS or a token"));
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let broken = |error: &dyn std::fmt::Display| Miss::broken(format!("no connection: {error}"));
    let socket = TcpStream::connect((host, port))
        .await
        .map_err(|error| broken(&error))?;
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (sender, connection) = shaken.map_err(|error| broken(&error))?;
    // Ends when the last sender is dropped; what it says of its end is nothing to judge.
    tokio::spawn(async { drop(connection.await) });
    let origin = case
        .endpoint
        .parse()
        .map_err(|_| unfit("the endpoint is no plain URI"))?;
    Ok((Wire(sender), origin))
}
