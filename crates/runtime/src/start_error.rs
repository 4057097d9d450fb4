//! Why a service or a channel could not start: one sentence each, with what to do.

use std::{net::SocketAddr, path::PathBuf};

use crate::Kind;
use crate::error::ServiceError;

/// Why a service or a channel could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process listens there.
    #[error(
        "cannot listen on {address}: port {} is already in use; stop the other process or choose another port (0 takes a free one)",
        address.port()
    )]
    PortInUse {
        /// Where the service wanted to listen.
        address: SocketAddr,
    },
    /// The system refused the address for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where the service wanted to listen.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Plaintext beyond loopback has to be asked for.
    #[error(
        "refusing to listen on {address} without TLS: pass --tls-cert-file and --tls-key-file, or --insecure to accept plaintext from the network"
    )]
    Exposed {
        /// Where the service wanted to listen.
        address: SocketAddr,
    },
    /// Options that make no sense together or hold an impossible value.
    #[error("{0}")]
    Options(String),
    /// A certificate, key or token file cannot be read.
    #[error("cannot read {what} {}", path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Certificates that do not fit each other, or are no certificates.
    #[error("cannot use the TLS files")]
    Tls(#[source] tonic::transport::Error),
    /// The descriptor set handed to reflection is not one.
    #[error("cannot offer reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The exporter of traces and metrics could not be built.
    #[error("cannot export telemetry to {endpoint}")]
    Exporter {
        /// The OTLP endpoint.
        endpoint: String,
        /// What the exporter said.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// The service did not become ready.
    #[error("{service} did not become ready: {message}")]
    WarmUp {
        /// The service's name.
        service: String,
        /// The chain of causes, in one line.
        message: String,
    },
    /// The server ended by an error of its transport.
    #[error("the server stopped")]
    Transport(#[source] tonic::transport::Error),
    /// The server's task panicked.
    #[error("the server's task failed")]
    Task(#[source] tokio::task::JoinError),
    /// Nobody answers there.
    #[error("cannot reach {peer} at {endpoint}: {reason}; start it, or correct --endpoints")]
    Unreachable {
        /// The peer's name.
        peer: String,
        /// Its address, as given.
        endpoint: String,
        /// The root cause.
        reason: String,
    },
    /// The endpoint is not an http or https URL.
    #[error("{endpoint:?} is no endpoint for {peer}: it should look like http://127.0.0.1:50052")]
    Endpoint {
        /// The peer's name.
        peer: String,
        /// Its address, as given.
        endpoint: String,
    },
    /// The cache's address is not one.
    #[error("cannot use REDIS_URL: it should look like redis://host:6379/0")]
    Redis(#[source] redis::RedisError),
}

impl ServiceError for StartError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } => Kind::Unavailable { retry_after: None },
            Self::PortInUse { .. }
            | Self::Listen { .. }
            | Self::Exposed { .. }
            | Self::Options(_)
            | Self::File { .. }
            | Self::Tls(_)
            | Self::Reflection(_)
            | Self::Exporter { .. }
            | Self::WarmUp { .. }
            | Self::Endpoint { .. }
            | Self::Redis(_) => Kind::FailedPrecondition,
            Self::Transport(_) | Self::Task(_) => Kind::Internal,
        }
    }
}
