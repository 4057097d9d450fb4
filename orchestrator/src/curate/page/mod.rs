//! The page: one address on loopback with a token in it, cards to keep or drop, and a button that
//! writes. It loads nothing from elsewhere, and what others wrote reaches it as text only.

mod guard;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderName, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::limit::GlobalConcurrencyLimitLayer;

use super::{BadField, Curation, Entry, Item, Verdict, ability_file::Taken};
use crate::{
    bad_input::{BadInput, is_bad_input},
    output,
};

/// Where the page is served.
pub(crate) struct Listen {
    address: SocketAddr,
}

/// What came of a page.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    /// One sentence.
    pub(crate) summary: String,
}

/// Largest message that the page may send, in bytes: an entry has three texts of 1000 characters.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Requests handled at a time; one person's browser sends fewer.
const MAX_CONCURRENT_REQUESTS: usize = 32;
/// How long open connections may take to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Listen {
    /// An address of this machine, or any where that was asked for in so many words.
    ///
    /// # Errors
    /// An address beyond this machine without `--insecure`.
    pub(crate) fn new(address: SocketAddr, is_insecure: bool) -> Result<Self> {
        let allowed = || -> Result<()> {
            ensure!(
                is_insecure || address.ip().is_loopback(),
                "--listen {address} would show the page beyond this machine in plaintext; choose a loopback address, or say --insecure"
            );
            Ok(())
        };
        allowed().context(BadInput)?;
        Ok(Self { address })
    }
}

/// Shows the candidates until the person ends it or a signal comes, and says what came of it.
///
/// # Errors
/// The address cannot be had.
pub(crate) async fn serve(curation: Curation, shown: Vec<String>, listen: Listen) -> Result<Ended> {
    let Listen { address } = listen;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let token = guard::token();
    let desk = Arc::new(Desk {
        curation: Mutex::new(curation),
        shown,
        said_at_ms: Mutex::default(),
        ended: CancellationToken::new(),
    });
    output::result(&format!("http://{address}/{token}/"))?;
    let app = router(&token, desk.clone(), guard::Rules::of(address));
    let stop = runtime::stop_signal();
    let ended = desk.ended.clone();
    let over = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = ended.cancelled() => {}
        }
    };
    let drained = CancellationToken::new();
    let draining = drained.clone();
    let served = axum::serve(listener, app).with_graceful_shutdown(async move {
        over.await;
        draining.cancel();
    });
    tokio::select! {
        served = served.into_future() => served.context("the page's server ended")?,
        // A browser that keeps a connection open does not keep the program.
        () = async { drained.cancelled().await; tokio::time::sleep(DRAIN_TIMEOUT).await } => {}
    }
    let summary = desk.curation().summary(&desk.shown);
    Ok(Ended { summary })
}

/// What the handlers share.
struct Desk {
    curation: Mutex<Curation>,
    /// Sample ids of the cards.
    shown: Vec<String>,
    /// When the last word on an entry was said, by its id.
    said_at_ms: Mutex<HashMap<String, f64>>,
    ended: CancellationToken,
}

