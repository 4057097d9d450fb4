//! Bearer tokens: without the right one, UNAUTHENTICATED.

use http::{Request, header::AUTHORIZATION};
use tonic::body::Body;

use super::{Next, Reply, Step, refuse};
use crate::{Kind, error::plain, token::TokenFile};

/// See the module. Health checks never come here.
pub(crate) struct Auth {
    pub(crate) token: TokenFile,
}

impl Step for Auth {
    fn run(&self, request: Request<Body>, next: Next) -> Reply {
        let presented = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let problem = match presented.map(bearer) {
            None => Some("this service needs a bearer token: pass --client-token-file"),
            Some(Some(token)) if self.token.accepts(token) => None,
            Some(_) => Some("this bearer token is not the service's"),
        };
        match problem {
            None => next.run(request),
            Some(text) => {
                let status = plain(&Kind::Unauthenticated, text);
                Box::pin(std::future::ready(refuse(status)))
            }
        }
    }
}

/// The token of an `authorization` header; the scheme is case-insensitive (RFC 9110, 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
