use std::collections::HashSet;

use proto::promptgen::v1::{GetCapabilitiesRequest, ListAbilitiesRequest};
use runtime::{Listener, StartError, Telemetry, options::ListenOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
};
use tonic::{Code, Request};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::stage::{
    Event, SERVICE, Stage, ability, client, listen, prompts, soon, start, start_with,
};

#[tokio::test]
async fn health_follows_the_life_of_a_service() {
    let (stage, mut seen) = Stage::new();
    let release = stage.release.clone();
    let (warm, warmed) = oneshot::channel::<()>();
    let warm_up = async move { warmed.await.map_err(std::io::Error::other) };
    let telemetry = Telemetry::silent("promptgen");
    let mut handle = start_with(stage, &listen(), &telemetry, warm_up).await;
    let main = handle.endpoint();
    let second = format!("http://{}", handle.health_addr().expect("a second port"));

    let refused = client(&main)
        .get_ability(ability(""))
        .await
        .expect_err("not warm");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("loading its model"), "{refused}");
    for endpoint in [&main, &second] {
        assert_eq!(health(endpoint, "").await, ServingStatus::NotServing);
        assert_eq!(health(endpoint, SERVICE).await, ServingStatus::NotServing);
    }

    warm.send(()).expect("it waits for this");
    soon(handle.ready()).await.expect("it serves");
    for endpoint in [&main, &second] {
        assert_eq!(health(endpoint, "").await, ServingStatus::Serving);
        assert_eq!(health(endpoint, SERVICE).await, ServingStatus::Serving);
    }

    let mut waiting = client(&main);
    let call = tokio::spawn(async move { waiting.get_ability(ability("wait")).await });
    assert_eq!(soon(seen.recv()).await, Some(Event::Began));
    let mut watch = watch(&main).await;
    assert_eq!(
        soon(watch.message())
            .await
            .expect("a status")
            .expect("one")
            .status(),
        ServingStatus::Serving
    );
    handle.stop();
    let last = soon(watch.message())
        .await
        .expect("a status")
        .expect("one more");
    assert_eq!(
        last.status(),
        ServingStatus::NotServing,
        "a watcher sees the drain"
    );
    assert_eq!(
        soon(watch.message()).await.expect_err("and the end").code(),
        Code::Unavailable
    );
    assert_eq!(health(&second, "").await, ServingStatus::NotServing);
    release.notify_one();
    soon(call)
        .await
        .expect("no panic")
        .expect("a running call may end");
    soon(handle.wait()).await.expect("a clean end");
    assert!(
        TcpStream::connect(main.trim_start_matches("http://"))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_outlives_the_drain_is_cut_with_a_status() {
    let (stage, mut seen) = Stage::new();
    let options = ListenOptions {
        drain_timeout_seconds: 0,
        ..listen()
    };
    let handle = start(stage, &options).await;
    let mut client = client(&handle.endpoint());
    let mut stream = client
        .generate_prompts(prompts("wait"))
        .await
        .expect("a stream")
        .into_inner();
    stream
        .message()
        .await
        .expect("no error")
        .expect("the first message");
    handle.stop();
    let end = soon(stream.message()).await.expect_err("the drain is over");
    assert_eq!(end.code(), Code::Unavailable);
    assert!(end.message().contains("stopped before"), "{end}");
    assert_eq!(soon(seen.recv()).await, Some(Event::Cancelled));
    soon(handle.wait()).await.expect("a clean end");
}

#[tokio::test]
async fn a_failed_warm_up_ends_the_service_and_says_why() {
    let (stage, _seen) = Stage::new();
    let warm_up = async { Err(std::io::Error::other("weights.safetensors is truncated")) };
    let telemetry = Telemetry::silent("diffusion");
    let mut handle = start_with(stage, &listen(), &telemetry, warm_up).await;
    let error = soon(handle.ready()).await.expect_err("not ready");
    let text = error.to_string();
    assert_eq!(
        text,
        "diffusion did not become ready: weights.safetensors is truncated"
    );
}

#[tokio::test]
async fn a_port_in_use_and_a_public_plaintext_port_are_refused_in_one_sentence() {
    let first = Listener::bind(&ListenOptions::default(), 0)
        .await
        .expect("a free port");
    let address = first.local_addr();
    let taken = ListenOptions {
        listen: Some(address),
        ..ListenOptions::default()
    };
    let error = Listener::bind(&taken, 0).await.expect_err("taken");
    assert!(matches!(error, StartError::PortInUse { .. }));
    assert!(
        error
            .to_string()
            .contains(&format!("port {} is already in use", address.port()))
    );

    let public = ListenOptions {
        listen: Some("0.0.0.0:0".parse().expect("an address")),
        ..ListenOptions::default()
    };
    let error = Listener::bind(&public, 0).await.expect_err("exposed");
    assert!(matches!(error, StartError::Exposed { .. }));
    assert!(error.to_string().contains("--insecure"));
    let asked = ListenOptions {
        insecure: true,
        ..public
    };
    Listener::bind(&asked, 0).await.expect("asked for");
}

#[tokio::test]
async fn reflection_lists_the_service_in_both_versions() {
    let (stage, _seen) = Stage::new();
    let handle = start(stage, &listen()).await;
    let expected: HashSet<String> = [
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    .map(str::to_owned)
    .into();
    macro_rules! listed {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };
            let channel = tonic::transport::Endpoint::from_shared(handle.endpoint())
                .expect("an endpoint")
                .connect_lazy();
            let ask = ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut answers = ServerReflectionClient::new(channel)
                .server_reflection_info(futures::stream::iter([ask]))
                .await
                .expect("reflection")
                .into_inner();
            match answers
                .message()
                .await
                .expect("no error")
                .expect("one")
                .message_response
            {
                Some(MessageResponse::ListServicesResponse(list)) => list
                    .service
                    .into_iter()
                    .map(|service| service.name)
                    .collect::<HashSet<_>>(),
                other => panic!("{other:?}"),
            }
        }};
    }
    assert_eq!(listed!(v1), expected);
    assert_eq!(listed!(v1alpha), expected);
}

