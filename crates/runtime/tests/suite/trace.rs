use std::sync::{Arc, Mutex};

use opentelemetry::trace::{SpanId, SpanKind};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    metrics::v1::{Metric, metric::Data, number_data_point},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use proto::promptgen::v1::promptgen_service_client::PromptgenServiceClient;
use runtime::{
    Channel, Telemetry,
    options::{ClientOptions, TelemetryOptions},
};
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::stage::{SERVICE, Stage, ability, listen, prompts, soon, start_as};

/// Services in one process keep their own names in one trace.
#[tokio::test]
async fn one_trace_goes_through_every_service_under_its_own_name() {
    let spans = Spans::default();
    let client = spans.telemetry("orchestrator");
    let (behind, mut behind_seen) = Stage::new();
    let behind = start_as(behind, &listen(), &spans.telemetry("diffusion")).await;
    let telemetry = spans.telemetry("promptgen");
    let (front, _seen) = Stage::new();
    let front = front.with_onward(connect(&behind.endpoint(), &telemetry));
    let front = start_as(front, &listen(), &telemetry).await;
    let mut caller = connect(&front.endpoint(), &client);

    client
        .in_span("run", async {
            caller.get_ability(ability("onward")).await.expect("served");
            let stream = caller
                .generate_prompts(prompts("onward"))
                .await
                .expect("a stream");
            let mut stream = stream.into_inner();
            while stream.message().await.expect("no error").is_some() {}
        })
        .await;
    behind_seen.recv().await.expect("the first onward call");
    front.stop();
    behind.stop();
    front.wait().await.expect("a clean end");
    behind.wait().await.expect("a clean end");

    let spans = spans.taken();
    let run = spans
        .iter()
        .find(|(_, span)| span.name == "run")
        .expect("the root");
    let trace = run.1.span_context.trace_id();
    assert_eq!(run.1.parent_span_id, SpanId::INVALID);
    for method in ["GetAbility", "GeneratePrompts"] {
        let name = format!("{SERVICE}/{method}");
        let down = |parent: &SpanData, service: &str, kind: SpanKind, name: &str| {
            let child = spans.iter().find(|(of, span)| {
                of == service
                    && span.span_kind == kind
                    && span.name == name
                    && span.parent_span_id == parent.span_context.span_id()
            });
            child
                .unwrap_or_else(|| panic!("{service} has no {kind:?} span {name}: {spans:#?}"))
                .1
                .clone()
        };
        let sent = down(&run.1, "orchestrator", SpanKind::Client, &name);
        let served = down(&sent, "promptgen", SpanKind::Server, &name);
        let onward = format!("{SERVICE}/GetAbility");
        let sent = down(&served, "promptgen", SpanKind::Client, &onward);
        down(&sent, "diffusion", SpanKind::Server, &onward);
    }
    assert_eq!(spans.len(), 9, "nothing else is traced: {spans:#?}");
    assert!(
        spans
            .iter()
            .all(|(_, span)| span.span_context.trace_id() == trace)
    );
}

/// Real export over OTLP, and nothing is lost at the end.
#[tokio::test]
async fn spans_reach_an_otlp_receiver_with_the_name_of_their_service() {
    let (arrived, mut seen) = mpsc::unbounded_channel();
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", socket.local_addr().expect("an address"));
    let receiver = TraceServiceServer::new(Receiver(arrived));
    let server = Server::builder().add_service(receiver);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(socket)));

    let options = TelemetryOptions {
        otlp_endpoint: Some(endpoint),
        ..Default::default()
    };
    for name in ["diffusion", "eval"] {
        let telemetry = Telemetry::start(&options, name).expect("it starts");
        telemetry.in_span("work", async {}).await;
        telemetry.shutdown().await;
        let (service, spans) = soon(seen.recv()).await.expect("spans arrive");
        assert_eq!(
            (service.as_str(), spans.as_slice()),
            (name, &["work".to_owned()][..])
        );
    }
}

