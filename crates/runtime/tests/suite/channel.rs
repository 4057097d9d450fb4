use runtime::{
    Channel, StartError, Telemetry, explain,
    options::{ClientOptions, ListenOptions},
};
use tonic::{Code, body::Body};

use crate::stage::{Stage, ability, client, listen, soon, start};

#[tokio::test]
async fn a_closed_port_is_one_clear_sentence() {
    // A port that was free a moment ago, and that nobody listens on.
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
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
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
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
