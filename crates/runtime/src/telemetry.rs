//! Logs, traces, and the process-wide installations that must happen once.
//!
//! Each service has its own tracer provider, named after it, and spans are made through that
//! provider and not through a global subscriber: five services in one process are five services
//! in a trace as well. It also keeps the spans of h2, hyper and tonic out (3,530 spans in place
//! of 18 in one measured run).

use std::{
    io::IsTerminal as _,
    sync::{Arc, Once},
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator as _,
    trace::{FutureExt as _, SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use tracing_subscriber::EnvFilter;

use crate::{
    StartError,
    options::{LogFormat, TelemetryOptions},
    otlp_metrics, prometheus,
};

/// The telemetry of one service (or of the client). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Telemetry {
    service_name: Arc<str>,
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

/// How long the last spans and metrics may take to leave at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

impl Telemetry {
    /// Starts logs (once in a process) and, where an OTLP endpoint is set, the export of traces and
    /// (once in a process) of metrics.
    /// `service_name` is `service.name` in traces and the name in logs and errors.
    ///
    /// # Errors
    /// An endpoint that is no URL, or a log filter that does not parse.
    pub fn start(
        options: &TelemetryOptions,
        service_name: impl Into<Arc<str>>,
    ) -> Result<Self, StartError> {
        install_crypto();
        start_logs(options)?;
        let service_name = service_name.into();
        let mut provider = SdkTracerProvider::builder().with_resource(resource(&service_name));
        if let Some(endpoint) = options
            .otlp_endpoint
            .as_deref()
            .filter(|url| !url.is_empty())
        {
            let exporter = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build()
                .map_err(|source| StartError::Exporter {
                    endpoint: endpoint.to_owned(),
                    source,
                })?;
            provider = provider.with_batch_exporter(exporter);
            if exports_metrics(options) {
                otlp_metrics::start(endpoint, resource(&service_name))?;
                prometheus::install();
            }
        }
        Ok(Self::with_provider(service_name, provider.build()))
    }

    /// Telemetry that exports nothing. Trace ids are still made and passed on.
    pub fn silent(service_name: impl Into<Arc<str>>) -> Self {
        let service_name = service_name.into();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(&service_name))
            .build();
        Self::with_provider(service_name, provider)
    }

    /// Telemetry over a provider of the caller's own making, for instance one that keeps spans in
    /// memory.
    pub fn with_provider(service_name: impl Into<Arc<str>>, provider: SdkTracerProvider) -> Self {
        let tracer = provider.tracer("diptych");
        Self {
            service_name: service_name.into(),
            tracer,
            provider,
        }
    }

    /// The service's name.
    pub fn service_name(&self) -> &str {
        &self.service_name
    }

    /// The tracer that makes this service's spans.
    pub fn tracer(&self) -> &SdkTracer {
        &self.tracer
    }

    /// Runs `future` in a new span under the current one; onward calls become its children. The
    /// orchestrator wraps a whole command in one.
    pub async fn in_span<F: Future>(&self, name: &'static str, future: F) -> F::Output {
        let context = self.child(name, SpanKind::Internal, &Context::current(), Vec::new());
        let result = future.with_context(context.clone()).await;
        context.span().end();
        result
    }

    /// Sends what is still waiting. A service does this itself when it has stopped.
    pub async fn flush(&self) {
        let provider = self.provider.clone();
        let spans = tokio::task::spawn_blocking(move || provider.force_flush());
        let (spans, ()) = tokio::join!(spans, otlp_metrics::flush(FLUSH_TIMEOUT));
        if let Ok(Err(error)) = spans {
            tracing::warn!(%error, "some spans were not exported");
        }
    }

    /// Sends what is still waiting and ends the export. Spans after this are lost.
    pub async fn shutdown(&self) {
        let provider = self.provider.clone();
        let ended =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT));
        let (ended, ()) = tokio::join!(ended, otlp_metrics::flush(FLUSH_TIMEOUT));
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "some spans were not exported");
        }
    }

    /// A context with a new span in it.
    pub(crate) fn child(
        &self,
        name: impl Into<std::borrow::Cow<'static, str>>,
        kind: SpanKind,
        parent: &Context,
        attributes: Vec<KeyValue>,
    ) -> Context {
        let builder = self
            .tracer
            .span_builder(name)
            .with_kind(kind)
            .with_attributes(attributes);
        parent.with_span(self.tracer.build_with_context(builder, parent))
    }
}

/// Makes AWS-LC the process's TLS provider. Two providers are linked in (ring comes with a
/// dependency), and rustls refuses to guess between them.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only when the embedding program has chosen one already: then that one stands.
        let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

/// The trace a peer's headers name, W3C `traceparent`; the empty context when they name none.
pub(crate) fn extract(headers: &http::HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
}

/// Writes `context`'s span into headers.
pub(crate) fn inject(context: &Context, headers: &mut http::HeaderMap) {
    TraceContextPropagator::new().inject_context(context, &mut HeadersMut(headers));
}

fn resource(service_name: &str) -> Resource {
    Resource::builder()
        .with_service_name(service_name.to_owned())
        .with_attribute(KeyValue::new("service.namespace", "diptych"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

/// OpenTelemetry's own variable is a list; what it says of other exporters is not for us.
fn exports_metrics(options: &TelemetryOptions) -> bool {
    let wanted = options.metrics_exporter.as_deref().unwrap_or_default();
    wanted.is_empty() || wanted.split(',').any(|exporter| exporter.trim() == "otlp")
}

fn start_logs(options: &TelemetryOptions) -> Result<(), StartError> {
    let text = options
        .log
        .clone()
        .or_else(|| std::env::var("RUST_LOG").ok())
        .unwrap_or_else(|| "info,h2=warn,hyper=warn,tonic=warn,opentelemetry=warn".to_owned());
    let filter = EnvFilter::try_new(&text).map_err(|error| {
        StartError::Options(format!("the log filter {text:?} does not parse: {error}"))
    })?;
    let json = match options.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // The first of several services in one process (or the embedding program) sets up the logs.
    let _already_started = match json {
        true => builder.json().flatten_event(true).try_init().is_err(),
        false => builder.try_init().is_err(),
    };
    Ok(())
}

struct Headers<'a>(&'a http::HeaderMap);

impl opentelemetry::propagation::Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut http::HeaderMap);

impl opentelemetry::propagation::Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = http::HeaderName::try_from(key);
        let value = http::HeaderValue::try_from(value);
        if let (Ok(name), Ok(value)) = (name, value)
            && !value.is_empty()
        {
            self.0.insert(name, value);
        }
    }
}
