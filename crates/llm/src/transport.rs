//! Requests over HTTP, and what a status, a broken connection or silence means.

use std::{
    path::Path,
    sync::{PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, HeaderMap},
    redirect::Policy,
};
use url::Url;

use crate::{
    Error, Options,
    error::root_cause,
    retry::spread,
    schema::shortened,
    secret::{KeySource, Secret},
    wire,
};

/// Largest refusal that is read, in bytes.
const MAX_REFUSAL_BYTES: usize = 64 << 10;

/// Longest quotation of a server in an error, in bytes.
const MAX_QUOTED_BYTES: usize = 500;

/// A server's address and the way there.
#[derive(Debug)]
pub(crate) struct Transport {
    http: reqwest::Client,
    base: String,
    model: String,
    key: KeySource,
    /// The key that was sent last, for blotting it out of what comes back.
    sent: RwLock<Option<Secret>>,
    idle_timeout: Duration,
    max_answer_bytes: usize,
}

impl Transport {
    /// # Errors
    /// Options without a URL that can be used, or without a key that was promised.
    pub(crate) fn new(options: &Options, model: &str) -> Result<Self, Error> {
        let url = parse_url(options)?;
        let key = KeySource::new(options)?;
        let is_exposed = url.scheme() == "http" && !is_loopback(&url);
        if is_exposed && key != KeySource::None && !options.insecure {
            return Err(Error::Options(format!(
                "refusing to send the key from {key} in plaintext to {}: use https, or give --llm-insecure",
                url.host_str().unwrap_or_default()
            )));
        }
        Ok(Self {
            http: http_client(options, &url)?,
            base: url.as_str().trim_end_matches('/').to_owned(),
            model: model.to_owned(),
            key,
            sent: RwLock::new(None),
            idle_timeout: options.idle_timeout(),
            max_answer_bytes: options.max_answer_bytes,
        })
    }

    /// Posts JSON; what comes back has a good status and its body still to come.
    pub(crate) async fn post<T: serde::Serialize>(
        &self,
        path: &str,
        body: &T,
    ) -> Result<Body, Error> {
        let body = serde_json::to_vec(body).map_err(|error| {
            Error::Options(format!("the request cannot be written as JSON: {error}"))
        })?;
        let request = self.request(Method::POST, path);
        let request = request
            .header("content-type", "application/json")
            .body(body);
        self.send(path, request).await
    }

    /// Gets what lies at a path.
    pub(crate) async fn get(&self, path: &str) -> Result<Body, Error> {
        self.send(path, self.request(Method::GET, path)).await
    }

    /// Posts a form.
    pub(crate) async fn post_form(
        &self,
        path: &str,
        form: reqwest::multipart::Form,
    ) -> Result<Body, Error> {
        self.send(path, self.request(Method::POST, path).multipart(form))
            .await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/{path}", self.base))
    }

    async fn send(&self, path: &str, mut request: RequestBuilder) -> Result<Body, Error> {
        if let Some((secret, header)) = self.key.read().await? {
            request = request.header(AUTHORIZATION, header);
            *self.sent.write().unwrap_or_else(PoisonError::into_inner) = Some(secret);
        }
        let response = request.send().await;
        let response = response.map_err(|error| self.sending(path, &error))?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = Body {
            response,
            received_bytes: 0,
            max_bytes: self.max_answer_bytes,
            idle_timeout: self.idle_timeout,
        };
        if status.is_success() {
            return Ok(body);
        }
        let text = body.refusal_text().await;
        Err(self.refused(path, status, &headers, &self.hide(&text)))
    }

