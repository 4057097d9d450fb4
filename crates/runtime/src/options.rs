//! Blocks of command-line options that services and clients flatten into their own.
//!
//! Every option has an environment variable `DIPTYCH_…`, except for those that the whole
//! world already spells its own way: `REDIS_URL`, `OTEL_EXPORTER_OTLP_ENDPOINT` and
//! `OTEL_METRICS_EXPORTER`. `Default` of each
//! block is what clap gives without arguments, but for [`ListenOptions`], whose default takes a
//! free port: that is what tests and the embedded mode want.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::{Args, ValueEnum};

/// Where and how a service listens, and its bounds.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenOptions {
    /// Address for callers [default: 127.0.0.1 and the service's own port; port 0 takes a free one].
    #[arg(long, env = "DIPTYCH_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Accept plaintext from beyond this machine.
    #[arg(long, env = "DIPTYCH_INSECURE")]
    pub insecure: bool,
    /// Certificate chain of the server, PEM.
    #[arg(
        long,
        env = "DIPTYCH_TLS_CERT_FILE",
        value_name = "FILE",
        requires = "tls_key_file"
    )]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key of the server, PEM.
    #[arg(
        long,
        env = "DIPTYCH_TLS_KEY_FILE",
        value_name = "FILE",
        requires = "tls_cert_file"
    )]
    pub tls_key_file: Option<PathBuf>,
    /// Authority whose client certificates are accepted, PEM. Callers then need one.
    #[arg(
        long,
        env = "DIPTYCH_TLS_CLIENT_CA_FILE",
        value_name = "FILE",
        requires = "tls_cert_file"
    )]
    pub tls_client_ca_file: Option<PathBuf>,
    /// File with the bearer token that callers must present; read again when it changes.
    #[arg(long, env = "DIPTYCH_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Second, plaintext port that serves gRPC health and /metrics and nothing else.
    #[arg(long, env = "DIPTYCH_HEALTH_LISTEN", value_name = "ADDRESS")]
    pub health_listen: Option<SocketAddr>,
    /// How long running calls may take to end after a stop was asked for, in seconds.
    #[arg(long, env = "DIPTYCH_DRAIN_TIMEOUT_SECONDS", default_value_t = DRAIN_TIMEOUT_SECONDS, value_parser = clap::value_parser!(u64).range(..=MAX_SECONDS), value_name = "SECONDS")]
    pub drain_timeout_seconds: u64,
    /// Largest message accepted or sent, in bytes.
    #[arg(long, env = "DIPTYCH_MAX_MESSAGE_BYTES", default_value_t = MAX_MESSAGE_BYTES, value_name = "BYTES")]
    pub max_message_bytes: usize,
    /// Calls served at a time; the next is refused with RESOURCE_EXHAUSTED.
    #[arg(long, env = "DIPTYCH_MAX_CONCURRENT_REQUESTS", default_value_t = MAX_CONCURRENT_REQUESTS, value_name = "COUNT")]
    pub max_concurrent_requests: usize,
    /// Longest time any call may take, in seconds, whatever its caller allows.
    #[arg(long, env = "DIPTYCH_REQUEST_TIMEOUT_SECONDS", default_value_t = REQUEST_TIMEOUT_SECONDS, value_parser = clap::value_parser!(u64).range(..=MAX_SECONDS), value_name = "SECONDS")]
    pub request_timeout_seconds: u64,
}

