//! The admin port over real loopback sockets, spoken to in raw HTTP.

#![expect(clippy::disallowed_methods, reason = "these sockets are the caller's, not a backend's")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::*;

#[derive(serde::Deserialize)]
struct Number {
    of: u8,
}

async fn something(axum::extract::Query(Number { of }): axum::extract::Query<Number>) -> String {
    of.to_string()
}

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
        let api = Router::new()
            .route("/anything", axum::routing::post("done"))
            .route("/something", get(something))
            .route("/for-ever", axum::routing::post(std::future::pending::<()>));
        Self::open_with(token, api).await
    }

    async fn open_with(token: Option<&str>, api: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let metrics = Arc::new(Metrics::new().expect("no name twice"));
        let (phase, seen) = watch::channel(Phase::Running);
        let token = token.map(|token| Secret::new(Zeroizing::new(token.as_bytes().to_vec())).expect("clean"));
        let token = watch::channel(token.map(Arc::new)).1;
        let looked = metrics.backend("looked-at");
        let look = Look(Arc::new(move || looked.set_up(false)));
        let names = watch::channel(Arc::from(["mail.example.org".to_owned()])).1;
        let state = State { metrics: Arc::clone(&metrics), look, phase: seen, token, names, api };
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

    /// The same from another address of this machine.
    async fn get_from(&self, from: &str, path: &str, header: &str) -> String {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(format!("{from}:0").parse().expect("an address")).expect("bound");
        let mut stream = socket.connect(self.address).await.expect("accepted");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.expect("taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("UTF-8");
        answer
    }

    async fn get(&self, path: &str, header: &str) -> String {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n").as_bytes()).await
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
    assert!(metrics.contains("mailmux_backend_up{backend=\"looked-at\"} 0"), "looked at before it is told: {metrics}");

    let health = port.get("/healthz", "").await;
    assert_eq!((status(&health), body(&health)), ("200", "ok"));

    for path in ["/index.html", "/metrics/", "/metrics/../metrics", "/api", "/%2e", "//metrics"] {
        assert_eq!(status(&port.get(path, "").await), "404", "{path}");
    }
    assert_eq!(
        status(&port.raw(b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await),
        "405"
    );
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

/// The clock jumps whenever everybody waits: nobody waits for what slows the wrong ones down.
#[tokio::test(start_paused = true)]
async fn a_token_is_demanded_on_every_path_that_tells_anything() {
    let port = Port::open(Some("s3cret")).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(&port.get(path, "Authorization: Bearer wrong\r\n").await), "200", "balancers have no token");
    }
    assert_eq!(status(&port.get("/", "").await), "200", "the status page holds nothing");
    for path in ["/metrics", "/index.html", "/api/v1/something", "/api/v1/unknown", "/api/v1/", "/api"] {
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
            tokio::time::advance(Duration::from_mins(1)).await;
            let answer = port.get(path, header).await;
            assert_eq!(status(&answer), "401", "{path} {header}");
            assert!(answer.contains("www-authenticate: Bearer\r\n"), "{answer}");
            assert!(body(&answer).starts_with("{\"error\":\"the token is wrong or missing"), "{answer}");
        }
    }
    tokio::time::advance(Duration::from_mins(1)).await;
    for scheme in ["Bearer", "bearer"] {
        let header = format!("Authorization: {scheme} s3cret\r\n");
        assert_eq!(status(&port.get("/metrics", &header).await), "200");
        assert_eq!(status(&port.get("/unknown", &header).await), "404");
        assert_eq!(body(&port.get("/api/v1/something?of=7", &header).await), "7");
        let change = format!("POST /api/v1/anything HTTP/1.1\r\nHost: x\r\n{header}Content-Length: 0\r\n\r\n");
        assert_eq!(body(&port.raw(change.as_bytes()).await), "done");
    }
}

#[tokio::test(start_paused = true)]
async fn who_guesses_is_slowed_and_nobody_else_is() {
    let port = Port::open(Some("s3cret")).await;
    let (right, wrong) = ("Authorization: Bearer s3cret\r\n", "Authorization: Bearer guess\r\n");
    let began = tokio::time::Instant::now();
    for _ in 0..5 {
        assert_eq!(status(&port.get("/metrics", "").await), "401", "to have none is no guess");
        assert_eq!(status(&port.get("/metrics", wrong).await), "401");
    }
    assert!(began.elapsed() >= Duration::from_secs(5), "each has waited: {:?}", began.elapsed());
    for header in [wrong, right] {
        let answer = port.get("/metrics", header).await;
        assert_eq!(status(&answer), "429", "right or wrong");
        assert!(answer.contains("\r\nretry-after: 12\r\n") && body(&answer).contains("too many"), "{answer}");
    }
    let other = port.get_from("127.0.0.2", "/metrics", right).await;
    assert_eq!(status(&other), "200", "another address");
    tokio::time::advance(Duration::from_secs(12)).await;
    assert_eq!(status(&port.get("/metrics", right).await), "200", "after a while it is heard again");
    for (outcome, count) in [("unauthorized", 10), ("slowed", 2), ("ok", 2), ("forbidden", 0)] {
        let line = format!("mailmux_admin_requests_total{{outcome=\"{outcome}\"}} {count}");
        let metrics = String::from_utf8(port.metrics.render().expect("rendered")).expect("UTF-8");
        assert!(metrics.lines().any(|there| there == line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn names_that_are_none_of_ours_are_refused_where_there_is_no_token() {
    let open = Port::open(None).await;
    let ask = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\n{host}\r\n").into_bytes();
    let hosts =
        ["localhost", "LOCALHOST:9143", "127.0.0.1:9143", "[::1]:9143", "192.0.2.7", "mail.example.org", "mailmux"];
    for host in hosts {
        let answer = open.raw(&ask("/metrics", &format!("Host: {host}\r\n"))).await;
        assert_eq!(status(&answer), "200", "{host}");
    }
    for host in
        ["evil.example", "evil.example:9143", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "1"]
    {
        for path in ["/metrics", "/", "/api/v1/something?of=1"] {
            let answer = open.raw(&ask(path, &format!("Host: {host}\r\n"))).await;
            assert_eq!(status(&answer), "421", "{host} {path}");
            assert!(body(&answer).contains("none of our names"), "{answer}");
        }
        assert_eq!(status(&open.raw(&ask("/readyz", &format!("Host: {host}\r\n"))).await), "200", "balancers");
    }
    let absolute = b"GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(status(&open.raw(absolute).await), "421");
    let closed = Port::open(Some("s3cret")).await;
    let answer = closed.raw(&ask("/metrics", "Host: mail.example.net\r\nAuthorization: Bearer s3cret\r\n")).await;
    assert_eq!(status(&answer), "200", "whose name leads here does not know the token");
}

#[tokio::test]
async fn pages_of_other_sites_may_not_ask() {
    let port = Port::open(Some("s3cret")).await;
    let mine = "Authorization: Bearer s3cret\r\n";
    for (foreign, expected) in [
        ("Sec-Fetch-Site: cross-site\r\n", "403"),
        ("Sec-Fetch-Site: same-site\r\n", "403"),
        ("Sec-Fetch-Site: same-origin\r\nOrigin: http://evil.example\r\n", "403"),
        ("Origin: null\r\n", "403"),
        ("Origin: http://localhost:3000\r\n", "403"),
        ("Sec-Fetch-Site: same-origin\r\nOrigin: http://localhost\r\n", "200"),
        ("Sec-Fetch-Site: none\r\n", "200"),
    ] {
        let change =
            format!("POST /api/v1/anything HTTP/1.1\r\nHost: localhost\r\n{mine}{foreign}Content-Length: 0\r\n\r\n");
        assert_eq!(status(&port.raw(change.as_bytes()).await), expected, "{foreign}");
        let look = port.get("/api/v1/something?of=1", &format!("{mine}{foreign}")).await;
        assert_eq!(status(&look), expected, "{foreign}");
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(status(&port.get(path, &format!("{mine}{foreign}")).await), "200", "{foreign} {path}");
        }
    }
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
    assert_eq!(status(&port.get("/", link).await), "200", "a link to the status page may be followed");
    assert_eq!(status(&port.get("/api/v1/something?of=1", link).await), "403");
}

#[tokio::test]
async fn whatever_is_wrong_is_told_in_the_same_shape() {
    let port = Port::open(Some("s3cret")).await;
    let ask = async |method: &str, path: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\r\n");
        port.raw(format!("{head}Content-Length: 0\r\n\r\n").as_bytes()).await
    };
    for (method, path, code, words) in [
        ("GET", "/api/v1/unknown", "404", "there is nothing here"),
        ("GET", "/api/v1", "404", "there is nothing here"),
        ("GET", "/unknown", "404", "there is nothing here"),
        ("GET", "/api/v1/anything", "405", "GET is not for this path"),
        ("DELETE", "/api/v1/something", "405", "DELETE is not for this path"),
        ("GET", "/api/v1/something", "400", "missing field `of`"),
        ("GET", "/api/v1/something?of=%22x", "400", "invalid"),
        ("GET", "/api/v1/something?of=999", "400", "too large"),
    ] {
        let answer = ask(method, path).await;
        assert_eq!(status(&answer), code, "{method} {path}");
        assert!(answer.contains("\r\ncontent-type: application/json\r\n"), "{answer}");
        let said: serde_json::Value = serde_json::from_str(body(&answer)).expect("JSON");
        assert!(said["error"].as_str().is_some_and(|error| error.contains(words)), "{answer}");
        assert_eq!(said.as_object().map(serde_json::Map::len), Some(1), "{answer}");
    }
    let look = ask("HEAD", "/api/v1/something?of=7").await;
    assert_eq!((status(&look), body(&look)), ("200", ""), "HEAD where there is GET");
    for path in ["/healthz", "/metrics", "/api/v1/something?of=7", "/api/v1/unknown"] {
        let answer = ask("GET", path).await;
        for header in ["cache-control: no-store", "x-content-type-options: nosniff"] {
            assert!(answer.contains(&format!("\r\n{header}\r\n")), "{answer}");
        }
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
    let change = b"POST /api/v1/anything HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
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
        look: Look(Arc::new(|| ())),
        phase,
        token: watch::channel(Some(Arc::new(token))).1,
        names: watch::channel(Arc::default()).1,
        api: Router::new().route("/anything", axum::routing::post("done")),
    };
    let (_open, closed) = oneshot::channel();
    let mut server = JoinSet::new();
    let (log, _guard) = Log::begin();
    server.spawn(serve(Listener::Local(unix), state, closed));
    let mut stream = tokio::net::UnixStream::connect(&path).await.expect("accepted");
    stream
        .write_all(b"POST /api/v1/anything HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        .await
        .expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("UTF-8");
    assert_eq!(body(&answer), "done");
    let me =
        format!("INFO audit who=socket uid={} pid={} method=", rustix::process::getuid().as_raw(), std::process::id());
    assert!(log.lines().iter().any(|line| line.starts_with(&me)), "who it was, by the kernel's word");
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
    let two = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
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
    let (token, names) = (watch::channel(None).1, watch::channel(Arc::default()).1);
    let state = State { metrics, look: Look(Arc::new(|| ())), phase, token, names, api: Router::new() };
    let started = tokio::time::Instant::now();
    answer(Box::new(stream), Caller::Network(address), router(state)).await;
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

/// What is logged meanwhile.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let paper = log.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(move || paper.clone());
        (log, tracing::subscriber::set_default(lines.finish()))
    }

    /// The lines since this was asked last, without their times.
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().expect("no panic"))).expect("UTF-8");
        text.lines().map(|line| line.split_once("Z ").map_or(line, |(_, line)| line.trim_start()).to_owned()).collect()
    }
}

