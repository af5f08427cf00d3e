//! The admin port over real loopback sockets, spoken to in raw HTTP.

#![expect(clippy::disallowed_methods, reason = "these sockets are the caller's, not a backend's")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::*;

/// An admin port in a task of its own.
struct Port {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    phase: watch::Sender<Phase>,
    ended: Arc<AtomicBool>,
    server: JoinSet<()>,
}

impl Port {
    async fn open(token: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let metrics = Arc::new(Metrics::new().expect("no name twice"));
        let (phase, seen) = watch::channel(Phase::Running);
        let token = token.map(|token| Secret::new(Zeroizing::new(token.as_bytes().to_vec())).expect("clean"));
        let token = watch::channel(token.map(Arc::new)).1;
        let api = Router::new().route("/anything", axum::routing::post("done"));
        let state = State { metrics: Arc::clone(&metrics), phase: seen, token, api };
        let (open, closed) = oneshot::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let mut server = JoinSet::new();
        let flag = Arc::clone(&ended);
        server.spawn(async move {
            serve(Listener::Network(listener), state, closed).await;
            drop(open);
            flag.store(true, Ordering::SeqCst);
        });
        Self { address, metrics, phase, ended, server }
    }

    /// Sends bytes as they are and reads until the port closes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("accepted");
        stream.write_all(request).await.expect("taken");
        let mut answer = Vec::new();
        // A reset behind an answer is as good as an end.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("UTF-8")
    }

    async fn get(&self, path: &str, header: &str) -> String {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n").as_bytes()).await
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn the_three_paths_answer_and_no_other() {
    let port = Port::open(None).await;
    port.metrics.accept_error();

    let metrics = port.get("/metrics", "").await;
    assert_eq!(status(&metrics), "200");
    assert!(metrics.contains("\r\ncontent-type: text/plain; version=0.0.4\r\n"), "{metrics}");
    assert!(body(&metrics).lines().any(|line| line == "mailmux_accept_errors_total 1"), "{metrics}");

    let health = port.get("/healthz", "").await;
    assert_eq!((status(&health), body(&health)), ("200", "ok"));

    for path in ["/index.html", "/metrics/", "/metrics/../metrics", "/api", "/%2e", "//metrics"] {
        assert_eq!(status(&port.get(path, "").await), "404", "{path}");
    }
    assert_eq!(status(&port.raw(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await), "405");
}

#[tokio::test]
async fn readiness_follows_the_phase() {
    let port = Port::open(None).await;
    let ready = port.get("/readyz", "").await;
    assert_eq!((status(&ready), body(&ready)), ("200", "ready"));
    port.phase.send_replace(Phase::Draining);
    let draining = port.get("/readyz", "").await;
    assert_eq!((status(&draining), body(&draining)), ("503", "draining"));
    assert_eq!(status(&port.get("/healthz", "").await), "200", "alive while draining");
}

#[tokio::test]
async fn a_token_is_demanded_on_every_path_that_tells_anything() {
    let port = Port::open(Some("s3cret")).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(&port.get(path, "").await), "200", "balancers have no token");
    }
    for path in ["/metrics", "/index.html", "/unknown", "/api/v1/anything", "/api/v1/unknown"] {
        for header in [
            "",
            "Authorization: s3cret\r\n",
            "Authorization: Bearer\r\n",
            "Authorization: Bearer \r\n",
            "Authorization: Bearer s3cre\r\n",
            "Authorization: Bearer s3crets\r\n",
            "Authorization: Bearer S3CRET\r\n",
            "Authorization: Basic s3cret\r\n",
            "Authorization: Bearer \u{fffd}\r\n",
        ] {
            let answer = port.get(path, header).await;
            assert_eq!(status(&answer), "401", "{path} {header}");
            assert!(answer.contains("www-authenticate: Bearer\r\n") && body(&answer).is_empty(), "{answer}");
        }
    }
    for scheme in ["Bearer", "bearer"] {
        let header = format!("Authorization: {scheme} s3cret\r\n");
        assert_eq!(status(&port.get("/metrics", &header).await), "200");
        assert_eq!(status(&port.get("/unknown", &header).await), "404");
        let change = format!("POST /api/v1/anything HTTP/1.1\r\nHost: x\r\n{header}Content-Length: 0\r\n\r\n");
        assert_eq!(body(&port.raw(change.as_bytes()).await), "done");
    }
}

#[tokio::test]
async fn the_page_is_everybodys_and_may_do_nothing_but_ask_here() {
    let port = Port::open(Some("s3cret")).await;
    for (path, kind, within) in [
        ("/", "text/html; charset=utf-8", "<script type=\"module\" src=\"status.js\">"),
        ("/status.css", "text/css; charset=utf-8", "prefers-reduced-motion"),
        ("/status.js", "text/javascript; charset=utf-8", "textContent"),
        ("/status.svg", "image/svg+xml", "<svg"),
    ] {
        let answer = port.get(path, "").await;
        assert_eq!(status(&answer), "200", "{path}");
        assert!(body(&answer).contains(within), "{path}");
        let header = |name: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("{path} has no {name}")).to_owned()
        };
        assert_eq!(header("content-type"), kind);
        let policy = header("content-security-policy");
        for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"] {
            assert!(policy.split("; ").any(|said| said == rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(
            (header("x-content-type-options"), header("referrer-policy")),
            ("nosniff".into(), "no-referrer".into())
        );
        let tag = header("etag");
        let again = port.get(path, &format!("If-None-Match: \"other\", {tag}\r\n")).await;
        assert_eq!((status(&again), body(&again)), ("304", ""), "{path}");
        assert_eq!(status(&port.get(path, "If-None-Match: \"other\"\r\n").await), "200");
    }
    assert_eq!(status(&port.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await), "405");
}

