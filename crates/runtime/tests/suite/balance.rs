//! One name, several servers: calls go where somebody answers.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use proto::promptgen::v1::promptgen_service_client::PromptgenServiceClient;
use runtime::{
    Channel, Telemetry,
    channel::{Lookup, Resolve},
    explain,
    options::{ClientOptions, ListenOptions},
    retry::Retry,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc::UnboundedReceiver,
};
use tonic::{Code, Status, body::Body, transport::server::TcpIncoming};

use crate::{
    security::Authority,
    stage::{Event, Stage, ability, listen, prompts, soon, start},
};

type Client = PromptgenServiceClient<Channel>;

#[tokio::test]
async fn calls_are_spread_and_a_dead_server_is_left_out_until_it_is_back() {
    let (stage, mut first_seen) = Stage::new();
    let first = start(stage.clone(), &on("127.0.0.1")).await;
    let (other, mut second_seen) = Stage::new();
    let second = start(other, &on("127.0.0.2")).await;
    let names = Names::of(&[first.local_addr(), second.local_addr()]);
    let mut client = names.client("http://suite.test:1", &quick());
    for _ in 0..40 {
        client
            .get_ability(ability("remaining"))
            .await
            .expect("served");
    }
    let (one, two) = (drain(&mut first_seen), drain(&mut second_seen));
    assert!(one >= 5 && two >= 5 && one + two == 40, "{one} and {two}");

    let address = first.local_addr();
    first.stop();
    soon(first.wait()).await.expect("a clean end");
    let retry = Retry::default();
    for _ in 0..40 {
        let call = || {
            let mut client = client.clone();
            async move { client.get_ability(ability("remaining")).await }
        };
        retry.call(call).await.expect("the other one serves");
    }
    assert_eq!((drain(&mut first_seen), drain(&mut second_seen)), (0, 40));

    let options = ListenOptions {
        listen: Some(address),
        ..ListenOptions::default()
    };
    let _first = start(stage, &options).await;
    call_until_seen(&client, &mut first_seen).await;
}

#[tokio::test]
async fn calls_follow_the_name_and_a_stream_ends_where_it_began() {
    let (old, mut old_seen) = Stage::new();
    let release = Arc::clone(&old.release);
    let old = start(old, &on("127.0.0.1")).await;
    let (new, mut new_seen) = Stage::new();
    let new = start(new, &on("127.0.0.3")).await;
    let names = Names::of(&[old.local_addr()]);
    let mut client = names.client("http://suite.test:1", &quick());
    let stream = client.generate_prompts(prompts("wait")).await;
    let mut stream = stream.expect("a stream").into_inner();
    stream
        .message()
        .await
        .expect("no error")
        .expect("the first");
    client
        .get_ability(ability("remaining"))
        .await
        .expect("served");
    assert_eq!(drain(&mut old_seen), 1);

    names.set(&[old.local_addr(), new.local_addr()]);
    call_until_seen(&client, &mut new_seen).await;
    names.set(&[new.local_addr()]);
    names.looked_up_twice().await;
    drain(&mut old_seen);
    for _ in 0..20 {
        client
            .get_ability(ability("remaining"))
            .await
            .expect("served");
    }
    assert_eq!(drain(&mut old_seen), 0, "it has left the name");

    release.notify_one();
    soon(stream.message())
        .await
        .expect("no error")
        .expect("the second");
    assert!(soon(stream.message()).await.expect("no error").is_none());
}

