//! The admin port: HTTP for Prometheus, for whoever asks whether mailmux is well, and for operators, whether they are programs
//! (`api/`) or look at it (`page.rs`). It has no state of its own but for who was wrong about the token (`gate.rs`), and is of
//! no use to a slow or hostile caller: every connection is one request, bounded in size, time and number.
//!
//! Who may do what (`gate.rs`): whether mailmux lives and is ready is told to everybody, and the status page is theirs, which
//! holds nothing; all else takes the token, where there is one; what changes something always takes it. Over the socket in the
//! file system no token is asked for: only its owner can open it.

mod answers;
mod api;
mod audit;
mod gate;
mod page;

use std::fmt;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Request, State as Shared};
use axum::http::{StatusCode, header};
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

use self::answers::finished;
pub use self::api::api;
use self::audit::Audit;
use self::gate::{About, Gate};
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
    /// Called before they are, to tell them what is looked at and not counted.
    pub look: Look,
    /// Shown at `/readyz`; [`Phase::Stopped`] ends the port.
    pub phase: watch::Receiver<Phase>,
    /// The bearer token, as it is now.
    pub token: watch::Receiver<Option<Arc<Secret>>>,
    /// The names under which mailmux is asked, besides its addresses.
    pub names: watch::Receiver<Arc<[String]>>,
    /// What changes something: [`api()`].
    pub api: Router,
}

/// Something that is done before metrics are shown.
#[derive(Clone)]
pub struct Look(pub Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

/// Serves until the phase is [`Phase::Stopped`] (or nobody is left who could say so), or the sender of `closed` is dropped.
/// Dropping the future ends it at once, connections included.
pub async fn serve(listener: Listener, state: State, mut closed: oneshot::Receiver<()>) {
    let mut phase = state.phase.clone();
    let metrics = Arc::clone(&state.metrics);
    let router = router(state);
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
                Ok((stream, caller)) => {
                    wait = ACCEPT_WAIT.0;
                    connections.spawn(answer(stream, caller, router.clone()));
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

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
enum Caller {
    /// Somebody on the network.
    Network(SocketAddr),
    /// A process of this machine that may open the socket: its user, and its number where the kernel tells it.
    Local { uid: u32, pid: Option<i32> },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::Local { uid, pid: Some(pid) } => write!(f, "socket uid={uid} pid={pid}"),
            Self::Local { uid, pid: None } => write!(f, "socket uid={uid}"),
        }
    }
}

async fn accept(listener: &Listener) -> io::Result<(Box<dyn Stream>, Caller)> {
    Ok(match listener {
        Listener::Network(tcp) => {
            let (stream, address) = tcp.accept().await?;
            (Box::new(stream), Caller::Network(address))
        }
        Listener::Local(unix) => {
            let (stream, _) = unix.accept().await?;
            let peer = stream.peer_cred()?;
            (Box::new(stream), Caller::Local { uid: peer.uid(), pid: peer.pid() })
        }
    })
}

/// How many seconds more a connection may last, once its caller has been let in to something that takes its time.
#[derive(Debug, Clone, Default)]
struct Patience(Arc<AtomicU64>);

impl Patience {
    fn extend(&self, time: Duration) {
        self.0.store(time.as_secs(), Ordering::Relaxed);
    }
}

/// One connection, one request. No keep-alive: a scrape every few seconds does not need it, and a connection that may
/// not wait for anything cannot be held open.
async fn answer(stream: Box<dyn Stream>, caller: Caller, router: Router) {
    let patience = Patience::default();
    let service = TowerToHyperService::new(router.layer(Extension(patience.clone())).layer(Extension(caller)));
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(BUFFER_BYTES).max_headers(HEADERS).header_read_timeout(None);
    // Whatever went wrong is the caller's affair: it gets no answer, or hyper's 400 or 431.
    tokio::select! {
        _ = http.serve_connection(TokioIo::new(stream), service) => {}
        () = async {
            sleep(REQUEST_TIME).await;
            sleep(Duration::from_secs(patience.0.load(Ordering::Relaxed))).await;
        } => {}
    }
}

fn router(state: State) -> Router {
    let api = state.api.clone();
    let gate = Gate::new(state.token.clone(), state.names.clone());
    let door = Arc::new(Door { gate, metrics: Arc::clone(&state.metrics) });
    let phase = Extension(state.phase.clone());
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get("ok"))
        .route("/readyz", get(ready))
        .merge(page::paths())
        .with_state(Arc::new(state))
        .nest("/api/v1", api.layer(phase))
        .fallback(StatusCode::NOT_FOUND)
        .layer(middleware::from_fn_with_state(door, attend))
}

/// What all requests of a door pass.
struct Door {
    gate: Gate,
    metrics: Arc<Metrics>,
}

/// Lets a request in or not, and sees its answer out.
async fn attend(
    Shared(door): Shared<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Extension(patience): Extension<Patience>,
    request: Request,
    next: Next,
) -> Response {
    let (request, body) = request.into_parts();
    let (method, path) = (request.method.clone(), request.uri.path().to_owned());
    let audit = (About::of(&request) == About::Change).then(|| Audit::begin(caller, &request));
    let answer = match door.gate.admit(caller, &request).await {
        Ok(about) => {
            if about == About::Change {
                patience.extend(CHANGE_TIME);
            }
            next.run(Request::from_parts(request, body)).await
        }
        Err(refused) => refused,
    };
    let answer = finished(&method, &path, answer).await;
    door.metrics.admin().answered(answer.status().as_u16());
    if let Some(audit) = audit {
        audit.end(answer.status());
    }
    answer
}

async fn metrics(Shared(state): Shared<Arc<State>>) -> Response {
    (state.look.0)();
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

/// The peer went away between connecting and being accepted.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests;
