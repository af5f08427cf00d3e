//! The admin port: HTTP for Prometheus, for whoever asks whether mailmux is well, and for operators, whether they are programs
//! (`api/`) or look at it (`page.rs`). It has no state of its own and is of no use to a slow or hostile caller: every connection is one request, bounded in size, time and
//! number.
//!
//! Who may do what: whether mailmux lives and is ready is told to everybody, and the status page is theirs, which holds nothing; all else takes the token, where there is one;
//! what changes something always takes it. Over the socket in the file system no token is asked for: only its owner can open
//! it.

mod api;
mod page;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::constant_time;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use self::api::api;
use crate::imap::Secret;
use crate::metrics::Metrics;
use crate::process::Phase;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// From accept to the last byte of the answer ...
const REQUEST_TIME: Duration = Duration::from_secs(15);
/// ... but for those who have been let in to change something, which may take as long as the sessions it is about.
const CHANGE_TIME: Duration = Duration::from_hours(1);
/// What a connection may make us hold: the request line with all headers.
const BUFFER_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// Descriptors kept back.
const SPARE: usize = 4;
const SCHEME: &[u8] = b"Bearer ";
/// Said to whoever wants to change something where nobody could be told from a stranger.
const NO_TOKEN: &str = "changes need [admin] token_file, or [admin] socket and somebody who may open it\n";
/// How long a stop waits for answers that are on their way.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// The first and the longest wait after a failed accept (out of file descriptors).
const ACCEPT_WAIT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Where it listens.
#[derive(Debug)]
pub enum Listener {
    /// Whoever reaches the address can ask.
    Network(TcpListener),
    /// A socket in the file system: whoever may open it.
    Local(UnixListener),
}

/// What the admin port shows, and to whom.
#[derive(Debug, Clone)]
pub struct State {
    /// Shown at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Shown at `/readyz`; [`Phase::Stopped`] ends the port.
    pub phase: watch::Receiver<Phase>,
    /// The bearer token, as it is now.
    pub token: watch::Receiver<Option<Arc<Secret>>>,
    /// What changes something: [`api()`].
    pub api: Router,
}

/// Serves until the phase is [`Phase::Stopped`] (or nobody is left who could say so), or the sender of `closed` is dropped.
/// Dropping the future ends it at once, connections included.
pub async fn serve(listener: Listener, state: State, mut closed: oneshot::Receiver<()>) {
    let mut phase = state.phase.clone();
    let metrics = Arc::clone(&state.metrics);
    let router = router(state, matches!(listener, Listener::Local(_)));
    let mut connections = JoinSet::new();
    let mut wait = ACCEPT_WAIT.0;
    let mut spare = Spare::default();
    loop {
        spare.refill();
        tokio::select! {
            () = stopped(&mut phase) => break,
            _ = &mut closed => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener), if connections.len() < CONNECTIONS => match accepted {
                Ok(stream) => {
                    wait = ACCEPT_WAIT.0;
                    connections.spawn(answer(stream, router.clone()));
                }
                Err(error) if is_the_peers(&error) => {}
                // Whoever asks what is wrong gets an answer.
                Err(_) if spare.spend() => {}
                Err(_) => {
                    metrics.accept_error();
                    let _ = timeout(wait, stopped(&mut phase)).await;
                    wait = (wait * 2).min(ACCEPT_WAIT.1);
                }
            },
        }
    }
    drop(listener);
    // What is left after that is cut off.
    let _ = timeout(LAST_ANSWERS, async { while connections.join_next().await.is_some() {} }).await;
}

async fn stopped(phase: &mut watch::Receiver<Phase>) {
    // An error: whoever could have said so is gone.
    let _ = phase.wait_for(|phase| *phase == Phase::Stopped).await;
}

/// Descriptors that are kept for the day when there are none: one for a caller, and some for what is looked up to answer it.
#[derive(Debug, Default)]
struct Spare(Vec<File>);