#[tokio::test]
async fn when_all_are_dead_it_is_said_at_once_and_a_new_address_is_found_before_its_time() {
    let (one, two) = (closed("127.0.0.1").await, closed("127.0.0.2").await);
    let names = Names::of(&[one, two]);
    let hourly = ClientOptions {
        resolve_interval_ms: 3_600_000,
        ..ClientOptions::default()
    };
    let mut client = names.client("http://suite.test:50051", &hourly);
    let sentence = |reason: &str| {
        format!(
            "cannot reach promptgen at http://suite.test:50051: {reason}; start it, or correct --endpoints"
        )
    };
    for _ in 0..5 {
        let began = Instant::now();
        let dead = client.get_ability(ability("")).await.expect_err("dead");
        assert_eq!(dead.code(), Code::Unavailable);
        assert_eq!(explain(&dead), sentence("connection refused"));
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    let (stage, mut seen) = Stage::new();
    let alive = start(stage, &on("127.0.0.3")).await;
    names.set(&[alive.local_addr()]);
    call_until_seen(&client, &mut seen).await;

    let names = Names::of(&[]);
    let mut client = names.client("http://suite.test:50051", &hourly);
    let unknown = client
        .get_ability(ability(""))
        .await
        .expect_err("no address");
    assert_eq!(unknown.code(), Code::Unavailable);
    assert_eq!(explain(&unknown), sentence("no such host"));
    names.set(&[alive.local_addr()]);
    client
        .get_ability(ability(""))
        .await
        .expect("the next lookup finds it");
}

#[tokio::test]
async fn an_address_that_swallows_connections_costs_one_connect_timeout() {
    let (stage, _seen) = Stage::new();
    let good = start(stage, &on("127.0.0.2")).await;
    let (hole, _held) = black_hole().await;
    let names = Names::of(&[hole, good.local_addr()]);
    let options = ClientOptions {
        connect_timeout_ms: 300,
        ..quick()
    };
    let mut client = names.client("http://suite.test:1", &options);
    let began = Instant::now();
    for _ in 0..40 {
        client
            .get_ability(ability(""))
            .await
            .expect("served by the other");
    }
    // One at first, and one for each probe: after 1 s, 2 s, 4 s.
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );

    // Callers that leave before the connection stands, or fails in 5 s, are noticed as well.
    let names = Names::of(&[hole, good.local_addr()]);
    let mut client = names.client("http://suite.test:1", &quick());
    let mut late = 0;
    for _ in 0..40 {
        let mut request = tonic::Request::new(ability(""));
        request.set_timeout(Duration::from_millis(100));
        late += usize::from(client.get_ability(request).await.is_err());
    }
    assert!(late <= 3 + 2, "{late} of 40 calls were late");
}

#[tokio::test]
async fn an_address_that_only_says_unavailable_is_ejected() {
    let (bad, _) = raw(|| Status::unavailable("not I")).await;
    let (stage, _seen) = Stage::new();
    let good = start(stage, &on("127.0.0.2")).await;
    let names = Names::of(&[bad, good.local_addr()]);
    let mut client = names.client("http://suite.test:1", &quick());
    let began = Instant::now();
    let mut failed = 0;
    for _ in 0..60 {
        failed += u64::from(client.get_ability(ability("")).await.is_err());
    }
    let probes = began.elapsed().as_secs();
    assert!(
        (3..=3 + probes).contains(&failed),
        "{failed} of 60, {probes} s"
    );
}

#[tokio::test]
async fn the_name_stays_what_it_was_in_tls_and_in_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new(folder.path(), "server");
    let (cert, key) = authority.issue("suite.test");
    let tls = ListenOptions {
        tls_cert_file: Some(cert),
        tls_key_file: Some(key),
        ..on("127.0.0.1")
    };
    let (stage, _seen) = Stage::new();
    let server = start(stage, &tls).await;
    let options = ClientOptions {
        ca_file: Some(authority.file.clone()),
        ..quick()
    };
    let names = Names::of(&[server.local_addr()]);
    let mut client = names.client("https://suite.test:1", &options);
    client
        .get_ability(ability(""))
        .await
        .expect("the certificate's name");
    let mut client = names.client("https://other.test:1", &options);
    let refused = client
        .get_ability(ability(""))
        .await
        .expect_err("another name");
    assert!(refused.message().contains("cannot trust"), "{refused}");

    let (address, seen) = raw(|| Status::not_found("")).await;
    let mut client = Names::of(&[address]).client("http://suite.test:1234", &quick());
    client
        .get_ability(ability(""))
        .await
        .expect_err("not found");
    assert_eq!(*seen.lock().expect("no panic"), ["suite.test:1234"]);
}

