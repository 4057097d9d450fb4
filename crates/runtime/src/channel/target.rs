//! An endpoint as it was given, ready to be resolved and connected to.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use url::Host;

use crate::{StartError, listen::read, options::ClientOptions};

/// See the module. `:authority` and the name in TLS come from the endpoint as it was given, also
/// where its addresses come from elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) host: String,
    pub(super) port: u16,
    /// The one address of an endpoint that names an address: there is nothing to look up.
    pub(super) literal: Option<SocketAddr>,
    pub(super) connect_timeout: Duration,
    pub(super) resolve_interval: Duration,
}

/// A peer that vanished without closing is noticed after these two.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

impl Target {
    /// Reads the endpoint `url` of the service `name`, and the files that its TLS needs.
    pub(super) fn parse(
        name: &str,
        url: &str,
        options: &ClientOptions,
    ) -> Result<Self, StartError> {
        let invalid = || StartError::Endpoint {
            peer: name.to_owned(),
            endpoint: url.to_owned(),
        };
        let parsed = url::Url::parse(url).map_err(|_| invalid())?;
        let (Some(host), Some(port)) = (parsed.host(), parsed.port_or_known_default()) else {
            return Err(invalid());
        };
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|_| invalid())?
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let endpoint = match parsed.scheme() {
            "http" => endpoint,
            "https" => endpoint
                .tls_config(tls(name, options)?)
                .map_err(StartError::Tls)?,
            _ => return Err(invalid()),
        };
        Ok(Self {
            endpoint,
            host: host.to_string(),
            port,
            literal: address(&host).map(|ip| SocketAddr::new(ip, port)),
            connect_timeout: Duration::from_millis(options.connect_timeout_ms),
            resolve_interval: Duration::from_millis(options.resolve_interval_ms),
        })
    }
}

fn address(host: &Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Ipv4(ip) => Some((*ip).into()),
        Host::Ipv6(ip) => Some((*ip).into()),
        Host::Domain(_) => None,
    }
}

fn tls(name: &str, options: &ClientOptions) -> Result<ClientTlsConfig, StartError> {
    crate::telemetry::install_crypto();
    let Some(authority) = &options.ca_file else {
        let text = format!("the endpoint of {name} is https: pass --ca-file");
        return Err(StartError::Options(text));
    };
    let authority = Certificate::from_pem(read("the authority", authority)?);
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(authority)
        .timeout(Duration::from_millis(options.connect_timeout_ms));
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