impl Spare {
    fn refill(&mut self) {
        while self.0.len() < SPARE
            && let Ok(file) = File::open("/dev/null")
        {
            self.0.push(file);
        }
    }

    /// False: there were none left.
    fn spend(&mut self) -> bool {
        let had_some = !self.0.is_empty();
        self.0.clear();
        had_some
    }
}

/// A connection, whatever it came over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn accept(listener: &Listener) -> io::Result<Box<dyn Stream>> {
    Ok(match listener {
        Listener::Network(tcp) => Box::new(tcp.accept().await?.0),
        Listener::Local(unix) => Box::new(unix.accept().await?.0),
    })
}

/// Set once the caller of a connection has been let in to change something.
#[derive(Debug, Clone, Default)]
struct Patience(Arc<AtomicBool>);

/// One connection, one request. No keep-alive: a scrape every few seconds does not need it, and a connection that may
/// not wait for anything cannot be held open.
async fn answer(stream: Box<dyn Stream>, router: Router) {
    let patience = Patience::default();
    let service = TowerToHyperService::new(router.layer(Extension(patience.clone())));
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(BUFFER_BYTES).max_headers(HEADERS).header_read_timeout(None);
    // Whatever went wrong is the caller's affair: it gets no answer, or hyper's 400 or 431.
    tokio::select! {
        _ = http.serve_connection(TokioIo::new(stream), service) => {}
        () = async {
            sleep(REQUEST_TIME).await;
            if patience.0.load(Ordering::Relaxed) {
                sleep(CHANGE_TIME).await;
            }
        } => {}
    }
}

fn router(state: State, is_local: bool) -> Router {
    let api = state.api.clone();
    let phase = Extension(state.phase.clone());
    let state = Arc::new(state);
    let guarded = Arc::clone(&state);
    let demands = move |needed: Needed| {
        let guard = Guard { state: Arc::clone(&guarded), needed, is_local };
        middleware::from_fn_with_state(guard, demand_token)
    };
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(StatusCode::NOT_FOUND)
        .layer(demands(Needed::IfThereIsOne))
        .route("/healthz", get("ok"))
        .route("/readyz", get(ready))
        .merge(page::paths())
        .with_state(state)
        .nest("/api/v1", api.layer(phase).fallback(StatusCode::NOT_FOUND).layer(demands(Needed::Always)))
}

async fn metrics(Shared(state): Shared<Arc<State>>) -> Response {
    match state.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(Shared(state): Shared<Arc<State>>) -> (StatusCode, &'static str) {
    match *state.phase.borrow() {
        Phase::Running => (StatusCode::OK, "ready"),
        Phase::Succeeded | Phase::Draining | Phase::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    }
}

/// When a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    IfThereIsOne,
    Always,
}

#[derive(Debug, Clone)]
struct Guard {
    state: Arc<State>,
    needed: Needed,
    is_local: bool,
}

/// Stands before everything but what everybody may know, unknown paths too, so that a stranger does not learn what there is.
async fn demand_token(Shared(guard): Shared<Guard>, request: Request, next: Next) -> Response {
    let token = guard.state.token.borrow().clone();
    match token {
        _ if guard.is_local => {}
        Some(token) if bears(request.headers(), &token) => {}
        Some(_) => return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response(),
        None if guard.needed == Needed::Always => return (StatusCode::FORBIDDEN, NO_TOKEN).into_response(),
        None => {}
    }
    if guard.needed == Needed::Always
        && let Some(Patience(patience)) = request.extensions().get()
    {
        patience.store(true, Ordering::Relaxed);
    }
    next.run(request).await
}

/// RFC 6750 2.1. Compared in constant time: the port may be open to a network.
fn bears(headers: &HeaderMap, token: &Secret) -> bool {
    let Some((scheme, given)) =
        headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(SCHEME.len()))
    else {
        return false;
    };
    scheme.eq_ignore_ascii_case(SCHEME)
        && constant_time::verify_slices_are_equal(given.trim_ascii_start(), token.reveal()).is_ok()
}

/// The peer went away between connecting and being accepted.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests;
