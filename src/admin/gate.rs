//! Who may ask: [`Gate`] stands before everything but what everybody may know, unknown paths too, so that a stranger does not
//! learn what there is. It looks at the token, at how often the caller's network was wrong, and at whose page a browser asks for.
//! Not here: what is asked for, what is written down of it.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use super::Caller;
use super::api::said;
use crate::imap::{Secret, escape};
use crate::network::network_of;
use crate::tally::Rates;

/// Told to everybody, whoever asks and from wherever: balancers have no token.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];
/// The status page, which holds no data: no token is asked for.
const PAGE: [&str; 4] = ["/", "/status.css", "/status.js", "/status.svg"];
/// Shown to scrapers, whatever page a browser says it comes from.
const METRICS: &str = "/metrics";
/// What the command line asks for, wherever it finds us.
const OWN_NAMES: [&str; 2] = ["localhost", "mailmux"];
/// What may change something is below it.
const API: &str = "/api/";
const SCHEME: &[u8] = b"Bearer ";
/// A network may be wrong so often at once, and once more every so often.
const WRONG: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);
const WRONG_EVERY: Duration = Duration::from_secs(12);
/// Networks that are told apart; more share what there is.
const NETWORKS: usize = 10_000;
/// How long a wrong token waits for its answer ...
const DELAY: Duration = Duration::from_secs(1);
/// ... and how many wait at once; others are answered at once, with less.
const DELAYED: usize = 32;
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// One door's.
pub(super) struct Gate {
    token: watch::Receiver<Option<Arc<Secret>>>,
    names: watch::Receiver<Arc<[String]>>,
    wrong: Option<Rates<IpAddr>>,
    delayed: Semaphore,
}

/// Why not, and how that is told.
type Refused = (StatusCode, String);

/// What a request is about, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// Whether mailmux lives and is ready.
    Life,
    /// The status page.
    Page,
    /// What is and is not there.
    Look,
    /// A change.
    Change,
}

impl About {
    pub(super) fn of(request: &Parts) -> Self {
        let path = request.uri.path();
        let reads = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
        match path {
            _ if path.starts_with(API) && !reads => Self::Change,
            _ if OPEN.contains(&path) => Self::Life,
            _ if PAGE.contains(&path) => Self::Page,
            _ => Self::Look,
        }
    }
}

impl Gate {
    /// One that asks for this token, and knows mailmux by these names.
    pub(super) fn new(token: watch::Receiver<Option<Arc<Secret>>>, names: watch::Receiver<Arc<[String]>>) -> Self {
        let wrong = Rates::with_most(WRONG_EVERY, WRONG, NETWORKS);
        Self { token, names, wrong, delayed: Semaphore::new(DELAYED) }
    }

    /// Lets a request in, or says why not.
    ///
    /// # Errors
    /// What to answer.
    pub(super) async fn admit(&self, caller: Caller, request: &Parts) -> Result<About, Response> {
        let about = About::of(request);
        // A browser does not reach the socket, and whoever may open it may do everything.
        let Caller::Network(address) = caller else { return Ok(about) };
        if about == About::Life {
            return Ok(about);
        }
        let token = self.token.borrow().clone();
        let asked = self.is_for_us(request, token.is_some()).and_then(|()| is_from_us(request));
        asked.map_err(|(status, why)| no(status, &why))?;
        match token {
            _ if about == About::Page => Ok(about),
            Some(token) => self.demand(&token, address, &request.headers).await.map(|()| about),
            None if about == About::Change => Err(no(
                StatusCode::FORBIDDEN,
                "changes need [admin] token_file, or [admin] socket and somebody who may open it",
            )),
            None => Ok(about),
        }
    }