impl Desk {
    fn curation(&self) -> MutexGuard<'_, Curation> {
        // Every change is on the disk before it is in memory, so a handler that stopped left no
        // half of one.
        self.curation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Shared = State<Arc<Desk>>;

fn router(token: &str, desk: Arc<Desk>, rules: guard::Rules) -> Router {
    let at = |path: &str| format!("/{token}/{path}");
    Router::new()
        .route(
            &at(""),
            get(|| async { asset(HTML, "text/html; charset=utf-8") }),
        )
        .route(
            &at("page.js"),
            get(|| async { asset(SCRIPT, "text/javascript; charset=utf-8") }),
        )
        .route(
            &at("page.css"),
            get(|| async {
                asset(
                    concat!(
                        include_str!("../../report/style.css"),
                        include_str!("page.css")
                    ),
                    "text/css; charset=utf-8",
                )
            }),
        )
        .route(&at("state"), get(state))
        .route(&at("pictures/{file}"), get(picture))
        .route(&at("decisions"), post(decide))
        .route(&at("save"), post(save))
        .route(&at("end"), post(end))
        .with_state(desk)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(GlobalConcurrencyLimitLayer::new(MAX_CONCURRENT_REQUESTS))
        .layer(middleware::from_fn_with_state(
            Arc::new(rules),
            guard::check,
        ))
}

const HTML: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

const CONTENT_TYPE: HeaderName = header::CONTENT_TYPE;

fn asset(text: &'static str, media_type: &'static str) -> Response {
    ([(CONTENT_TYPE, media_type)], text).into_response()
}

fn answer(status: StatusCode, value: &serde_json::Value) -> Response {
    (
        status,
        [(CONTENT_TYPE, "application/json")],
        value.to_string(),
    )
        .into_response()
}

fn refused(error: &anyhow::Error) -> Response {
    let causes = error.chain().map(ToString::to_string);
    let causes: Vec<String> = causes.filter(|cause| cause != "bad input").collect();
    let error_text = causes.join(": ");
    if let Some(overtaken) = error.downcast_ref::<Overtaken>() {
        let complaint = json!({ "error": error_text, "stands": overtaken.stands });
        return answer(StatusCode::CONFLICT, &complaint);
    }
    if let Some(BadField { field, .. }) = error.chain().find_map(|cause| cause.downcast_ref()) {
        let complaint = json!({ "error": error_text, "field": field });
        return answer(StatusCode::BAD_REQUEST, &complaint);
    }
    let status = match is_bad_input(error) {
        _ if error.chain().any(|cause| cause.is::<Taken>()) => StatusCode::CONFLICT,
        true => StatusCode::UNPROCESSABLE_ENTITY,
        false => StatusCode::INTERNAL_SERVER_ERROR,
    };
    answer(status, &json!({ "error": error_text }))
}

async fn state(State(desk): Shared) -> Response {
    let curation = desk.curation();
    let state = json!({
        "ability": curation.ability(),
        "file": curation.file().display().to_string(),
        "held": curation.held,
        "cards": curation.cards(&desk.shown),
        "tally": curation.tally(&desk.shown),
    });
    answer(StatusCode::OK, &state)
}

async fn picture(State(desk): Shared, Path(file): Path<String>) -> Response {
    let Some((plate, path)) = desk.curation().journal.picture(&file) else {
        return answer(
            StatusCode::NOT_FOUND,
            &json!({ "error": "there is no such picture" }),
        );
    };
    match tokio::fs::read(path).await {
        Ok(data) => ([(CONTENT_TYPE, plate.media_type)], data).into_response(),
        Err(error) => refused(&error.into()),
    }
}

/// A word on an entry that came after a later one: what a closing page sends may overtake what it had
/// sent before, and another page's clock may be behind.
#[derive(Debug, thiserror::Error)]
#[error("a later decision on this entry was made elsewhere, and stands")]
struct Overtaken {
    stands: Option<Item>,
}

/// What the page says of one entry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    id: String,
    verdict: Verdict,
    entry: Option<Entry>,
    /// When it was said, in milliseconds of the page's clock; 0 where nobody says.
    #[serde(default)]
    at_ms: f64,
}

async fn decide(State(desk): Shared, body: Bytes) -> Response {
    at_desk(desk, move |desk| {
        let said: Said = serde_json::from_slice(&body)
            .map_err(|error| BadField::new("body", error.to_string()))?;
        let mut curation = desk.curation();
        let mut said_at_ms = desk
            .said_at_ms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let last = said_at_ms.get(&said.id);
        if last.is_some_and(|&last| said.at_ms < last) {
            let stands = curation.item(&said.id);
            return Err(anyhow::Error::new(Overtaken { stands }));
        }
        curation.decide(&said.id, said.verdict, said.entry)?;
        said_at_ms.insert(said.id, said.at_ms);
        Ok(json!({ "tally": curation.tally(&desk.shown) }))
    })
    .await
}

async fn save(State(desk): Shared) -> Response {
    at_desk(desk, |desk| {
        let mut curation = desk.curation();
        let entered = curation.save()?;
        Ok(json!({
            "entered": entered,
            "held": curation.held,
            "cards": curation.cards(&desk.shown),
            "tally": curation.tally(&desk.shown),
        }))
    })
    .await
}

async fn end(State(desk): Shared) -> Response {
    desk.ended.cancel();
    answer(StatusCode::OK, &json!({}))
}

/// Does what waits for the disk away from the threads that serve.
async fn at_desk(
    desk: Arc<Desk>,
    work: impl FnOnce(&Desk) -> Result<serde_json::Value> + Send + 'static,
) -> Response {
    let done = tokio::task::spawn_blocking(move || work(&desk)).await;
    match done.context("the work was stopped").flatten() {
        Ok(value) => answer(StatusCode::OK, &value),
        Err(error) => refused(&error),
    }
}
