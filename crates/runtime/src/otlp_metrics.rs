//! The same metrics as on the Prometheus page, pushed over OTLP where an endpoint is set.
//!
//! Code declares a metric once, through the `metrics` facade; the recorder of the process feeds
//! both. The metrics are the process's and carry the name of the first telemetry that was started
//! in it: five services in one process share their counters anyway. A handle that was made before
//! the export began is not exported; the suite makes them where it uses them.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use metrics_util::registry::{Registry, Storage};
use opentelemetry::{
    KeyValue,
    metrics::{self as otel, Meter, MeterProvider as _},
};
use opentelemetry_otlp::{MetricExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};

use crate::{StartError, prometheus::SECONDS_BUCKETS};

struct Export {
    provider: SdkMeterProvider,
    registry: Registry<Key, Instruments>,
}

static EXPORT: OnceLock<Export> = OnceLock::new();

/// An attempt to export gives up after this; the next brings the same sums.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// Begins to push all metrics of the process to `endpoint`, every 60 s
/// (`OTEL_METRIC_EXPORT_INTERVAL`). More calls do nothing.
pub(crate) fn start(endpoint: &str, resource: Resource) -> Result<(), StartError> {
    if EXPORT.get().is_some() {
        return Ok(());
    }
    let exporter = MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|source| StartError::Exporter {
            endpoint: endpoint.to_owned(),
            source,
        })?;
    let provider = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_periodic_exporter(exporter)
        .build();
    let registry = Registry::new(Instruments(provider.meter("diptych")));
    // Lost only to another service that started at the same moment.
    let _first = EXPORT.set(Export { provider, registry });
    Ok(())
}

/// Pushes now, for so long at most. The export goes on: other services may live in this process.
pub(crate) async fn flush(limit: Duration) {
    let Some(export) = EXPORT.get() else { return };
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread of its own, since the SDK waits without a bound, and a runtime that shuts down
    // waits for its blocking threads.
    let flush = move || tell.send(export.provider.force_flush());
    let spawned = std::thread::Builder::new()
        .name("otlp-flush".to_owned())
        .spawn(flush);
    let ended = tokio::time::timeout(limit, told).await;
    if spawned.is_err() || !matches!(ended, Ok(Ok(Ok(())))) {
        tracing::warn!("some metrics were not exported");
    }
}

/// The half of the process's recorder that leads here. Inert until [`start`].
pub(crate) struct Otlp;

impl Recorder for Otlp {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        EXPORT.get().map_or_else(Counter::noop, |export| {
            let make = |sum: &Arc<Sum>| Counter::from_arc(Arc::clone(sum));
            export.registry.get_or_create_counter(key, make)
        })
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        EXPORT.get().map_or_else(Gauge::noop, |export| {
            let make = |level: &Arc<Level>| Gauge::from_arc(Arc::clone(level));
            export.registry.get_or_create_gauge(key, make)
        })
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        EXPORT.get().map_or_else(Histogram::noop, |export| {
            let make = |spread: &Arc<Spread>| Histogram::from_arc(Arc::clone(spread));
            export.registry.get_or_create_histogram(key, make)
        })
    }
}

/// Makes the instrument of a key, once.
struct Instruments(Meter);

impl Storage<Key> for Instruments {
    type Counter = Arc<Sum>;
    type Gauge = Arc<Level>;
    type Histogram = Arc<Spread>;

    fn counter(&self, key: &Key) -> Arc<Sum> {
        Arc::new(Sum {
            counter: self.0.u64_counter(key.name().to_owned()).build(),
            attributes: attributes(key),
            total: AtomicU64::new(0),
        })
    }

    fn gauge(&self, key: &Key) -> Arc<Level> {
        Arc::new(Level {
            gauge: self.0.f64_gauge(key.name().to_owned()).build(),
            attributes: attributes(key),
            value: Mutex::new(0.0),
        })
    }

    fn histogram(&self, key: &Key) -> Arc<Spread> {
        let mut histogram = self.0.f64_histogram(key.name().to_owned());
        if key.name().ends_with("_seconds") {
            histogram = histogram.with_boundaries(SECONDS_BUCKETS.to_vec());
        }
        Arc::new(Spread {
            histogram: histogram.build(),
            attributes: attributes(key),
        })
    }
}

fn attributes(key: &Key) -> Vec<KeyValue> {
    key.labels()
        .map(|label| KeyValue::new(label.key().to_owned(), label.value().to_owned()))
        .collect()
}

struct Sum {
    counter: otel::Counter<u64>,
    attributes: Vec<KeyValue>,
    total: AtomicU64,
}

impl CounterFn for Sum {
    fn increment(&self, value: u64) {
        self.total.fetch_add(value, Ordering::Relaxed);
        self.counter.add(value, &self.attributes);
    }

    fn absolute(&self, value: u64) {
        let before = self.total.fetch_max(value, Ordering::Relaxed);
        self.counter
            .add(value.saturating_sub(before), &self.attributes);
    }
}

struct Level {
    gauge: otel::Gauge<f64>,
    attributes: Vec<KeyValue>,
    value: Mutex<f64>,
}

impl Level {
    fn change(&self, to: impl FnOnce(f64) -> f64) {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        *value = to(*value);
        self.gauge.record(*value, &self.attributes);
    }
}

impl GaugeFn for Level {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }

    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }

    fn set(&self, to: f64) {
        self.change(|_| to);
    }
}

struct Spread {
    histogram: otel::Histogram<f64>,
    attributes: Vec<KeyValue>,
}

impl HistogramFn for Spread {
    fn record(&self, value: f64) {
        self.histogram.record(value, &self.attributes);
    }
}