    /// Where no token is asked for, a page in somebody's browser could read everything here, once its name leads here
    /// (DNS rebinding). It then asks for that name.
    fn is_for_us(&self, request: &Parts, has_token: bool) -> Result<(), Refused> {
        if has_token {
            return Ok(());
        }
        let Some(host) = host(request) else {
            // HTTP/1.0, which no browser speaks any more.
            return Ok(());
        };
        let name = without_port(&host);
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let is_known = OWN_NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
            || self.names.borrow().iter().any(|known| known.eq_ignore_ascii_case(name));
        if is_address || is_known {
            return Ok(());
        }
        let name = escape(name.as_bytes());
        let words =
            format!("{name} is none of our names; ask for an address or localhost, or put it into [admin] names");
        Err((StatusCode::MISDIRECTED_REQUEST, words))
    }

    /// RFC 6750 2.1. Compared in constant time: the port may be open to a network. Who was wrong too often is not heard for a
    /// while, right or wrong, or guessing would go on as fast as ever.
    async fn demand(&self, token: &Secret, address: SocketAddr, headers: &HeaderMap) -> Result<(), Response> {
        let unknown = || {
            let refused = no(StatusCode::UNAUTHORIZED, "the token is wrong or missing: Authorization: Bearer TOKEN");
            ([(header::WWW_AUTHENTICATE, "Bearer")], refused).into_response()
        };
        let Some(given) = headers.get(header::AUTHORIZATION) else { return Err(unknown()) };
        let network = network_of(address.ip());
        if self.wrong.as_ref().is_some_and(|wrong| !wrong.has_one(network)) {
            return Err(too_often());
        }
        if bears(given, token) {
            return Ok(());
        }
        if let Some(wrong) = &self.wrong {
            wrong.take(network);
        }
        let Ok(_place) = self.delayed.try_acquire() else { return Err(too_often()) };
        sleep(DELAY).await;
        Err(unknown())
    }
}

/// Another site's page asks, by the browser of somebody who has access. To follow a link to the status page is all it may.
fn is_from_us(request: &Parts) -> Result<(), Refused> {
    if request.uri.path() == METRICS {
        return Ok(());
    }
    let headers = &request.headers;
    let follows_link = request.uri.path() == PAGE[0]
        && request.method == Method::GET
        && headers.get(FETCH_MODE).is_some_and(|mode| mode == "navigate");
    let is_foreign = headers.get(FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none");
    if is_foreign && !follows_link {
        return Err((StatusCode::FORBIDDEN, "pages of other sites may not ask for this".to_owned()));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let from = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, from)| from.to_owned());
    match (from, host(request)) {
        (Some(from), Some(host)) if from.eq_ignore_ascii_case(&host) => Ok(()),
        _ => Err((StatusCode::FORBIDDEN, "pages of other origins may not ask for this".to_owned())),
    }
}

/// Which host was asked for.
fn host(request: &Parts) -> Option<String> {
    if let Some(authority) = request.uri.authority() {
        return Some(authority.as_str().to_owned());
    }
    // Of several the last one: whoever stands between adds its own behind, and with one alone there is no choice.
    let host = request.headers.get_all(header::HOST).iter().next_back()?;
    Some(String::from_utf8_lossy(host.as_bytes()).into_owned())
}

fn without_port(host: &str) -> &str {
    // What is no authority is no name of ours either.
    if host.parse::<Authority>().is_err() {
        return host;
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(']') => name,
        _ => host,
    }
}

fn bears(given: &HeaderValue, token: &Secret) -> bool {
    given.as_bytes().split_at_checked(SCHEME.len()).is_some_and(|(scheme, given)| {
        scheme.eq_ignore_ascii_case(SCHEME)
            && constant_time::verify_slices_are_equal(given.trim_ascii_start(), token.reveal()).is_ok()
    })
}

fn too_often() -> Response {
    let refused = no(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens from your network; wait a while");
    let mut refused = refused.into_response();
    refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(WRONG_EVERY.as_secs()));
    refused
}

fn no(status: StatusCode, why: &str) -> Response {
    said(status, &json!({ "error": why }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_without_their_ports() {
        for (host, name) in [
            ("localhost", "localhost"),
            ("localhost:9143", "localhost"),
            ("127.0.0.1:9143", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:9143", "[::1]"),
            ("evil.example:80", "evil.example"),
            ("a b", "a b"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
