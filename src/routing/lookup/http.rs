//! Responders that speak nginx's mail `auth_http` protocol: one GET per question, everything in headers, both ways.
//! Existing responders serve unchanged; names of headers reach them in title case (`Auth-Ssl`), which HTTP says is the
//! same. `answer.rs` reads what they say. Not here: whether an address may be used (the lookup's `allow`), deadlines.

mod answer;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use self::answer::Answer;
pub(super) use self::answer::Said;
use crate::config::{self, Finding, Roots};
use crate::imap::{Secret, escape};
use crate::tls::{Facts, Verified, client_config};

/// All headers of an answer together. nginx takes 1 KiB.
const LONGEST_ANSWER: usize = 16 * 1024;
/// A body is read up to here, so that its connection can be used again; beyond, the connection is closed.
const LONGEST_BODY: u64 = 8 * 1024;
const BODY_TIME: Duration = Duration::from_millis(200);
/// A responder may say WAIT so many times to one question.
const MOST_WAITS: u32 = 10;
/// An idle connection is kept so long.
const IDLE: Duration = Duration::from_secs(30);
/// A connection that nobody waits for any more is given up after so long; who waits has a deadline of its own.
const CONNECT: Duration = Duration::from_secs(10);
/// Set by us: for each question, or by HTTP itself.
const OURS: [&str; 24] = [
    "host",
    "auth-method",
    "auth-user",
    "auth-pass",
    "auth-protocol",
    "auth-login-attempt",
    "client-ip",
    "proxy-protocol-addr",
    "proxy-protocol-port",
    "proxy-protocol-server-addr",
    "proxy-protocol-server-port",
    "auth-ssl",
    "auth-ssl-protocol",
    "auth-ssl-cipher",
    "auth-ssl-verify",
    "auth-ssl-subject",
    "auth-ssl-issuer",
    "auth-ssl-serial",
    "auth-ssl-fingerprint",
    "auth-ssl-cert",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
];

type Asking = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// A responder.
pub(super) struct Http {
    uri: Uri,
    host: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
    pass_client_certificate: bool,
    /// Keeps connections and uses them again.
    kept: Asking,
    /// Always opens a new one.
    fresh: Asking,
    places: Semaphore,
}

/// What a responder is asked.
pub(super) struct Question<'a> {
    /// The name the client gave.
    pub(super) user: &'a [u8],
    /// The password, where the responder is to be told.
    pub(super) password: Option<&'a Secret>,
    /// `plain` or `external`.
    pub(super) method: &'static str,
    /// Which attempt on this connection it is, from 1.
    pub(super) attempt: u32,
    pub(super) client: SocketAddr,
    /// What a balancer's PROXY header said: source and destination.
    pub(super) proxied: Option<(SocketAddr, SocketAddr)>,
    /// The client's TLS connection, if it ends here.
    pub(super) tls: Option<&'a Facts>,
    /// Whether the client's connection is encrypted, wherever that ends.
    pub(super) secure: bool,
}

impl Http {
    /// Checks the settings; nothing is asked yet.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(super) fn new(config: &config::HttpLookup) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let mut wrong = |message: String| findings.push(Finding { site: Some(config.url.site.clone()), message });
        let uri = noted(read_url(&config.url.value), &mut wrong);
        if config.ca.is_some() && config.url.value.starts_with("http:") {
            wrong("without TLS there is no use for `ca`\nexpected https://".to_owned());
        }
        let headers: Vec<_> =
            config.headers.iter().filter_map(|(name, value)| noted(read_header(name, value), &mut wrong)).collect();
        let roots = config.ca.as_ref().map_or(Roots::WebPki, |ca| Roots::File(ca.clone()));
        let tls = client_config(roots).map_err(|finding| findings.push(finding)).ok();
        let (Some((uri, host)), Some(tls), true) = (uri, tls, findings.is_empty()) else { return Err(findings) };

        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let connections = usize::try_from(config.connections.get()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Ok(Self {
            uri,
            host,
            headers,
            pass_client_certificate: config.pass_client_certificate,
            kept: client(connector.clone(), connections),
            fresh: client(connector, 0),
            places: Semaphore::new(connections),
        })
    }