/// How a client reaches services.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connecting")]
pub struct ClientOptions {
    /// Authority that signed the servers' certificates, PEM; needed for https endpoints.
    #[arg(long, env = "DIPTYCH_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Certificate chain of this client, PEM, for servers that ask for one.
    #[arg(
        long,
        env = "DIPTYCH_CLIENT_CERT_FILE",
        value_name = "FILE",
        requires = "client_key_file"
    )]
    pub client_cert_file: Option<PathBuf>,
    /// Private key of this client, PEM.
    #[arg(
        long,
        env = "DIPTYCH_CLIENT_KEY_FILE",
        value_name = "FILE",
        requires = "client_cert_file"
    )]
    pub client_key_file: Option<PathBuf>,
    /// Name expected in the servers' certificates, where it is not the endpoint's host.
    #[arg(long, env = "DIPTYCH_SERVER_NAME", value_name = "NAME")]
    pub server_name: Option<String>,
    /// File with the bearer token to present; read again when it changes.
    #[arg(
        long = "client-token-file",
        env = "DIPTYCH_CLIENT_TOKEN_FILE",
        value_name = "FILE"
    )]
    pub client_token_file: Option<PathBuf>,
    /// How long a connection may take to stand, in milliseconds.
    #[arg(long, env = "DIPTYCH_CONNECT_TIMEOUT_MS", default_value_t = CONNECT_TIMEOUT_MS, value_name = "MS")]
    pub connect_timeout_ms: u64,
    /// How often the host of an endpoint is looked up while it is in use, in milliseconds; sooner
    /// when an address has failed.
    #[arg(long, env = "DIPTYCH_RESOLVE_INTERVAL_MS", default_value_t = RESOLVE_INTERVAL_MS, value_name = "MS")]
    pub resolve_interval_ms: u64,
}

/// Logs, traces and metrics.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryOptions {
    /// What is logged, in the syntax of RUST_LOG.
    #[arg(long, env = "DIPTYCH_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How logs look on stderr.
    #[arg(long, env = "DIPTYCH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// OTLP endpoint (gRPC) that receives traces and metrics; nothing is exported without it.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// `none` keeps metrics from an OTLP endpoint that takes only traces.
    #[arg(long, env = "OTEL_METRICS_EXPORTER", value_name = "otlp|none")]
    pub metrics_exporter: Option<String>,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The cache of prompts, answers and embeddings.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheOptions {
    /// Redis shared by several processes, redis:// or rediss://; without it the cache is in-process.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<String>,
    /// How long an entry lives, in seconds.
    #[arg(long, env = "DIPTYCH_CACHE_TTL_SECONDS", default_value_t = CACHE_TTL_SECONDS, value_parser = clap::value_parser!(u64).range(..=MAX_SECONDS), value_name = "SECONDS")]
    pub cache_ttl_seconds: u64,
    /// Memory of the in-process cache, in bytes.
    #[arg(long, env = "DIPTYCH_CACHE_MAX_BYTES", default_value_t = CACHE_MAX_BYTES, value_name = "BYTES")]
    pub cache_max_bytes: u64,
    /// Largest value that is cached at all, in bytes.
    #[arg(long, env = "DIPTYCH_CACHE_MAX_VALUE_BYTES", default_value_t = CACHE_MAX_VALUE_BYTES, value_name = "BYTES")]
    pub cache_max_value_bytes: usize,
    /// Longest wait for one Redis command, in milliseconds.
    #[arg(long, env = "DIPTYCH_CACHE_TIMEOUT_MS", default_value_t = CACHE_TIMEOUT_MS, value_name = "MS")]
    pub cache_timeout_ms: u64,
}

/// Where artefacts may lie.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Artefacts")]
pub struct ArtefactOptions {
    /// Folder under which artefacts are read and written; repeat it for more. New artefacts go
    /// under the first.
    #[arg(
        long = "artefact-root",
        env = "DIPTYCH_ARTEFACT_ROOTS",
        value_delimiter = ':',
        value_name = "DIR"
    )]
    pub artefact_roots: Vec<PathBuf>,
}

/// Ten years: more than any wait here, and far from where clocks and timers overflow.
const MAX_SECONDS: u64 = 10 * 365 * 24 * 3600;
const DRAIN_TIMEOUT_SECONDS: u64 = 25;
const MAX_MESSAGE_BYTES: usize = 16 << 20;
const MAX_CONCURRENT_REQUESTS: usize = 256;
const REQUEST_TIMEOUT_SECONDS: u64 = 6 * 3600;
const CONNECT_TIMEOUT_MS: u64 = 5_000;
const RESOLVE_INTERVAL_MS: u64 = 10_000;
const CACHE_TTL_SECONDS: u64 = 7 * 24 * 3600;
const CACHE_MAX_BYTES: u64 = 256 << 20;
const CACHE_MAX_VALUE_BYTES: usize = 1 << 20;
const CACHE_TIMEOUT_MS: u64 = 200;

