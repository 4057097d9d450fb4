//! Why a call got no answer, below gRPC: no address, no connection, or one that broke.

use std::{error::Error, io};

use tonic::{Status, transport};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The host has no address that is known. Lookups are shared by calls, hence a text.
    #[error("cannot resolve the host: {0}")]
    Unresolved(String),
    /// The connection does not stand, or broke.
    #[error(transparent)]
    Transport(#[from] transport::Error),
}

/// The address does not take connections.
#[derive(Debug, thiserror::Error)]
#[error("tcp connect error")]
pub(super) struct TcpConnect(#[source] pub(super) io::Error);

impl Failure {
    /// The innermost cause, without the system's error number: `connection refused`.
    pub(super) fn root_cause(&self) -> String {
        match self {
            Self::Unresolved(text) => text.clone(),
            Self::Transport(error) => root_cause(error),
        }
    }

    /// Whether nobody was there to talk to.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Unresolved(_) => true,
            Self::Transport(error) => causes(error).any(<dyn Error>::is::<TcpConnect>),
        }
    }
}

/// Whether it failed before a connection stood, a TLS handshake included: nothing of the call was
/// sent.
pub(super) fn never_stood(error: &transport::Error) -> bool {
    causes(error).any(<dyn Error>::is::<tonic::ConnectError>)
}

/// Whether tonic's own timer fired, which follows the call's `grpc-timeout`.
pub(super) fn is_late(error: &transport::Error) -> bool {
    causes(error).any(<dyn Error>::is::<tonic::TimeoutExpired>)
}

/// Whether an answer's body failed because the peer gave up this one call (`RST_STREAM`). All else
/// that fails a body, but for a timer, is a connection that broke.
pub(super) fn is_reset(body: &Status) -> bool {
    causes(body)
        .filter_map(<dyn Error>::downcast_ref::<h2::Error>)
        .any(h2::Error::is_reset)
}

/// The innermost cause, without the system's error number.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error)
        .last()
        .map_or_else(|| error.to_string(), describe)
}

/// An error of the system in the words of a person.
pub(super) fn describe(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(io::ErrorKind::TimedOut) => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}
