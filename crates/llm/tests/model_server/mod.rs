//! A chat-completions server over a real socket that answers as a test tells it. The tests of services
//! take this file in by its path: it is nobody's interface.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, body::Body, extract::Request, http::StatusCode, response::Response};
use serde_json::{Value, json};

/// A question as it came.
pub(crate) struct Asked {
    /// Questions before it.
    pub(crate) number: usize,
    /// The body.
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn messages(&self) -> &Vec<Value> {
        self.body["messages"].as_array().unwrap()
    }

    /// Text of a message; of one with pictures, its words.
    pub(crate) fn text(&self, index: usize) -> &str {
        let content = &self.messages()[index]["content"];
        let text = content.as_str().or_else(|| content[0]["text"].as_str());
        text.unwrap()
    }
}

/// A status and a text: the model's words, or what is wrong.
pub(crate) type Reply = (u16, String);

pub(crate) fn says(value: &Value) -> Reply {
    (200, value.to_string())
}

/// A running server; it ends with the runtime of its test.
pub(crate) struct ModelServer {
    url: String,
    asked: Arc<AtomicUsize>,
    looked: Arc<AtomicUsize>,
}

impl ModelServer {
    pub(crate) async fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::late(0, reply).await
    }

    /// A server that lists its models only after so many tries.
    pub(crate) async fn late(
        tries: usize,
        reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (asked, looked) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (asks, looks, reply) = (Arc::clone(&asked), Arc::clone(&looked), Arc::new(reply));
        let serve = move |request: Request| {
            let (asks, looks, reply) = (Arc::clone(&asks), Arc::clone(&looks), Arc::clone(&reply));
            async move {
                if request.uri().path() == "/v1/models" {
                    return match looks.fetch_add(1, Ordering::SeqCst) < tries {
                        true => response(503, &json!({"error": {"message": "loading"}})),
                        false => response(200, &json!({"data": [{"id": "toy"}]})),
                    };
                }
                let bytes = axum::body::to_bytes(request.into_body(), 64 << 20).await;
                let asked = Asked {
                    number: asks.fetch_add(1, Ordering::SeqCst),
                    body: serde_json::from_slice(&bytes.unwrap()).unwrap(),
                };
                let (status, text) = reply(&asked);
                completion(status, &text)
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(serve)).await });
        Self { url, asked, looked }
    }

    /// Questions that came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Times that somebody looked whether it is there.
    pub(crate) fn looked(&self) -> usize {
        self.looked.load(Ordering::SeqCst)
    }

    /// Options that lead here, with waits that no test notices.
    pub(crate) fn options(&self) -> llm::Options {
        llm::Options {
            url: Some(self.url.clone()),
            model: Some("toy".to_owned()),
            first_delay_ms: 1,
            max_delay_ms: 2,
            max_attempts: 2,
            ..llm::Options::default()
        }
    }
}

fn completion(status: u16, text: &str) -> Response {
    if status != 200 {
        return response(status, &json!({"error": {"message": text}}));
    }
    let choice = json!({
        "index": 0, "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    });
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120});
    response(
        200,
        &json!({"object": "chat.completion", "model": "toy-1", "choices": [choice], "usage": usage}),
    )
}

fn response(status: u16, body: &Value) -> Response {
    let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    // A wait beyond every deadline of these tests: whoever is refused for the rate gives up at once.
    let response = response.header("retry-after", if status == 429 { "7200" } else { "0" });
    response.body(Body::from(body.to_string())).unwrap()
}
