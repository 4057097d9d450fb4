//! The process's metrics, kept by the `metrics` facade and shown in Prometheus' text format; where
//! an OTLP endpoint is set, they are pushed there too.
//!
//! Code anywhere uses `metrics::counter!` and friends; names carry units (`_seconds`, `_bytes`)
//! and the prefix `diptych_` unless a convention names them already.

use std::{sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::layers::FanoutBuilder;

use crate::otlp_metrics::Otlp;

/// Seconds, from a cache hit to a long render.
pub(crate) const SECONDS_BUCKETS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0,
];

/// How often samples are folded into buckets, so that memory stays flat when nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The depth of one queue, as the gauge `diptych_queue_depth{service, queue}`: what waits for the
/// device, not what runs. Autoscalers read it.
#[derive(Debug, Clone)]
pub struct QueueDepth {
    service: String,
    queue: &'static str,
}

impl QueueDepth {
    /// The gauge of `queue` in `service`; it shows 0 from now on.
    pub fn new(service: impl Into<String>, queue: &'static str) -> Self {
        install();
        let depth = Self {
            service: service.into(),
            queue,
        };
        depth.set(0);
        depth
    }

    /// Shows `waiting` items.
    pub fn set(&self, waiting: usize) {
        let service = self.service.clone();
        metrics::gauge!("diptych_queue_depth", "service" => service, "queue" => self.queue)
            .set(waiting as f64);
    }
}

/// Begins to keep metrics. Called by [`serve`](crate::serve()); more calls do nothing.
pub fn install() {
    let _installed = handle();
}

/// All metrics of the process, in Prometheus' text format.
pub fn render() -> String {
    handle().map(PrometheusHandle::render).unwrap_or_default()
}

fn handle() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE.get_or_init(start).as_ref()
}

/// `None` when the embedding program has a recorder of its own: then that one gets the metrics.
fn start() -> Option<PrometheusHandle> {
    let page = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .ok()?
        .build_recorder();
    let handle = page.handle();
    let both = FanoutBuilder::default()
        .add_recorder(page)
        .add_recorder(Otlp);
    metrics::set_global_recorder(both.build()).ok()?;
    let upkeep = handle.clone();
    let spawned = std::thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(move || {
            loop {
                std::thread::sleep(UPKEEP_INTERVAL);
                upkeep.run_upkeep();
            }
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "metrics are folded only when scraped");
    }
    Some(handle)
}