#[tokio::test]
async fn whatever_changes_something_leaves_one_line_and_nothing_else_does() {
    let (log, _guard) = Log::begin();
    let port = Port::open(Some("s3cret")).await;
    let change = |path: &str, token: &str| {
        let token = format!("Authorization: Bearer {token}\r\n");
        format!("POST /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\n{token}Content-Length: 0\r\n\r\n").into_bytes()
    };
    port.get("/metrics", "Authorization: Bearer s3cret\r\n").await;
    port.get("/api/v1/something?of=7", "Authorization: Bearer s3cret\r\n").await;
    assert_eq!(log.lines(), [""; 0]);
    for (path, token, expected) in [
        ("anything?for=5m&x=%22%0a", "s3cret", ["INFO", "/api/v1/anything?for=5m&x=%22%0a", "200"]),
        ("unknown", "s3cret", ["INFO", "/api/v1/unknown", "404"]),
        ("something?of=1", "s3cret", ["INFO", "/api/v1/something?of=1", "405"]),
        ("anything", "gue55", ["WARN", "/api/v1/anything", "401"]),
    ] {
        port.raw(&change(path, token)).await;
        let lines = log.lines();
        let [level, path, status] = expected;
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(line.starts_with(&format!("{level} audit who=127.0.0.1:")), "{line}");
        assert!(line.contains(&format!(" method=\"POST\" path=\"{path}\" status={status} took_ms=")), "{line}");
        assert!(!line.contains("s3cret") && !line.contains("gue55"), "{line}");
    }
    // Whoever goes away before the answer.
    let mut stream = TcpStream::connect(port.address).await.expect("accepted");
    stream.write_all(&change("for-ever", "s3cret")).await.expect("taken");
    drop(stream);
    let line = timeout(Duration::from_secs(20), async {
        loop {
            if let Some(line) = log.lines().pop() {
                return line;
            }
            tokio::task::yield_now().await;
        }
    });
    let line = line.await.expect("a line");
    assert!(line.contains("/for-ever\" status=499 "), "{line}");
}

