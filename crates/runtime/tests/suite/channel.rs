use std::net::SocketAddr;

use runtime::{
    Channel, StartError, Telemetry, explain,
    options::{ClientOptions, ListenOptions},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tonic::{Code, body::Body};

use crate::stage::{Stage, ability, client, listen, prompts, soon, start};

#[tokio::test]
async fn a_closed_port_is_one_clear_sentence() {
    // A port that was free a moment ago, and that nobody listens on.
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", socket.local_addr().expect("an address"));
    drop(socket);
    let options = ClientOptions::default();
    let telemetry = Telemetry::silent("test");
    let refused = Channel::connect("diffusion", &endpoint, &options, &telemetry).await;
    let refused = refused.expect_err("closed");
    assert!(matches!(refused, StartError::Unreachable { .. }));
    let sentence = format!(
        "cannot reach diffusion at {endpoint}: connection refused; start it, or correct --endpoints"
    );
    assert_eq!(refused.to_string(), sentence);
    let status = client(&endpoint)
        .get_ability(ability(""))
        .await
        .expect_err("closed");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(explain(&status), sentence.replace("diffusion", "promptgen"));

    for nonsense in ["127.0.0.1:1", "ftp://host", "http://", ""] {
        let error = Channel::lazy("diffusion", nonsense, &options, &telemetry).expect_err("no URL");
        assert!(
            error.to_string().contains("should look like http://"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_channel_comes_back_when_its_service_does() {
    let (stage, _seen) = Stage::new();
    let handle = start(stage.clone(), &listen()).await;
    let address = handle.local_addr();
    let mut client = client(&handle.endpoint());
    client.get_ability(ability("")).await.expect("served");
    handle.stop();
    soon(handle.wait()).await.expect("a clean end");
    let gone = client.get_ability(ability("")).await.expect_err("gone");
    assert_eq!(gone.code(), Code::Unavailable, "{gone}");
    let options = ListenOptions {
        listen: Some(address),
        ..ListenOptions::default()
    };
    let _again = start(stage, &options).await;
    client.get_ability(ability("")).await.expect("served again");
}

#[tokio::test]
async fn a_server_that_dies_in_the_middle_of_a_stream_is_unavailable() {
    let (stage, _seen) = Stage::new();
    let handle = start(stage, &listen()).await;
    let (endpoint, relay) = relay(handle.local_addr()).await;
    let mut client = client(&endpoint);
    let mut stream = client
        .generate_prompts(prompts("wait"))
        .await
        .expect("a stream")
        .into_inner();
    let first = stream.message().await.expect("no error");
    first.expect("the first message");
    // As when its process is killed: the sockets close, and nobody says why.
    relay.abort();
    let broken = soon(stream.message()).await.expect_err("it died");
    assert_eq!(broken.code(), Code::Unavailable, "{broken}");
    let sentence =
        format!("the connection to promptgen at {endpoint} broke in the middle of an answer: ");
    assert!(explain(&broken).starts_with(&sentence), "{broken}");
}

/// A port whose first connection is passed on to `server` until the task is aborted.
async fn relay(server: SocketAddr) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let relay = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.expect("a caller");
        let mut far = TcpStream::connect(server).await.expect("the server");
        let _the_test_may_be_over = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    (endpoint, relay)
}

#[tokio::test]
async fn a_message_over_the_limit_is_resource_exhausted() {
    let (stage, _seen) = Stage::new();
    let options = ListenOptions {
        max_message_bytes: 2048,
        ..listen()
    };
    let handle = start(stage, &options).await;
    let mut client = client(&handle.endpoint());
    let large = client
        .get_ability(ability(&"x".repeat(4096)))
        .await
        .expect_err("too large");
    assert_eq!(large.code(), Code::ResourceExhausted);
    assert!(
        large.message().contains("the limit is: 2048 bytes"),
        "{large}"
    );
    client
        .get_ability(ability(&"x".repeat(1024)))
        .await
        .expect("within the limit");
}

#[tokio::test]
async fn a_peer_with_malformed_status_details_hurts_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let answer = tower::service_fn(|_: http::Request<Body>| async {
        let mut response = tonic::Status::not_found("nothing").into_http::<Body>();
        let nonsense = http::HeaderValue::from_static("%%%");
        response
            .headers_mut()
            .insert("grpc-status-details-bin", nonsense);
        Ok::<_, std::convert::Infallible>(response)
    });
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(tonic::transport::Server::builder().serve_with_incoming(answer, incoming));
    let status = client(&endpoint)
        .get_ability(ability(""))
        .await
        .expect_err("not found");
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "nothing")
    );
}