#[tokio::test]
async fn the_last_clone_takes_every_task_along() {
    let (stage, _seen) = Stage::new();
    let server = start(stage, &on("127.0.0.1")).await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let names = Names::of(&[server.local_addr()]);
    for endpoint in ["http://suite.test:1", server.endpoint().as_str()] {
        let client = names.client(endpoint, &quick());
        let mut clone = client.clone();
        drop(client);
        clone.get_ability(ability("")).await.expect("served");
        assert!(tasks() > before);
        drop(clone);
        soon(async {
            while tasks() > before {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// A resolver whose answers the test sets.
#[derive(Debug, Clone, Default)]
struct Names {
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    lookups: Arc<AtomicUsize>,
}

impl Resolve for Names {
    fn resolve(&self, _host: &str, _port: u16) -> Lookup {
        let found = self.addresses.lock().expect("no panic").clone();
        self.lookups.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(match found.is_empty() {
            true => Err(io::Error::other("no such host")),
            false => Ok(found),
        }))
    }
}

impl Names {
    fn of(addresses: &[SocketAddr]) -> Self {
        let names = Self::default();
        names.set(addresses);
        names
    }

    fn set(&self, addresses: &[SocketAddr]) {
        *self.addresses.lock().expect("no panic") = addresses.to_vec();
    }

    fn client(&self, endpoint: &str, options: &ClientOptions) -> Client {
        let telemetry = Telemetry::silent("test");
        let channel = Channel::lazy("promptgen", endpoint, options, &telemetry);
        let channel = channel.expect("an endpoint").with_resolver(self.clone());
        PromptgenServiceClient::new(channel)
    }

    /// After the second lookup the outcome of the first is known.
    async fn looked_up_twice(&self) {
        let enough = self.lookups.load(Ordering::SeqCst) + 2;
        soon(async {
            while self.lookups.load(Ordering::SeqCst) < enough {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

fn quick() -> ClientOptions {
    ClientOptions {
        resolve_interval_ms: 20,
        ..ClientOptions::default()
    }
}

fn on(ip: &str) -> ListenOptions {
    ListenOptions {
        listen: Some(format!("{ip}:0").parse().expect("an address")),
        ..listen()
    }
}

/// How many calls a stage has told of.
fn drain(seen: &mut UnboundedReceiver<Event>) -> usize {
    let mut calls = 0;
    while let Ok(event) = seen.try_recv() {
        calls += usize::from(matches!(event, Event::Remaining(_)));
    }
    calls
}

async fn call_until_seen(client: &Client, seen: &mut UnboundedReceiver<Event>) {
    let mut client = client.clone();
    soon(async {
        while drain(seen) == 0 {
            let _dead_at_first = client.get_ability(ability("remaining")).await;
        }
    })
    .await;
}

/// A port that was free a moment ago, and that nobody listens on.
async fn closed(ip: &str) -> SocketAddr {
    let socket = TcpListener::bind((ip, 0)).await.expect("a free port");
    socket.local_addr().expect("an address")
}

/// A socket whose queue of connections is full: the system drops what else comes, as a pod's
/// address does when the pod is gone.
async fn black_hole() -> (SocketAddr, (TcpListener, Vec<TcpStream>)) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a free port");
    let listener = socket.listen(1).expect("a queue of one");
    let address = listener.local_addr().expect("an address");
    let mut held = Vec::new();
    let one_more = || tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address));
    while let Ok(connected) = one_more().await {
        held.push(connected.expect("queued"));
    }
    (address, (listener, held))
}

/// A server that answers every call with a status, and keeps the authorities it was called by.
async fn raw(
    status: impl Fn() -> Status + Clone + Send + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let answer = tower::service_fn(move |request: http::Request<Body>| {
        let authority = request.uri().authority().map(ToString::to_string);
        told.lock().expect("no panic").extend(authority);
        std::future::ready(Ok::<_, std::convert::Infallible>(
            status().into_http::<Body>(),
        ))
    });
    let server = tonic::transport::Server::builder();
    tokio::spawn(server.serve_with_incoming(answer, TcpIncoming::from(listener)));
    (address, seen)
}
