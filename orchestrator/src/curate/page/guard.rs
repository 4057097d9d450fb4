//! Who may speak to the page: whoever knows its token, from the page itself.
//!
//! The token keeps other users and other pages out. The Host header keeps out a foreign page whose
//! name was pointed at this machine after it had loaded, and the Origin header any page that posts
//! without reading.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use rand::{TryRngCore as _, rngs::OsRng};

/// What the page is called by those who may call it.
pub(super) struct Rules {
    /// Names with their port; none where the page is served beyond this machine, whose names there
    /// nobody knows.
    hosts: Vec<String>,
}

impl Rules {
    pub(super) fn of(address: SocketAddr) -> Self {
        let hosts = match address.ip().is_loopback() {
            true => vec![address.to_string(), format!("localhost:{}", address.port())],
            false => Vec::new(),
        };
        Self { hosts }
    }

    /// Why a request is refused; none where it is not.
    fn objection(&self, request: &Request) -> Option<&'static str> {
        let said = |name| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let Some(host) = said(header::HOST) else {
            return Some("the request names no host");
        };
        if !self.hosts.is_empty() && !self.hosts.iter().any(|own| own == host) {
            return Some("this page has another name");
        }
        let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_own = said(header::ORIGIN).is_some_and(|origin| origin == format!("http://{host}"));
        (!is_reading && !is_own).then_some("another page may not write here")
    }
}

/// 128 random bits of the operating system's, in hexadecimal.
pub(super) fn token() -> String {
    let mut bytes = [0_u8; 16];
    OsRng
        .try_fill_bytes(&mut bytes)
        .expect("the operating system gives random numbers once it has started");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses strangers, and tells the browser what an answer may do: nothing but this page's own.
pub(super) async fn check(
    State(rules): State<Arc<Rules>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match rules.objection(&request) {
        Some(reason) => (StatusCode::FORBIDDEN, reason).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