#[tokio::test]
async fn a_full_service_refuses_at_once_and_counts_a_stream_to_its_last_byte() {
    let (stage, _seen) = Stage::new();
    let release = stage.release.clone();
    let options = ListenOptions {
        max_concurrent_requests: 1,
        ..listen()
    };
    let handle = start(stage, &options).await;
    let mut client = client(&handle.endpoint());
    let mut stream = client
        .generate_prompts(prompts("wait"))
        .await
        .expect("a stream")
        .into_inner();
    stream
        .message()
        .await
        .expect("no error")
        .expect("the first message");

    let full = soon(client.get_ability(ability("")))
        .await
        .expect_err("full");
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert!(
        runtime::error::retry_after(&full).is_some(),
        "says when to come back"
    );
    assert!(
        runtime::explain(&full).contains("already serving 1 calls"),
        "{full}"
    );
    assert_eq!(health(&handle.endpoint(), "").await, ServingStatus::Serving);

    release.notify_one();
    stream
        .message()
        .await
        .expect("no error")
        .expect("the second message");
    assert!(stream.message().await.expect("no error").is_none());
    // The permit is freed when the server drops the body, just after the last byte left.
    let briefly = std::time::Duration::from_millis(20);
    let retry = runtime::retry::Retry::new(50, briefly, briefly);
    let again = || {
        let mut client = client.clone();
        async move { client.get_ability(ability("")).await }
    };
    soon(retry.call(again)).await.expect("free again");
}

#[tokio::test]
async fn a_panic_is_internal_for_its_own_call_alone() {
    let (stage, _seen) = Stage::new();
    let handle = start(stage, &listen()).await;
    let mut client = client(&handle.endpoint());
    let error = client
        .get_ability(ability("panic"))
        .await
        .expect_err("a panic");
    assert_eq!(error.code(), Code::Internal);
    assert!(!error.message().contains("as asked"));
    let mut stream = client
        .generate_prompts(prompts("panic"))
        .await
        .expect("a stream")
        .into_inner();
    stream
        .message()
        .await
        .expect("no error")
        .expect("the first message");
    assert_eq!(
        stream.message().await.expect_err("a panic").code(),
        Code::Internal
    );
    client
        .get_ability(ability(""))
        .await
        .expect("the service lives");
}

#[tokio::test]
async fn the_second_port_shows_metrics_by_method_and_nothing_of_unknown_ones() {
    let (stage, _seen) = Stage::new();
    let handle = start(stage, &listen()).await;
    let mut client = client(&handle.endpoint());
    // Two methods that no other test calls: metrics are the process's, and it may run them all.
    client
        .get_capabilities(GetCapabilitiesRequest {})
        .await
        .expect("served");
    client
        .list_abilities(ListAbilitiesRequest::default())
        .await
        .expect_err("fails");
    let channel = tonic::transport::Endpoint::from_shared(handle.endpoint())
        .expect("an endpoint")
        .connect()
        .await
        .expect("connected");
    let mut raw = tonic::client::Grpc::new(channel);
    raw.ready().await.expect("ready");
    let path = "/made.up.Service/Method".parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let unknown = raw
        .unary(Request::new(()), path, codec)
        .await
        .expect_err("nobody");
    assert_eq!(unknown.code(), Code::Unimplemented);
    let _gauge = runtime::prometheus::QueueDepth::new("promptgen", "device");

    let page = metrics(&handle).await;
    let count = |method: &str, code: &str| {
        format!(
            "rpc_server_call_duration_seconds_count{{rpc_service=\"{SERVICE}\",rpc_method=\"{method}\",rpc_response_status_code=\"{code}\"}} 1"
        )
    };
    assert!(page.contains(&count("GetCapabilities", "OK")), "{page}");
    assert!(page.contains(&count("ListAbilities", "INTERNAL")), "{page}");
    assert!(
        page.contains("diptych_queue_depth{service=\"promptgen\",queue=\"device\"} 0"),
        "{page}"
    );
    assert!(!page.contains("made.up"), "{page}");
}

async fn metrics(handle: &runtime::Handle) -> String {
    let address = handle.health_addr().expect("a second port");
    let mut socket = TcpStream::connect(address).await.expect("connected");
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    socket.write_all(request).await.expect("sent");
    let mut page = String::new();
    soon(socket.read_to_string(&mut page)).await.expect("read");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    page
}

async fn watch(endpoint: &str) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let channel =
        tonic::transport::Endpoint::from_shared(endpoint.to_owned()).expect("an endpoint");
    let request = HealthCheckRequest {
        service: SERVICE.to_owned(),
    };
    HealthClient::new(channel.connect_lazy())
        .watch(request)
        .await
        .expect("a watch")
        .into_inner()
}

async fn health(endpoint: &str, service: &str) -> ServingStatus {
    let channel =
        tonic::transport::Endpoint::from_shared(endpoint.to_owned()).expect("an endpoint");
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel.connect_lazy())
        .check(request)
        .await;
    answer.expect("an answer").into_inner().status()
}
