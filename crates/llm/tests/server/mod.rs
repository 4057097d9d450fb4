//! A chat-completions server over real sockets that behaves as badly as it is told.

#![allow(dead_code, unreachable_pub, reason = "every user takes what it needs")]

pub mod storm;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use futures::stream;
use serde_json::{Value, json};

/// A request as it came.
pub struct Asked {
    /// How many came before it.
    pub number: usize,
    /// Requests that are being answered, this one included.
    pub in_flight: usize,
    pub path: String,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    /// The body as JSON, or null.
    pub body: Value,
}

impl Asked {
    /// Text of a message, counted from the last.
    pub fn text(&self, from_last: usize) -> String {
        let messages = self.body["messages"].as_array().expect("messages");
        let message = &messages[messages.len() - 1 - from_last];
        message["content"].as_str().expect("a text").to_owned()
    }
}

/// What the server does.
pub enum Reply {
    /// A status, headers and a whole body.
    Whole(u16, Vec<(&'static str, String)>, String),
    /// Good status, a content type, and a body in pieces.
    Pieces(&'static str, Vec<String>, End),
    /// Nothing, for ever.
    Never,
}

/// How a body in pieces ends.
pub enum End {
    Well,
    Cut,
    Never,
}

/// A running server; it ends with the runtime of its test.
pub struct Server {
    /// What belongs into `--llm-url`.
    pub url: String,
    served: Arc<AtomicUsize>,
    /// Told whenever a request ends before its answer did.
    pub left: Arc<tokio::sync::Notify>,
}

impl Server {
    /// A server that answers with what `reply` says, at once.
    pub async fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::with_latency(Duration::ZERO, reply).await
    }

    /// A server whose model takes `latency` for every answer with status 200.
    pub async fn with_latency(
        latency: Duration,
        reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let state = Arc::new(State {
            reply: Box::new(reply),
            latency,
            served: Arc::default(),
            in_flight: Arc::default(),
            left: Arc::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let (served, left) = (Arc::clone(&state.served), Arc::clone(&state.left));
        let serve = move |request: Request| {
            let state = Arc::clone(&state);
            async move { state.serve(request).await }
        };
        let service = Router::new().fallback(serve);
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { url, served, left }
    }

    /// Requests that came.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

struct State {
    reply: Box<dyn Fn(&Asked) -> Reply + Send + Sync>,
    latency: Duration,
    served: Arc<AtomicUsize>,
    in_flight: Arc<AtomicUsize>,
    left: Arc<tokio::sync::Notify>,
}

impl State {
    async fn serve(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let bytes = axum::body::to_bytes(body, 64 << 20).await.expect("a body");
        let flight = Flight::new(&self.in_flight, &self.left);
        let asked = Asked {
            number: self.served.fetch_add(1, Ordering::SeqCst),
            in_flight: flight.count,
            path: parts.uri.path().to_owned(),
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
            bytes,
        };
        let reply = (self.reply)(&asked);
        if matches!(reply, Reply::Whole(200, ..)) && !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let response = respond(reply).await;
        flight.landed();
        response
    }
}

async fn respond(reply: Reply) -> Response {
    match reply {
        Reply::Never => std::future::pending().await,
        Reply::Whole(status, headers, body) => {
            let status = StatusCode::from_u16(status).expect("a status");
            let response = Response::builder().status(status);
            let response = headers
                .into_iter()
                .fold(response, |response, (name, value)| {
                    response.header(name, value)
                });
            response.body(Body::from(body)).expect("a response")
        }
        Reply::Pieces(kind, pieces, end) => {
            let pieces = pieces.into_iter().map(|piece| Ok(Bytes::from(piece)));
            let pieces = futures::StreamExt::chain(stream::iter(pieces), ending(end));
            let response = Response::builder().header("content-type", kind);
            response
                .body(Body::from_stream(pieces))
                .expect("a response")
        }
    }
}

fn ending(end: End) -> stream::BoxStream<'static, Result<Bytes, std::io::Error>> {
    use futures::StreamExt as _;
    match end {
        End::Well => stream::empty().boxed(),
        End::Cut => {
            // Time for what came before it to be sent: hyper drops it with the connection otherwise.
            let cut = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Err(std::io::Error::other("cut on purpose"))
            };
            stream::once(cut).boxed()
        }
        End::Never => stream::pending().boxed(),
    }
}

/// A request that is being answered.
struct Flight {
    in_flight: Arc<AtomicUsize>,
    left: Arc<tokio::sync::Notify>,
    count: usize,
    has_landed: bool,
}

impl Flight {
    fn new(in_flight: &Arc<AtomicUsize>, left: &Arc<tokio::sync::Notify>) -> Self {
        Self {
            count: in_flight.fetch_add(1, Ordering::SeqCst) + 1,
            in_flight: Arc::clone(in_flight),
            left: Arc::clone(left),
            has_landed: false,
        }
    }

    fn landed(mut self) {
        self.has_landed = true;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if !self.has_landed {
            self.left.notify_one();
        }
    }
}

/// A good answer of so many tokens.
pub fn answer(text: &str, prompt_tokens: u64, completion_tokens: u64) -> Reply {
    let body = completion(text, "stop", prompt_tokens, completion_tokens);
    Reply::Whole(200, Vec::new(), body.to_string())
}

/// The body of an answer.
pub fn completion(
    text: &str,
    finish_reason: &str,
    prompt_tokens: u64,
    completion_tokens: u64,
) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "toy-1",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": finish_reason,
        }],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    })
}

/// A refusal in OpenAI's form.
pub fn refusal(status: u16, message: &str) -> Reply {
    let body = json!({"error": {"message": message, "type": "t", "code": null}});
    Reply::Whole(status, Vec::new(), body.to_string())
}

/// The events of a streamed answer.
pub fn events(words: &[&str], prompt_tokens: u64, completion_tokens: u64) -> Vec<String> {
    let event = |choices: Value, usage: Value| {
        let body = json!({"object": "chat.completion.chunk", "model": "toy-1", "choices": choices, "usage": usage});
        format!("data: {body}\r\n\r\n")
    };
    let mut events: Vec<String> = words
        .iter()
        .map(|word| {
            event(
                json!([{"index": 0, "delta": {"content": word}}]),
                Value::Null,
            )
        })
        .collect();
    let end = json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]);
    events.push(event(end, Value::Null));
    let usage = json!({"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens});
    events.push(event(json!([]), usage));
    events.push("data: [DONE]\n\n".to_owned());
    events
}