/// The paths with their methods that a document describes.
fn described() -> std::collections::BTreeSet<(String, String)> {
    let document: serde_json::Value = serde_json::from_str(api::openapi::DOCUMENT).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let methods = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().expect("methods").keys();
        methods.map(|method| (path.clone(), method.to_uppercase())).collect::<Vec<_>>()
    });
    methods.collect()
}

#[tokio::test]
async fn the_document_describes_what_there_is_and_nothing_else() {
    let text = "[[listener]]\nname = \"l\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
        [[backend]]\nname = \"b\"\naddress = \"127.0.0.1:1\"\ntls = \"none\"\nhealth = \"off\"\n[[route]]\nbackend = \"b\"\n";
    let config = crate::config::Config::parse(text, std::path::Path::new("x.toml")).expect("a good one");
    let server = crate::server::Server::build(config).expect("built");
    let port = Port::open_with(Some("s3cret"), api(server.steering())).await;
    // What axum shows of a router for people who debug it is the one list there is of its paths.
    let (token, names) = (watch::channel(None).1, watch::channel(Arc::default()).1);
    let state = State {
        metrics: Arc::clone(&port.metrics),
        look: Look(Arc::new(|| ())),
        phase: port.phase.subscribe(),
        token,
        names,
        api: api(server.steering()),
    };
    let shown = format!("{:?}", router(state));
    let shown = shown.split("fallback_router").next().expect("the router itself");
    let routes = shown.split("RouteId(").filter_map(|part| part.split_once("): \"")?.1.split('"').next());
    let mut there = std::collections::BTreeSet::new();
    for path in routes {
        let asked = path.replace("{user}", "ann").replace("{backend}", "b").replace("{id}", "x");
        let request = format!("PATCH {asked} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\n\r\n");
        let answer = port.raw(request.as_bytes()).await;
        let allowed = answer
            .lines()
            .find_map(|line| line.strip_prefix("allow: "))
            .unwrap_or_else(|| panic!("{path} does not say what it takes: {answer}"));
        let methods = allowed.split(',').filter(|method| *method != "HEAD");
        there.extend(methods.map(|method| (path.to_owned(), method.to_owned())));
    }
    assert_eq!(there, described());
}
