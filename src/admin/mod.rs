//! The admin port: HTTP for Prometheus and for whoever asks whether mailmux is well. It has no state of its own and is
//! of no use to a slow or hostile caller: every connection is one request, bounded in size, time and number.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time;
use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::imap::Secret;
use crate::metrics::Metrics;
use crate::process::Phase;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// From accept to the last byte of the answer.
const REQUEST_TIME: Duration = Duration::from_secs(15);
/// What a connection may make us hold: the request line with all headers.
const BUFFER_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
const SCHEME: &[u8] = b"Bearer ";
/// How long a stop waits for answers that are on their way.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// The first and the longest wait after a failed accept (out of file descriptors).
const ACCEPT_WAIT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// What the admin port shows, and to whom.
#[derive(Debug)]
pub struct State {
    /// Shown at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Shown at `/readyz`; [`Phase::Stopped`] ends the port.
    pub phase: watch::Receiver<Phase>,
    /// The bearer token, demanded for every path when there is one.
    pub token: Option<Secret>,
}

/// Serves until the phase is [`Phase::Stopped`] (or nobody is left who could say so). Dropping the future ends it at
/// once, connections included.
pub async fn serve(listener: TcpListener, state: State) {
    let mut phase = state.phase.clone();
    let metrics = Arc::clone(&state.metrics);
    let service = TowerToHyperService::new(router(state));
    let mut connections = JoinSet::new();
    let mut wait = ACCEPT_WAIT.0;
    loop {
        tokio::select! {
            () = stopped(&mut phase) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    wait = ACCEPT_WAIT.0;
                    connections.spawn(answer(stream, service.clone()));
                }
                Err(error) if is_the_peers(&error) => {}
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

/// One connection, one request. No keep-alive: a scrape every few seconds does not need it, and a connection that may
/// not wait for anything cannot be held open.
async fn answer(stream: TcpStream, service: TowerToHyperService<Router>) {
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(BUFFER_BYTES).max_headers(HEADERS).header_read_timeout(None);
    // Whatever went wrong is the caller's affair: it gets no answer, or hyper's 400 or 431.
    let _ = timeout(REQUEST_TIME, http.serve_connection(TokioIo::new(stream), service)).await;
}

fn router(state: State) -> Router {
    let state = Arc::new(state);
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get("ok"))
        .route("/readyz", get(ready))
        .fallback(StatusCode::NOT_FOUND)
        .layer(middleware::from_fn_with_state(Arc::clone(&state), demand_token))
        .with_state(state)
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
        Phase::Draining | Phase::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    }
}

/// Stands before everything, unknown paths too, so that a stranger does not learn what there is.
async fn demand_token(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    match &state.token {
        Some(token) if !bears(request.headers(), token) => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response()
        }
        _ => next.run(request).await,
    }
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