    /// What a server said, with the key blotted out.
    pub(crate) fn hide(&self, text: &str) -> String {
        let sent = self.sent.read().unwrap_or_else(PoisonError::into_inner);
        let secret = sent.as_ref();
        secret.map_or_else(|| text.to_owned(), |secret| secret.hide_in(text))
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    fn sending(&self, path: &str, error: &reqwest::Error) -> Error {
        let reason = root_cause(error);
        let url = self.url(path);
        // rustls' own words: reqwest does not hand out the error behind them.
        if error.is_connect() && reason.contains("certificate") {
            return Error::Untrusted { url, reason };
        }
        if error.is_connect() {
            return Error::Unreachable { url, reason };
        }
        Error::Cut {
            received_bytes: 0,
            reason,
        }
    }

    /// What a status says, with the server's own words.
    fn refused(&self, path: &str, status: StatusCode, headers: &HeaderMap, body: &str) -> Error {
        let (message, code) = wire::refusal(body);
        let message = match message.is_empty() {
            true => status
                .canonical_reason()
                .unwrap_or("no reason given")
                .to_owned(),
            false => shortened(&message, MAX_QUOTED_BYTES),
        };
        let url = self.url(path);
        let is_out_of_credit = code == "insufficient_quota" || code == "billing_hard_limit_reached";
        match status.as_u16() {
            401 | 403 => Error::Unauthorized {
                url,
                status: status.as_u16(),
                message,
                advice: self.key.advice(),
            },
            402 => Error::OutOfCredit { url, message },
            429 if is_out_of_credit => Error::OutOfCredit { url, message },
            404 => Error::NotFound {
                url,
                model: self.model.clone(),
                message,
            },
            status @ (429 | 503 | 529) => Error::Overloaded {
                status,
                message,
                retry_after: retry_after(headers).map(spread),
            },
            status @ (408 | 500 | 502 | 504 | 520..=528) => Error::Server { status, message },
            status => Error::Refused { status, message },
        }
    }
}

/// The body of an answer, read within bounds.
#[derive(Debug)]
pub(crate) struct Body {
    response: Response,
    received_bytes: usize,
    max_bytes: usize,
    idle_timeout: Duration,
}

impl Body {
    /// The same body with another bound, in bytes.
    pub(crate) fn at_most(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Whether the server answers with a stream of events.
    pub(crate) fn is_event_stream(&self) -> bool {
        let kind = self.response.headers().get("content-type");
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        kind.starts_with("text/event-stream")
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let next = tokio::time::timeout(self.idle_timeout, self.response.chunk());
        let next = next.await.map_err(|_| Error::TimedOut {
            what: "word",
            after: self.idle_timeout,
        })?;
        let Some(chunk) = next.map_err(|error| self.cut(&root_cause(&error)))? else {
            return Ok(None);
        };
        self.received_bytes += chunk.len();
        if self.received_bytes > self.max_bytes {
            return Err(Error::TooLarge {
                limit_bytes: self.max_bytes,
            });
        }
        Ok(Some(chunk))
    }

    /// All of it.
    pub(crate) async fn whole(mut self) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    }

    /// The error of an answer that ends too early.
    pub(crate) fn cut(&self, reason: &str) -> Error {
        Error::Cut {
            received_bytes: self.received_bytes,
            reason: reason.to_owned(),
        }
    }