impl ListenOptions {
    /// See [`ListenOptions::request_timeout_seconds`].
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds.min(MAX_SECONDS))
    }

    /// See [`ListenOptions::drain_timeout_seconds`].
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.drain_timeout_seconds.min(MAX_SECONDS))
    }
}

impl CacheOptions {
    /// See [`CacheOptions::cache_ttl_seconds`].
    pub fn cache_ttl(&self) -> Duration {
        Duration::from_secs(self.cache_ttl_seconds.min(MAX_SECONDS))
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)),
            insecure: false,
            tls_cert_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
            token_file: None,
            health_listen: None,
            drain_timeout_seconds: DRAIN_TIMEOUT_SECONDS,
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_concurrent_requests: MAX_CONCURRENT_REQUESTS,
            request_timeout_seconds: REQUEST_TIMEOUT_SECONDS,
        }
    }
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            server_name: None,
            client_token_file: None,
            connect_timeout_ms: CONNECT_TIMEOUT_MS,
            resolve_interval_ms: RESOLVE_INTERVAL_MS,
        }
    }
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            redis_url: None,
            cache_ttl_seconds: CACHE_TTL_SECONDS,
            cache_max_bytes: CACHE_MAX_BYTES,
            cache_max_value_bytes: CACHE_MAX_VALUE_BYTES,
            cache_timeout_ms: CACHE_TIMEOUT_MS,
        }
    }
}

/// Checkout that this program was built from. What comes with the suite (`abilities/`, `models/`)
/// is found there unless `DIPTYCH_ASSETS` says otherwise.
pub const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A folder of what comes with the suite.
pub fn under_assets(folder: &str) -> PathBuf {
    let assets = std::env::var_os("DIPTYCH_ASSETS").unwrap_or_else(|| CHECKOUT.into());
    PathBuf::from(assets).join(folder)
}

/// A folder under a name: `NAME=DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFolder {
    /// Name to give in requests.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
}

impl FromStr for NamedFolder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok(Self {
                name: name.to_owned(),
                folder: folder.into(),
            }),
            _ => Err(format!("{text:?} should look like NAME=DIR")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Everything {
        #[command(flatten)]
        listen: ListenOptions,
        #[command(flatten)]
        client: ClientOptions,
        #[command(flatten)]
        telemetry: TelemetryOptions,
        #[command(flatten)]
        cache: CacheOptions,
        #[command(flatten)]
        artefacts: ArtefactOptions,
    }

    #[test]
    fn all_blocks_fit_into_one_command_line_and_say_what_they_miss() {
        let parse = |line: &str| Everything::try_parse_from(line.split_whitespace());
        let options = parse("x --listen 0.0.0.0:50052 --artefact-root /a --artefact-root /b");
        let options = options.expect("a valid line");
        assert_eq!(
            options.listen.max_message_bytes,
            ListenOptions::default().max_message_bytes
        );
        assert_eq!(
            options.client.connect_timeout_ms,
            ClientOptions::default().connect_timeout_ms
        );
        assert_eq!(
            options.cache.cache_max_bytes,
            CacheOptions::default().cache_max_bytes
        );
        assert_eq!(options.telemetry.log_format, LogFormat::Auto);
        assert_eq!(options.artefacts.artefact_roots.len(), 2);
        let error = parse("x --tls-cert-file a.pem").expect_err("the key is missing");
        assert!(error.to_string().contains("--tls-key-file"), "{error}");
        for option in [
            "--cache-ttl-seconds",
            "--request-timeout-seconds",
            "--drain-timeout-seconds",
        ] {
            let error = parse(&format!("x {option} {}", u64::MAX)).expect_err("too long");
            assert!(error.to_string().contains(option), "{error}");
        }
    }
}