/// What is on the Prometheus page reaches the receiver too, and more than one service's end does
/// not end the export.
#[tokio::test]
async fn metrics_reach_an_otlp_receiver_as_they_stand_on_the_page() {
    let (arrived, mut seen) = mpsc::unbounded_channel();
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", socket.local_addr().expect("an address"));
    let server = Server::builder().add_service(MetricsServiceServer::new(Collector(arrived)));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(socket)));
    let options = TelemetryOptions {
        otlp_endpoint: Some(endpoint),
        ..Default::default()
    };
    let telemetry = Telemetry::start(&options, "promptgen").expect("it starts");
    for round in 1..=2 {
        let (stage, _seen) = Stage::new();
        let service = start_as(stage, &listen(), &Telemetry::silent("promptgen")).await;
        let mut caller = connect(&service.endpoint(), &telemetry);
        caller.get_ability(ability("")).await.expect("served");
        service.stop();
        service.wait().await.expect("a clean end");
        runtime::prometheus::QueueDepth::new("promptgen", "prompts").set(round);
        metrics::counter!("diptych_test_total", "outcome" => "hit").increment(2);

        telemetry.flush().await;
        // The service's end has pushed once already.
        let mut found = soon(seen.recv()).await.expect("metrics arrive");
        while let Ok(later) = seen.try_recv() {
            found = later;
        }
        let Some(Data::Histogram(calls)) = data(&found, "rpc_server_call_duration_seconds") else {
            panic!("{found:#?}")
        };
        let calls = &calls.data_points[0];
        assert_eq!(
            (calls.count, calls.explicit_bounds[0]),
            (round as u64, 0.001)
        );
        let method = calls
            .attributes
            .iter()
            .find(|label| label.key == "rpc_method");
        assert_eq!(
            text(method.and_then(|label| label.value.clone()?.value)),
            "GetAbility"
        );
        let Some(Data::Gauge(depth)) = data(&found, "diptych_queue_depth") else {
            panic!("{found:#?}")
        };
        let depth = depth.data_points[0].value;
        assert_eq!(
            depth,
            Some(number_data_point::Value::AsDouble(round as f64))
        );
        let Some(Data::Sum(sum)) = data(&found, "diptych_test_total") else {
            panic!("{found:#?}")
        };
        let sum = sum.data_points[0].value;
        assert_eq!(sum, Some(number_data_point::Value::AsInt(2 * round as i64)));
        let line = format!("diptych_test_total{{outcome=\"hit\"}} {}", 2 * round);
        assert!(runtime::prometheus::render().contains(&line));
    }
}

fn data(found: &[Metric], name: &str) -> Option<Data> {
    let metric = found.iter().find(|metric| metric.name == name)?;
    metric.data.clone()
}

fn text(value: Option<Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

struct Collector(mpsc::UnboundedSender<Vec<Metric>>);

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for group in request.into_inner().resource_metrics {
            let attributes = group.resource.expect("a resource").attributes;
            let name = attributes
                .into_iter()
                .find(|attribute| attribute.key == "service.name");
            assert_eq!(text(name.and_then(|name| name.value?.value)), "promptgen");
            let scopes = group.scope_metrics.into_iter();
            let metrics = scopes.flat_map(|scope| scope.metrics).collect();
            self.0.send(metrics).expect("the test listens");
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

struct Receiver(mpsc::UnboundedSender<(String, Vec<String>)>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for group in request.into_inner().resource_spans {
            let attributes = group.resource.expect("a resource").attributes;
            let name = attributes
                .into_iter()
                .find(|attribute| attribute.key == "service.name");
            let name = name.and_then(|attribute| attribute.value?.value);
            let Some(Value::StringValue(name)) = name else {
                panic!("{name:?}")
            };
            let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let spans = spans.map(|span| span.name).collect();
            self.0.send((name, spans)).expect("the test listens");
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn connect(endpoint: &str, telemetry: &Telemetry) -> PromptgenServiceClient<Channel> {
    let options = ClientOptions::default();
    let channel = Channel::lazy("promptgen", endpoint, &options, telemetry).expect("an endpoint");
    PromptgenServiceClient::new(channel)
}

/// Ended spans with the name of the service that made them.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<(String, SpanData)>>>);

impl Spans {
    fn telemetry(&self, service: &str) -> Telemetry {
        let exporter = Exporter {
            service: service.to_owned(),
            spans: self.clone(),
        };
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter)
            .build();
        Telemetry::with_provider(service, provider)
    }

    fn taken(&self) -> Vec<(String, SpanData)> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

#[derive(Debug)]
struct Exporter {
    service: String,
    spans: Spans,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let named = batch.into_iter().map(|span| (self.service.clone(), span));
        self.spans.0.lock().expect("no panic").extend(named);
        Ok(())
    }
}