/// What is written into the document itself would not be obeyed, and what is fetched from elsewhere would not come.
#[test]
fn the_page_brings_nothing_from_outside_and_nothing_inline() {
    let page = include_str!("page/status.html");
    for bad in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
        assert!(!page.contains(bad), "{bad}");
    }
    assert_eq!(page.matches("<script").count(), 1, "the one that is a file");
    let script = include_str!("page/status.js");
    for bad in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "setAttribute(\"style\""] {
        assert!(!script.contains(bad), "{bad}");
    }
    for text in [page, script, include_str!("page/status.css"), include_str!("page/status.svg")] {
        let addresses: Vec<_> =
            text.match_indices("://").map(|(at, _)| &text[at - 4..(at + 30).min(text.len())]).collect();
        assert!(addresses.iter().all(|address| address.contains("www.w3.org/")), "{addresses:?}");
    }
}

#[tokio::test]
async fn without_a_token_nobody_changes_anything_over_the_network() {
    let port = Port::open(None).await;
    let change = b"POST /api/v1/anything HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let answer = port.raw(change).await;
    assert_eq!(status(&answer), "403");
    assert!(body(&answer).contains("token_file"), "{answer}");
}

#[tokio::test]
async fn who_may_open_the_socket_needs_no_token() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("socket");
    let unix = UnixListener::bind(&path).expect("bound");
    let (_running, phase) = watch::channel(Phase::Running);
    let token = Secret::new(Zeroizing::new(b"s3cret".to_vec())).expect("clean");
    let state = State {
        metrics: Arc::new(Metrics::new().expect("no name twice")),
        phase,
        token: watch::channel(Some(Arc::new(token))).1,
        api: Router::new().route("/anything", axum::routing::post("done")),
    };
    let (_open, closed) = oneshot::channel();
    let mut server = JoinSet::new();
    server.spawn(serve(Listener::Local(unix), state, closed));
    let mut stream = tokio::net::UnixStream::connect(&path).await.expect("accepted");
    stream.write_all(b"POST /api/v1/anything HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await.expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("UTF-8");
    assert_eq!(body(&answer), "done");
}

#[tokio::test]
async fn garbage_and_oversize_are_refused_within_bounds() {
    let port = Port::open(None).await;
    assert_eq!(status(&port.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").await), "400");
    let long = format!("X-Long: {}\r\n", "x".repeat(2 * BUFFER_BYTES));
    assert_eq!(status(&port.get("/healthz", &long).await), "431");
    assert_eq!(status(&port.get("/healthz", &"X-Many: x\r\n".repeat(HEADERS + 1)).await), "431");
    let endless = format!("GET /{}", "x".repeat(3 * BUFFER_BYTES));
    assert!(matches!(status(&port.raw(endless.as_bytes()).await), "414" | "431"));
    assert_eq!(status(&port.get("/healthz", "").await), "200", "and it serves on");
}

#[tokio::test]
async fn a_connection_is_one_request() {
    let port = Port::open(None).await;
    let two = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(port.raw(two).await.matches("HTTP/1.1").count(), 1);
}

#[tokio::test]
async fn silent_callers_do_not_keep_others_out() {
    let port = Port::open(None).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS - 1 {
        silent.push(TcpStream::connect(port.address).await.expect("accepted"));
    }
    assert_eq!(status(&port.get("/healthz", "").await), "200");
}

#[tokio::test]
async fn a_full_house_lets_the_next_one_wait() {
    let port = Port::open(None).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(port.address).await.expect("accepted"));
    }
    let answer = port.get("/healthz", "");
    tokio::pin!(answer);
    let early = timeout(Duration::from_millis(50), &mut answer).await;
    assert!(early.is_err(), "there was room for one more than {CONNECTIONS}");
    silent.pop(); // nothing but a place was missing
    assert_eq!(status(&answer.await), "200");
}

/// The clock jumps ahead once everybody waits, which here is for the rest of the request.
#[tokio::test(start_paused = true)]
async fn a_slow_caller_is_cut_off_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut slow = TcpStream::connect(address).await.expect("accepted");
    slow.write_all(b"GET /healthz HT").await.expect("taken");
    let (stream, _) = listener.accept().await.expect("there is one");
    let (_phase, phase) = watch::channel(Phase::Running);
    let metrics = Arc::new(Metrics::new().expect("no name twice"));
    let state = State { metrics, phase, token: watch::channel(None).1, api: Router::new() };
    let started = tokio::time::Instant::now();
    answer(Box::new(stream), router(state, false)).await;
    assert_eq!(started.elapsed().as_secs(), REQUEST_TIME.as_secs());
    let mut nothing = Vec::new();
    let _ = slow.read_to_end(&mut nothing).await;
    assert_eq!(nothing, b"");
}

#[tokio::test]
async fn a_stop_closes_the_port_and_waits_only_shortly() {
    let mut port = Port::open(None).await;
    let _silent = TcpStream::connect(port.address).await.expect("accepted");
    port.phase.send_replace(Phase::Draining);
    assert_eq!(status(&port.get("/healthz", "").await), "200");
    assert!(!port.ended.load(Ordering::SeqCst), "it serves while draining");
    port.phase.send_replace(Phase::Stopped);
    let ended = timeout(Duration::from_secs(10), port.server.join_next()).await.expect("in time");
    assert!(ended.is_some_and(|server| server.is_ok()));
    assert!(TcpStream::connect(port.address).await.is_err(), "nobody listens any more");
}