    /// Asks, again and again while the responder says WAIT. It may take as long as the responder likes: put a deadline
    /// around it. Dropping the future closes the connection.
    ///
    /// # Errors
    /// Why there is no answer, for the log.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Said, String> {
        for _ in 0..=MOST_WAITS {
            match self.ask_once(question).await? {
                Answer::Said(said) => return Ok(said),
                Answer::Wait(Duration::ZERO) => {}
                // Nobody's place is taken meanwhile.
                Answer::Wait(wait) => sleep(wait).await,
            }
        }
        Err(format!("the responder said WAIT more than {MOST_WAITS} times"))
    }

    async fn ask_once(&self, question: &Question<'_>) -> Result<Answer, String> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        let answered = match self.kept.request(self.request(question)?).await {
            // The responder closed a connection that it had kept, and our question met that on its way. Nothing was
            // answered, so it can be asked again.
            Err(error) if is_lost(&error) => self.fresh.request(self.request(question)?).await,
            answered => answered,
        };
        let response = answered.map_err(|error| in_full(&error))?;
        let (head, body) = response.into_parts();
        let answer = answer::read(&head.headers)?;
        finish(body).await;
        Ok(answer)
    }

    /// The headers in nginx's order.
    fn request(&self, question: &Question<'_>) -> Result<Request<Empty<Bytes>>, String> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert("host", self.host.clone());
        put(headers, "auth-method", question.method)?;
        headers.insert("auth-user", escaped(question.user)?);
        if let Some(password) = question.password {
            headers.insert("auth-pass", escaped(password.reveal())?);
        }
        put(headers, "auth-protocol", "imap")?;
        put(headers, "auth-login-attempt", &question.attempt.to_string())?;
        put(headers, "client-ip", &question.client.ip().to_string())?;
        if let Some((source, destination)) = question.proxied {
            put(headers, "proxy-protocol-addr", &source.ip().to_string())?;
            put(headers, "proxy-protocol-port", &source.port().to_string())?;
            put(headers, "proxy-protocol-server-addr", &destination.ip().to_string())?;
            put(headers, "proxy-protocol-server-port", &destination.port().to_string())?;
        }
        if question.secure || question.tls.is_some() {
            put(headers, "auth-ssl", "on")?;
        }
        if let Some(tls) = question.tls {
            self.put_tls(headers, tls)?;
        }
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        Ok(request)
    }

    fn put_tls(&self, headers: &mut HeaderMap, tls: &Facts) -> Result<(), String> {
        put(headers, "auth-ssl-protocol", tls.protocol)?;
        put(headers, "auth-ssl-cipher", tls.cipher)?;
        match &tls.client_certificate {
            Verified::NotAsked => {}
            Verified::None => put(headers, "auth-ssl-verify", "NONE")?,
            Verified::By(certificate) => {
                put(headers, "auth-ssl-verify", "SUCCESS")?;
                // As nginx has them, not escaped: they are printable ASCII by themselves.
                put(headers, "auth-ssl-subject", &certificate.subject)?;
                put(headers, "auth-ssl-issuer", &certificate.issuer)?;
                put(headers, "auth-ssl-serial", &certificate.serial)?;
                put(headers, "auth-ssl-fingerprint", &certificate.fingerprint)?;
                if self.pass_client_certificate {
                    headers.insert("auth-ssl-cert", escaped(certificate.pem.as_bytes())?);
                }
            }
        }
        Ok(())
    }
}

fn client(connector: HttpsConnector<HttpConnector>, idle: usize) -> Asking {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle)
        .http1_max_buf_size(LONGEST_ANSWER)
        .http1_title_case_headers(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .build(connector)
}

fn noted<T>(result: Result<T, String>, wrong: &mut impl FnMut(String)) -> Option<T> {
    result.map_err(wrong).ok()
}

/// The URL, and the `Host` header for it.
fn read_url(url: &str) -> Result<(Uri, HeaderValue), String> {
    let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
    let port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err("not a URL of this kind\nexpected http:// or https://".to_owned()),
    };
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or("a URL without a host\nexpected http://HOST/PATH")?;
    if authority.as_str().contains('@') {
        return Err("a user name in the URL is not sent\nexpected a header such as Authorization".to_owned());
    }
    let named = authority.port();
    if named.is_none() && authority.host().len() < authority.as_str().len() {
        return Err("what stands behind the host is no port".to_owned());
    }
    let host = match named {
        Some(named) if named.as_u16() != port => format!("{}:{}", authority.host(), named.as_u16()),
        _ => authority.host().to_owned(),
    };
    let host = HeaderValue::from_str(&host).map_err(|error| format!("not a host: {error}"))?;
    Ok((uri, host))
}

/// Values may be secrets: they are in no message.
fn read_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let shown = escape(name.as_bytes());
    let name: HeaderName = name.parse().map_err(|_| format!("header \"{shown}\": not the name of a header"))?;
    if OURS.contains(&name.as_str()) {
        return Err(format!("header \"{shown}\": is set by mailmux"));
    }
    let mut value: HeaderValue =
        value.parse().map_err(|_| format!("header \"{shown}\": its value holds characters that none may have"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) -> Result<(), String> {
    let value = value.parse().map_err(|error| format!("the value of {name}: {error}"))?;
    headers.insert(name, value);
    Ok(())
}

/// The one way by which what a client sent gets into a header: as nginx escapes it, and 8-bit besides. Wiped when the
/// request is dropped.
fn escaped(bytes: &[u8]) -> Result<HeaderValue, String> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    // The whole size at once: a buffer that grows leaves copies of a password behind.
    let mut text = Zeroizing::new(Vec::with_capacity(3 * bytes.len()));
    for byte in bytes {
        match byte {
            b'!'..=b'~' if *byte != b'%' => text.push(*byte),
            _ => text.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(text));
    let mut value = value.map_err(|error| format!("the value of a header: {error}"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether a connection went away before it said anything.
fn is_lost(error: &ClientError) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            let reset = |error: &std::io::Error| {
                use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
                matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
            };
            let io = error.source().and_then(|error| error.downcast_ref::<std::io::Error>());
            return error.is_incomplete_message() || error.is_canceled() || error.is_closed() || io.is_some_and(reset);
        }
        source = error.source();
    }
    false
}

/// An error and what led to it, without what a peer may have put into it.
fn in_full(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    escape(text.as_bytes()).to_string()
}

/// Reads a short body, which says nothing, so that the connection can be used again. Any other ends it.
async fn finish(body: Incoming) {
    if body.size_hint().exact().is_some_and(|size| size <= LONGEST_BODY) {
        let limit = usize::try_from(LONGEST_BODY).unwrap_or_default();
        // Without the body there is only the connection to lose.
        drop(timeout(BODY_TIME, Limited::new(body, limit).collect()).await);
    }
}

#[cfg(test)]
mod tests;
