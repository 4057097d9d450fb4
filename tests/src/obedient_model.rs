//! A language model that does as it is told: an OpenAI-compatible server over a real socket which
//! reads the orders of promptgen's and dialogue's authors and answers what they ask for, about
//! animals. Its answer is decided by the question alone, so a run that is killed and started again
//! can be held against one that was not.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{Router, body::Bytes, extract::State, routing};
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};

/// The model's name.
pub(crate) const NAME: &str = "obedient";

/// A running server; it ends when it is dropped.
#[derive(Debug)]
pub struct ObedientModel {
    url: String,
    asked: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl ObedientModel {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// No port is free.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let asked = Arc::<AtomicU64>::default();
        let models = || async { json!({"data": [{"id": NAME}]}).to_string() };
        let router = Router::new()
            .route("/v1/models", routing::get(models))
            .route("/v1/chat/completions", routing::post(complete))
            .with_state(Arc::clone(&asked));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            url: format!("http://{address}/v1"),
            asked,
            _runtime: runtime,
        }
    }

    /// Where it listens, as `DIPTYCH_LLM_URL` takes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Questions answered so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn complete(State(asked): State<Arc<AtomicU64>>, question: Bytes) -> String {
    asked.fetch_add(1, Ordering::SeqCst);
    let question: Value = serde_json::from_slice(&question).unwrap_or_default();
    let order = text_of(&question["messages"][1]);
    let answer = match order.split_once("The plan:\n") {
        Some((_, plan)) => conversation(order, plan),
        None => prompt(order),
    };
    let message = json!({"role": "assistant", "content": answer.to_string()});
    let reply = json!({
        "object": "chat.completion",
        "model": NAME,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    });
    reply.to_string()
}

/// Words of a message; of one with pictures, those beside them.
fn text_of(message: &Value) -> &str {
    let content = &message["content"];
    let text = content.as_str().or_else(|| content[0]["text"].as_str());
    text.unwrap_or_default()
}

/// What an order says behind `name: `, up to its stop.
fn ordered<'a>(order: &'a str, name: &str) -> &'a str {
    let found = order.split_once(&format!("{name}: "));
    let rest = found.map_or("", |(_, rest)| rest);
    rest.split('.').next().unwrap_or_default()
}

fn prompt(order: &str) -> Value {
    let [keyword, scene, style] = ["Keyword", "Setting", "Style"].map(|name| ordered(order, name));
    json!({
        "prompt": format!("(({keyword})), {scene}, {style}"),
        "facts": {
            "subjects": [{"name": keyword, "category": "animal", "count": 1, "attributes": []}],
            "scene": scene, "style": style, "abnormality": "", "relations": [],
        },
    })
}

/// What is told of the picture in a line such as `- thing: fox, 1 of it`.
fn told<'a>(order: &'a str, name: &str) -> &'a str {
    let start = format!("- {name}: ");
    let line = order.lines().find_map(|line| line.strip_prefix(&start));
    line.and_then(|line| line.split(',').next())
        .unwrap_or_default()
}

fn conversation(order: &str, plan: &str) -> Value {
    let rounds = plan.lines().filter_map(|line| line.split_once(". "));
    let turns = rounds.zip(1..).map(|((_, words), number)| {
        let kind = words.split([',', ';']).next().unwrap_or_default();
        turn(order, kind, words.ends_with("yes"), number)
    });
    json!({"turns": turns.collect::<Vec<_>>()})
}

fn turn(order: &str, kind: &str, is_yes: bool, number: u32) -> Value {
    let [thing, scene, style] = ["thing", "setting", "style"].map(|name| told(order, name));
    let others = ["tiger", "frog", "penguin", "cow"];
    let mut others = others.into_iter().filter(|other| *other != thing);
    let (other, third) = (others.next().unwrap_or(""), others.next().unwrap_or(""));
    let it_is = format!("It is a {thing}.");
    let (question, answer, keywords, options) = match kind {
        "yes_no" if is_yes => (
            format!("Is it a {thing}?"),
            format!("Yes, it is a {thing}."),
            vec!["yes"],
            vec![],
        ),
        "yes_no" => (
            format!("Is it a {other}?"),
            format!("No, it is a {thing}."),
            vec!["no"],
            vec![],
        ),
        "wh" => ("Which animal is it?".to_owned(), it_is, vec![thing], vec![]),
        "either_or" => (
            format!("Is it a {thing} or a {other}?"),
            it_is,
            vec![thing],
            vec![],
        ),
        "multiple_choice" => {
            let choices = vec![thing, other, third];
            (
                "Which animal is it?".to_owned(),
                thing.to_owned(),
                vec![thing],
                choices,
            )
        }
        "negative" => (
            format!("Where is the {other}?"),
            format!("There is no {other}, but a {thing}."),
            vec![],
            vec![],
        ),
        "follow_up" => (
            "And where is it?".to_owned(),
            format!("The place is: {scene}."),
            vec![scene],
            vec![],
        ),
        _ => (
            "What does it show?".to_owned(),
            format!("A {thing}, {scene}, {style}."),
            vec![],
            vec![],
        ),
    };
    // A conversation asks nothing twice.
    let question = format!("{question} This is question {number}.");
    json!({
        "kind": kind, "question": question, "options": options,
        "answer": answer, "answer_keywords": keywords,
    })
}
