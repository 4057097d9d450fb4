//! One address of a service: its connection, the calls under way on it, and how it has fared.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tonic::{
    Code,
    body::Body,
    transport::{self, Endpoint},
};
use tower::Service;

use super::{
    failure::{TcpConnect, is_late, never_stood},
    health::{Admission, Health},
    target::Target,
};

/// See the module. The connection opens with the first call and again when lost; it outlives the
/// address' place in DNS for as long as calls are under way.
#[derive(Debug)]
pub(super) struct Address {
    at: SocketAddr,
    endpoint: Endpoint,
    connect_timeout: Duration,
    connection: Mutex<Option<transport::Channel>>,
    connecting: Arc<AtomicBool>,
    health: Mutex<Health>,
    in_flight: AtomicUsize,
}

impl Address {
    /// The address `at` of `target`. Nothing is sent yet.
    pub(super) fn new(target: &Target, at: SocketAddr) -> Self {
        Self {
            at,
            endpoint: target.endpoint.clone(),
            connect_timeout: target.connect_timeout,
            connection: Mutex::default(),
            connecting: Arc::default(),
            health: Mutex::default(),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Which address it is.
    pub(super) fn at(&self) -> SocketAddr {
        self.at
    }

    /// Calls under way, streams included.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it may have a call now.
    pub(super) fn admit(&self) -> Admission {
        lock(&self.health).admit(Instant::now())
    }

    /// Connects now, to know whether anybody is there.
    pub(super) async fn connect(&self) -> Result<(), transport::Error> {
        let dialled = self.endpoint.connect_with_connector(self.dial()).await;
        match dialled {
            Ok(connection) => {
                lock(&self.health).answered();
                *lock(&self.connection) = Some(connection);
                Ok(())
            }
            Err(error) => {
                self.report(lock(&self.health).eject(Instant::now()));
                Err(error)
            }
        }
    }

    /// Sends one call, and remembers how it went. The call is under way until the guard goes.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: Request<Body>,
    ) -> Result<(Response<Body>, InFlight), transport::Error> {
        let mut under_way = InFlight::begin(Arc::clone(self));
        let mut connection = self.connection();
        std::future::poll_fn(|context| connection.poll_ready(context)).await?;
        let result = connection.call(request).await;
        under_way.answered = true;
        self.judge(&result);
        result.map(|response| (response, under_way))
    }

    fn connection(&self) -> transport::Channel {
        lock(&self.connection)
            .get_or_insert_with(|| self.endpoint.connect_with_connector_lazy(self.dial()))
            .clone()
    }

    /// Only heads are judged: a stream that ends badly says more about its work than about its
    /// address, and a connection that broke shows with the next call.
    fn judge(&self, result: &Result<Response<Body>, transport::Error>) {
        let mut health = lock(&self.health);
        let now = Instant::now();
        let ejected = match result {
            Ok(response) if is_unavailable(response.headers()) => health.strike(now),
            Ok(_) => {
                health.answered();
                None
            }
            Err(error) if never_stood(error) => health.eject(now),
            // The caller's time was over: that says how much time it gave.
            Err(error) if is_late(error) => None,
            Err(_) => health.strike(now),
        };
        drop(health);
        self.report(ejected);
    }

    /// A caller left before the connection stood. Nobody drives that attempt on, and tonic would
    /// hand its outcome to whoever calls next, however late: it is thrown away.
    fn abandon(&self) {
        *lock(&self.connection) = None;
        self.connecting.store(false, Ordering::Relaxed);
        self.report(lock(&self.health).strike(Instant::now()));
    }

    fn report(&self, ejected: Option<Duration>) {
        let Some(back_off) = ejected else { return };
        let endpoint = self.endpoint.uri().to_string();
        tracing::debug!(endpoint, address = %self.at, ?back_off, "address ejected");
        metrics::counter!("diptych_address_ejections_total", "endpoint" => endpoint).increment(1);
    }

    fn dial(&self) -> impl Dial + use<> {
        let (at, limit) = (self.at, self.connect_timeout);
        let connecting = Arc::clone(&self.connecting);
        tower::service_fn(move |_: Uri| {
            let connecting = Arc::clone(&connecting);
            async move {
                connecting.store(true, Ordering::Relaxed);
                let opened = timeout(limit, open(at)).await;
                connecting.store(false, Ordering::Relaxed);
                let late = |_| Err(io::ErrorKind::TimedOut.into());
                opened
                    .unwrap_or_else(late)
                    .map(TokioIo::new)
                    .map_err(TcpConnect)
            }
        })
    }
}

/// Opens a connection to one address, whatever host the endpoint names.
trait Dial:
    Service<Uri, Response = TokioIo<TcpStream>, Error = TcpConnect, Future: Send> + Send + 'static
{
}

impl<D> Dial for D where
    D: Service<Uri, Response = TokioIo<TcpStream>, Error = TcpConnect, Future: Send>
        + Send
        + 'static
{
}

async fn open(at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn is_unavailable(headers: &HeaderMap) -> bool {
    headers
        .get("grpc-status")
        .is_some_and(|value| Code::from_bytes(value.as_bytes()) == Code::Unavailable)
}

/// A call under way on an address; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    address: Arc<Address>,
    answered: bool,
}

impl InFlight {
    fn begin(address: Arc<Address>) -> Self {
        address.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            address,
            answered: false,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.address.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.answered && self.address.connecting.load(Ordering::Relaxed) {
            self.address.abandon();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
