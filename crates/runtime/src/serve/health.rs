//! Health of a service, and the second port that shows it beside the metrics.

use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::layers::{Chain, Next, Reply, Step};

/// The health of every gRPC service of one service, and of all as "".
#[derive(Clone)]
pub(crate) struct Health {
    reporter: HealthReporter,
    names: Vec<&'static str>,
}

impl Health {
    /// All NOT_SERVING.
    pub(crate) async fn new(names: &[&'static str]) -> Self {
        let names = names.iter().copied().chain([""]).collect();
        let health = Self {
            reporter: HealthReporter::new(),
            names,
        };
        health.set(false).await;
        health
    }

    pub(crate) async fn set(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in &self.names {
            self.reporter.set_service_status(name, status).await;
        }
    }

    /// The gRPC service that tells it.
    pub(crate) fn server(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Serves the second port: gRPC health, and metrics over HTTP/1 or HTTP/2. Both plaintext:
    /// probes bring no client certificate.
    pub(crate) async fn serve(
        self,
        socket: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let chain = Chain::new(vec![Box::new(Page)], Routes::new(self.server()));
        let incoming = TcpIncoming::from(socket).with_nodelay(Some(true));
        Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(MAX_PROBES_PER_CONNECTION)
            .serve_with_incoming_shutdown(chain, incoming, stop.cancelled_owned())
            .await
    }
}

const MAX_PROBES_PER_CONNECTION: u32 = 16;

/// The page `/metrics`.
struct Page;

impl Step for Page {
    fn run(&self, request: Request<Body>, next: Next) -> Reply {
        if request.uri().path() != "/metrics" {
            return next.run(request);
        }
        let text = crate::prometheus::render();
        let mut response = Response::new(Body::new(Full::new(text.into())));
        let plain = http::HeaderValue::from_static("text/plain; version=0.0.4");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        Box::pin(std::future::ready(response))
    }
}
