//! One way for every service to run: warm up, serve, drain.
//!
//! Health is per service name and for "" as a whole: NOT_SERVING until the warm-up ended well,
//! SERVING, and NOT_SERVING again from the moment a stop is asked for. Running calls then have the
//! drain's time to end; what is left after it is answered UNAVAILABLE. Work in the background ends
//! on the same stop, and within the same time.

mod health;

use std::{collections::HashSet, convert::Infallible, error::Error, net::SocketAddr, sync::Arc};

use http::{Request, Response};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{Duration, Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    server::NamedService,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

use self::health::Health;
use crate::{
    Listener, StartError, Telemetry,
    layers::{
        Chain, Step, admission::Admission, auth::Auth, deadline::Deadline, observe::Observe,
        panics::Panics, probe::Probe,
    },
};

/// What a service offers: gRPC services and the descriptor set that reflection shows of them.
#[derive(Debug)]
pub struct Service {
    telemetry: Telemetry,
    descriptor: &'static [u8],
    names: Vec<&'static str>,
    routes: Routes,
    background: Vec<CancellationToken>,
}

impl Service {
    /// A service named as its telemetry is. `descriptor` is an encoded `FileDescriptorSet`; it may
    /// hold more than this service offers.
    pub fn new(telemetry: &Telemetry, descriptor: &'static [u8]) -> Self {
        let telemetry = telemetry.clone();
        Self {
            telemetry,
            descriptor,
            names: Vec::new(),
            routes: Routes::default(),
            background: Vec::new(),
        }
    }

    /// Names work in the background that ends with the service's stop: the service is not at its
    /// end before `ended` is cancelled, or the drain's time is over.
    #[must_use]
    pub fn with_background(mut self, ended: CancellationToken) -> Self {
        self.background.push(ended);
        self
    }

    /// Adds one generated gRPC server. Its message limits are its own: call
    /// `max_decoding_message_size` and `max_encoding_message_size` on it with
    /// [`max_message_bytes`](crate::options::ListenOptions::max_message_bytes).
    #[must_use]
    pub fn with<S>(mut self, server: S) -> Self
    where
        S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes = self.routes.add_service(server);
        self
    }
}

/// A running service. Dropping it asks the service to stop.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    health_address: Option<SocketAddr>,
    encrypted: bool,
    stop: CancellationToken,
    phase: watch::Receiver<Phase>,
    task: Option<JoinHandle<Result<(), StartError>>>,
}

/// Where in its life a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Warming,
    /// Calls are let in; the health is about to say so. Who reads SERVING is never refused.
    Opening,
    Serving,
    Draining,
}

/// Serves until `stop` is cancelled, then drains. The handle's stop and drop cancel that same token:
/// give each service its own, and give it to whatever is to end with the service.
///
/// Calls are refused with UNAVAILABLE until `warm_up` has ended well; when it fails, the service
/// stops and [`Handle::wait`] says why.
///
/// # Errors
/// A descriptor set that does not parse, certificates that do not fit.
pub async fn serve<W, E>(
    service: Service,
    listener: Listener,
    warm_up: W,
    stop: CancellationToken,
) -> Result<Handle, StartError>
where
    W: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
{
    crate::prometheus::install();
    let (phase, watched) = watch::channel(Phase::Warming);
    let address = listener.address;
    let health_address = listener.health_address;
    let encrypted = listener.tls.is_some();
    let name = service.telemetry.service_name().to_owned();
    let life = Life {
        health: Health::new(&service.names).await,
        phase,
        stop: stop.clone(),
        draining: CancellationToken::new(),
        killed: CancellationToken::new(),
        drain_timeout: listener.options.drain_timeout(),
        telemetry: service.telemetry.clone(),
        name: name.clone(),
        background: service.background.clone(),
    };
    let servers = Servers::start(service, listener, &life).inspect_err(|_| stop.cancel())?;
    tracing::info!(service = name, %address, tls = encrypted, "listening");
    let warm_up = async move {
        warm_up
            .await
            .map_err(|error| one_line(error.into().as_ref()))
    };
    let task = Some(tokio::spawn(life.run(warm_up, servers)));
    Ok(Handle {
        address,
        health_address,
        encrypted,
        stop,
        phase: watched,
        task,
    })
}

