//! Sockets a service may listen on, bound before anything slow begins.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use tokio::net::TcpListener;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::{StartError, options::ListenOptions, token::TokenFile};

/// Bound sockets, with the certificates and the token that guard them. Nothing is accepted yet.
#[derive(Debug)]
pub struct Listener {
    pub(crate) calls: TcpListener,
    pub(crate) health: Option<TcpListener>,
    pub(crate) tls: Option<ServerTlsConfig>,
    pub(crate) token: Option<TokenFile>,
    pub(crate) options: ListenOptions,
    pub(crate) address: SocketAddr,
    pub(crate) health_address: Option<SocketAddr>,
}

/// A peer that opens a connection and says nothing holds it no longer than this.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

impl Listener {
    /// Binds what the options say; without `--listen`, `default_port` on loopback.
    ///
    /// # Errors
    /// A port in use, an address beyond loopback without TLS or `--insecure`, files that cannot be
    /// read: each a sentence that says what to do.
    pub async fn bind(options: &ListenOptions, default_port: u16) -> Result<Self, StartError> {
        let wanted = options.listen.unwrap_or(SocketAddr::new(
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            default_port,
        ));
        check_bounds(options)?;
        let tls = tls(options)?;
        if !wanted.ip().is_loopback() && tls.is_none() && !options.insecure {
            return Err(StartError::Exposed { address: wanted });
        }
        let token = options
            .token_file
            .as_deref()
            .map(TokenFile::open)
            .transpose()?;
        let (calls, address) = bind(wanted).await?;
        let (health, health_address) = match options.health_listen {
            Some(wanted) => bind(wanted)
                .await
                .map(|(socket, at)| (Some(socket), Some(at)))?,
            None => (None, None),
        };
        let options = options.clone();
        Ok(Self {
            calls,
            health,
            tls,
            token,
            options,
            address,
            health_address,
        })
    }

    /// Where callers reach it; the port is the real one when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => StartError::PortInUse { address },
        _ => StartError::Listen { address, source },
    };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    let actual = socket.local_addr().map_err(failed)?;
    Ok((socket, actual))
}

fn check_bounds(options: &ListenOptions) -> Result<(), StartError> {
    let refuse = |text: &str| Err(StartError::Options(text.to_owned()));
    if options.max_concurrent_requests == 0 {
        return refuse("--max-concurrent-requests must be at least 1");
    }
    if options.max_message_bytes < 1024 {
        return refuse("--max-message-bytes must be at least 1024");
    }
    if options.request_timeout_seconds == 0 {
        return refuse("--request-timeout-seconds must be at least 1");
    }
    Ok(())
}

fn tls(options: &ListenOptions) -> Result<Option<ServerTlsConfig>, StartError> {
    let (certificate, key) = match (&options.tls_cert_file, &options.tls_key_file) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) if options.tls_client_ca_file.is_none() => return Ok(None),
        _ => {
            let text = "TLS needs both --tls-cert-file and --tls-key-file";
            return Err(StartError::Options(text.to_owned()));
        }
    };
    crate::telemetry::install_crypto();
    let identity = Identity::from_pem(
        read("the certificate", certificate)?,
        read("the private key", key)?,
    );
    let mut tls = ServerTlsConfig::new()
        .identity(identity)
        .timeout(HANDSHAKE_TIMEOUT);
    if let Some(authority) = &options.tls_client_ca_file {
        let pem = read("the client authority", authority)?;
        tls = tls.client_ca_root(Certificate::from_pem(pem));
    }
    Ok(Some(tls))
}

pub(crate) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|source| StartError::File {
        what,
        path: path.to_owned(),
        source,
    })
}