    /// What can be had of a refusal. A refusal that breaks off is one all the same.
    async fn refusal_text(mut self) -> String {
        let mut text = Vec::new();
        self.max_bytes = MAX_REFUSAL_BYTES;
        while let Ok(Some(chunk)) = self.chunk().await {
            text.extend_from_slice(&chunk);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn parse_url(options: &Options) -> Result<Url, Error> {
    let text = options.url.as_deref().unwrap_or_default();
    let advice = "it should look like http://127.0.0.1:8000/v1";
    if text.is_empty() {
        let sentence =
            format!("no language model is named: give --llm-url, or set DIPTYCH_LLM_URL; {advice}");
        return Err(Error::Options(sentence));
    }
    // The text is not quoted before it is known to hold no password.
    let no_url = || Error::Options(format!("--llm-url is no address of a server: {advice}"));
    let url = Url::parse(text).map_err(|_| no_url())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(no_url());
    }
    let holds_secret = !url.username().is_empty() || url.password().is_some();
    if holds_secret || url.query().is_some() || url.fragment().is_some() {
        return Err(Error::Options(format!(
            "--llm-url may hold no name, password or query: {advice}; the key belongs in --llm-key-file or --llm-key-env"
        )));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn http_client(options: &Options, url: &Url) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(options.connect_timeout())
        // A redirect would carry prompts and pictures to where the operator did not point.
        .redirect(Policy::none())
        .user_agent(concat!("diptych/", env!("CARGO_PKG_VERSION")));
    if is_loopback(url) {
        builder = builder.no_proxy();
    }
    if let Some(path) = &options.ca_file {
        builder = builder.add_root_certificate(certificate(path)?);
    }
    builder.build().map_err(Error::Http)
}

fn certificate(path: &Path) -> Result<reqwest::Certificate, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File {
        what: "the authority's certificate",
        path: path.to_owned(),
        source,
    })?;
    reqwest::Certificate::from_pem(&bytes).map_err(Error::Http)
}

/// The wait that a server asks for: milliseconds, seconds, or a date. A year at most.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    const MAX_SECONDS: f64 = 365.0 * 24.0 * 3600.0;
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |name: &str| text(name)?.parse::<f64>().ok();
    let seconds = number("retry-after-ms").map(|count| count / 1000.0);
    let seconds = seconds.or_else(|| number("retry-after"));
    if let Some(seconds) = seconds.filter(|seconds| *seconds >= 0.0) {
        return Some(Duration::from_secs_f64(seconds.min(MAX_SECONDS)));
    }
    let date = httpdate::parse_http_date(text("retry-after")?).ok()?;
    // A date that is past means now.
    let wait = date.duration_since(SystemTime::now()).unwrap_or_default();
    Some(wait.min(Duration::from_secs_f64(MAX_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transport(url: &str, options: Options) -> Result<Transport, Error> {
        let options = Options {
            url: Some(url.to_owned()),
            ..options
        };
        Transport::new(&options, "m")
    }

    #[test]
    fn an_address_with_a_secret_or_without_a_host_is_refused_and_not_quoted() {
        for url in [
            "http://me:hunter2@h/v1",
            "https://h/v1?key=hunter2",
            "h:hunter2",
        ] {
            let error = transport(url, Options::default()).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = transport("", Options::default()).unwrap_err().to_string();
        assert!(error.contains("--llm-url"), "{error}");
    }

    #[test]
    fn a_key_goes_in_plaintext_to_this_machine_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "k").unwrap();
        let options = Options {
            key_file: Some(path),
            ..Options::default()
        };
        assert!(transport("http://127.0.0.1:1/v1", options.clone()).is_ok());
        assert!(transport("https://example.org/v1", options.clone()).is_ok());
        let error = transport("http://example.org/v1", options.clone()).unwrap_err();
        assert!(error.to_string().contains("--llm-insecure"), "{error}");
        let options = Options {
            insecure: true,
            ..options
        };
        assert!(transport("http://example.org/v1", options).is_ok());
    }

    #[test]
    fn a_wait_is_understood_in_every_form_that_servers_use() {
        let wait = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(
            wait("retry-after-ms", "250"),
            Some(Duration::from_millis(250))
        );
        assert_eq!(wait("retry-after", "2"), Some(Duration::from_secs(2)));
        assert_eq!(wait("retry-after", "0.5"), Some(Duration::from_millis(500)));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        let seconds = wait("retry-after", &soon).unwrap().as_secs();
        assert!((88..=90).contains(&seconds), "{seconds}");
        let past = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(wait("retry-after", past), Some(Duration::ZERO));
        assert_eq!(wait("retry-after", "soon"), None);
        assert_eq!(wait("retry-after", "-1"), None);
        let year = Duration::from_secs(365 * 24 * 3600);
        for far in ["1e300", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(wait("retry-after", far), Some(year));
        }
    }
}
