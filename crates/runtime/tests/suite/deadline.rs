use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request as HttpRequest;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use runtime::options::ListenOptions;
use tokio::net::TcpStream;
use tonic::{Code, Request};

use crate::stage::{Event, SERVICE, Stage, ability, client, listen, prompts, soon, start};

#[tokio::test]
async fn a_deadline_ends_a_call_with_its_own_code_and_cancels_the_work() {
    let (stage, mut seen) = Stage::new();
    let handle = start(stage, &listen()).await;
    let mut client = client(&handle.endpoint());
    let mut request = Request::new(ability("wait"));
    request.set_timeout(Duration::from_millis(100));
    let late = soon(client.get_ability(request)).await.expect_err("late");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert_eq!(soon(seen.recv()).await, Some(Event::Began));
    assert_eq!(soon(seen.recv()).await, Some(Event::Cancelled));

    let mut request = Request::new(prompts("wait"));
    request.set_timeout(Duration::from_millis(100));
    let mut stream = client
        .generate_prompts(request)
        .await
        .expect("a stream")
        .into_inner();
    stream
        .message()
        .await
        .expect("no error")
        .expect("the first message");
    let late = soon(stream.message()).await.expect_err("late");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert_eq!(soon(seen.recv()).await, Some(Event::Cancelled));
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_the_work() {
    let (stage, mut seen) = Stage::new();
    let handle = start(stage, &listen()).await;
    let mut client = client(&handle.endpoint());
    let mut leaving = client.clone();
    let call = tokio::spawn(async move { leaving.get_ability(ability("wait")).await });
    assert_eq!(soon(seen.recv()).await, Some(Event::Began));
    call.abort();
    assert_eq!(soon(seen.recv()).await, Some(Event::Cancelled));

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
    drop(stream);
    assert_eq!(soon(seen.recv()).await, Some(Event::Cancelled));
}

#[tokio::test]
async fn the_remaining_time_goes_with_onward_calls_from_handlers_and_from_streams() {
    let (behind, mut seen) = Stage::new();
    let behind = start(behind, &listen()).await;
    let (front, _front_seen) = Stage::new();
    let front = start(front.with_onward(client(&behind.endpoint())), &listen()).await;
    let mut client = client(&front.endpoint());

    let mut request = Request::new(ability("onward"));
    request.set_timeout(Duration::from_secs(20));
    client.get_ability(request).await.expect("served");
    let mut request = Request::new(prompts("onward"));
    request.set_timeout(Duration::from_secs(20));
    let mut stream = client
        .generate_prompts(request)
        .await
        .expect("a stream")
        .into_inner();
    while stream.message().await.expect("no error").is_some() {}

    for _ in 0..2 {
        match soon(seen.recv()).await {
            Some(Event::Remaining(Some(left))) => {
                assert!(
                    left < Duration::from_secs(20) && left > Duration::from_secs(5),
                    "{left:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_server_caps_the_time_of_callers_that_set_none() {
    let (stage, mut seen) = Stage::new();
    let options = ListenOptions {
        request_timeout_seconds: 1,
        ..listen()
    };
    let handle = start(stage, &options).await;
    let began = Instant::now();
    let late = soon(client(&handle.endpoint()).get_ability(ability("wait"))).await;
    assert_eq!(late.expect_err("late").code(), Code::DeadlineExceeded);
    assert!(began.elapsed() >= Duration::from_millis(990));
    assert_eq!(soon(seen.recv()).await, Some(Event::Began));
    assert_eq!(soon(seen.recv()).await, Some(Event::Cancelled));
}

/// A caller whose own timer does not run (Go and Python show CANCELLED then): the answer on the
/// wire must be ours and not tonic's, whose timer runs in the same server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_wire_every_deadline_is_deadline_exceeded() {
    let (stage, _seen) = Stage::new();
    let handle = start(stage, &listen()).await;
    let socket = TcpStream::connect(handle.local_addr())
        .await
        .expect("connected");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    let calls = (0..40).map(|call| {
        let (mut sender, endpoint) = (sender.clone(), handle.endpoint());
        async move {
            let (method, message) = match call % 2 {
                0 => ("GetAbility", &b"\0\0\0\0\x06\x0a\x04wait"[..]),
                _ => ("GeneratePrompts", &b"\0\0\0\0\x06\x0a\x04wait"[..]),
            };
            let request = HttpRequest::post(format!("{endpoint}/{SERVICE}/{method}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("grpc-timeout", format!("{}m", 20 + call))
                .body(Full::new(Bytes::from_static(message)))
                .expect("a request");
            let response = sender.send_request(request).await.expect("an answer");
            let (head, body) = response.into_parts();
            let trailers = body.collect().await.expect("a body").trailers().cloned();
            let status = |headers: &http::HeaderMap| headers.get("grpc-status").cloned();
            status(&head.headers)
                .or_else(|| trailers.as_ref().and_then(status))
                .expect("a status")
        }
    });
    for status in soon(futures::future::join_all(calls)).await {
        assert_eq!(status, "4", "DEADLINE_EXCEEDED");
    }
}