/// A token that is cancelled by SIGINT or SIGTERM. A second signal ends the process at once.
pub fn stop_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        next_signal().await;
        tracing::info!("stopping; a second signal ends the process at once");
        asked.cancel();
        next_signal().await;
        std::process::exit(130);
    });
    stop
}

impl Handle {
    /// Where callers reach the service.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where health and metrics are, if a second port was asked for.
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health_address
    }

    /// The URL for a client on this machine.
    pub fn endpoint(&self) -> String {
        let scheme = if self.encrypted { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Returns once the service serves.
    ///
    /// # Errors
    /// The warm-up failed, or the service was stopped before.
    pub async fn ready(&mut self) -> Result<(), StartError> {
        let mut phase = self.phase.clone();
        let reached = phase
            .wait_for(|phase| matches!(phase, Phase::Serving | Phase::Draining))
            .await
            .map(|phase| *phase);
        match reached {
            Ok(Phase::Serving) => Ok(()),
            _ => match self.end().await {
                Err(error) => Err(error),
                Ok(()) => Err(StartError::Options("the service was stopped".to_owned())),
            },
        }
    }

    /// Returns once the service takes no more calls, whether or not it was asked to stop.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut phase = self.phase.clone();
        async move {
            // Ends with an error when the service is gone: that is closed too.
            let _gone = phase.wait_for(|phase| *phase == Phase::Draining).await;
        }
    }

    /// Asks the service to stop; [`wait`](Self::wait) returns when it has.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Why it ended, when nobody asked it to.
    pub async fn wait(mut self) -> Result<(), StartError> {
        self.end().await
    }

    async fn end(&mut self) -> Result<(), StartError> {
        match self.task.take() {
            Some(task) => task.await.map_err(StartError::Task)?,
            None => Ok(()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

type Running = JoinHandle<Result<(), tonic::transport::Error>>;

/// The two servers of a service, running.
struct Servers {
    calls: Running,
    health: Option<Running>,
}

impl Servers {
    fn start(service: Service, listener: Listener, life: &Life) -> Result<Self, StartError> {
        let Listener {
            calls,
            health,
            tls,
            token,
            options,
            ..
        } = listener;
        let steps = steps(&service, token, &options, life);
        let routes = reflect(&service)?.add_service(life.health.server());
        let mut server = Server::builder().http2_keepalive_interval(Some(KEEPALIVE));
        if let Some(tls) = tls {
            server = server.tls_config(tls).map_err(StartError::Tls)?;
        }
        let stop = life.draining.clone().cancelled_owned();
        let incoming = TcpIncoming::from(calls).with_nodelay(Some(true));
        let calls = tokio::spawn(server.serve_with_incoming_shutdown(
            Chain::new(steps, routes),
            incoming,
            stop,
        ));
        // The second port stays until the end: probes are to see NOT_SERVING while we drain.
        let health = health
            .map(|socket| tokio::spawn(life.health.clone().serve(socket, life.killed.clone())));
        Ok(Self { calls, health })
    }
}

/// How often an idle connection is asked whether its peer still lives.
const KEEPALIVE: Duration = Duration::from_secs(60);

fn steps(
    service: &Service,
    token: Option<crate::token::TokenFile>,
    options: &crate::options::ListenOptions,
    life: &Life,
) -> Vec<Box<dyn Step>> {
    let telemetry = &service.telemetry;
    let mut names: HashSet<&'static str> = service.names.iter().copied().collect();
    names.extend(REFLECTION);
    let capacity = options.max_concurrent_requests.min(Semaphore::MAX_PERMITS);
    let mut steps: Vec<Box<dyn Step>> = vec![
        Box::new(Probe {
            draining: life.draining.clone(),
        }),
        Box::new(Observe {
            telemetry: telemetry.clone(),
            services: Arc::new(names),
        }),
        Box::new(Panics),
    ];
    if let Some(token) = token {
        steps.push(Box::new(Auth { token }));
    }
    steps.push(Box::new(Deadline {
        cap: options.request_timeout(),
        draining: life.draining.clone(),
        killed: life.killed.clone(),
        telemetry: telemetry.clone(),
    }));
    steps.push(Box::new(Admission {
        service_name: telemetry.service_name().to_owned(),
        permits: Arc::new(Semaphore::new(capacity)),
        capacity,
        phase: life.phase.subscribe(),
    }));
    steps
}

const REFLECTION: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Adds reflection, in the version of today and in the one that older clients know.
fn reflect(service: &Service) -> Result<Routes, StartError> {
    let builder = || {
        let mut builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(service.descriptor)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let names = service
            .names
            .iter()
            .chain(&REFLECTION)
            .chain(&["grpc.health.v1.Health"]);
        for name in names {
            builder = builder.with_service_name(*name);
        }
        builder
    };
    let routes = service.routes.clone();
    Ok(routes
        .add_service(builder().build_v1().map_err(StartError::Reflection)?)
        .add_service(builder().build_v1alpha().map_err(StartError::Reflection)?))
}

/// A service's life from warm-up to end.
struct Life {
    health: Health,
    phase: watch::Sender<Phase>,
    stop: CancellationToken,
    draining: CancellationToken,
    killed: CancellationToken,
    drain_timeout: Duration,
    telemetry: Telemetry,
    name: String,
    background: Vec<CancellationToken>,
}

impl Life {
    async fn run(
        self,
        warm_up: impl Future<Output = Result<(), String>>,
        mut servers: Servers,
    ) -> Result<(), StartError> {
        let ended = tokio::select! {
            result = self.warm_then_wait(warm_up) => result,
            result = &mut servers.calls => flatten(result),
        };
        self.health.set(false).await;
        self.phase.send_replace(Phase::Draining);
        tracing::info!(service = self.name, "draining");
        // Whoever ended it: a warm-up that failed ends the work in the background too.
        self.stop.cancel();
        self.draining.cancel();
        let deadline = Instant::now() + self.drain_timeout;
        self.drain(servers).await;
        self.join_background(deadline).await;
        self.telemetry.flush().await;
        tracing::info!(service = self.name, "stopped");
        ended
    }

    async fn warm_then_wait(
        &self,
        warm_up: impl Future<Output = Result<(), String>>,
    ) -> Result<(), StartError> {
        tokio::select! {
            warm = warm_up => warm.map_err(|message| {
                StartError::WarmUp { service: self.name.clone(), message }
            })?,
            () = self.stop.cancelled() => return Ok(()),
        }
        self.phase.send_replace(Phase::Opening);
        self.health.set(true).await;
        self.phase.send_replace(Phase::Serving);
        tracing::info!(service = self.name, "serving");
        self.stop.cancelled().await;
        Ok(())
    }

    /// Waits for the work in the background, which was told to end when the drain began.
    async fn join_background(&self, deadline: Instant) {
        let deadline = deadline.max(Instant::now() + LAST_WORDS);
        let ended = async {
            for work in &self.background {
                work.cancelled().await;
            }
        };
        if timeout_at(deadline, ended).await.is_err() {
            tracing::warn!(service = self.name, "work in the background was cut");
        }
    }

    /// Lets running calls end, then ends them.
    async fn drain(&self, mut servers: Servers) {
        let finished = servers.calls.is_finished()
            || timeout(self.drain_timeout, &mut servers.calls)
                .await
                .is_ok();
        self.killed.cancel();
        if !finished && timeout(LAST_WORDS, &mut servers.calls).await.is_err() {
            tracing::warn!(service = self.name, "some connections were cut");
            servers.calls.abort();
        }
        if let Some(mut health) = servers.health
            && timeout(LAST_WORDS, &mut health).await.is_err()
        {
            health.abort();
        }
    }
}

/// How long the answer "the service stopped" may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn flatten(
    result: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> Result<(), StartError> {
    result
        .map_err(StartError::Task)?
        .map_err(StartError::Transport)
}

fn one_line(error: &(dyn Error + Send + Sync + 'static)) -> String {
    crate::error::chain(error as &dyn Error)
}

async fn next_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be caught; only SIGINT stops the service");
            let _interrupted = interrupt.await;
        }
    }
}
