//! What stands in the log, in both formats, and what the metrics say beside it.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;
use zeroize::Zeroizing;

use super::*;
use crate::backend::LoginAs;
use crate::config::{self, BackendTls};
use crate::imap::{Credentials, Secret};
use crate::outcome::Limit;

/// A log that can be read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What stands behind the time of each line (JSON: the whole line).
    fn lines(&self) -> Vec<String> {
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(text).expect("UTF-8").lines().map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The lines that `act` writes as text, without time.
fn text(act: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_ansi(false)
        .without_time()
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    log.lines()
}

/// The lines that `act` writes as JSON.
fn json(act: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(Level::TRACE)
        .without_time()
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    log.lines()
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().expect("no name twice"))
}

/// Whether a series stands in the metrics with this value.
fn shows(metrics: &Metrics, series: &str) -> bool {
    let text = String::from_utf8(metrics.render().expect("renders")).expect("UTF-8");
    text.lines().any(|line| line == series)
}

fn record(metrics: &Arc<Metrics>) -> Record {
    let peer = "192.0.2.1:4711".parse().expect("an address");
    Record::new(Arc::clone(metrics), "5f3a".into(), "imaps".into(), peer)
}

fn login(user: &[u8]) -> Login {
    Login {
        mechanism: Mechanism::Plain,
        user: UserName::new(user).expect("clean"),
        authzid: None,
        credentials: Credentials::Password(Secret::new(Zeroizing::new(b"hunter2".to_vec())).expect("clean")),
    }
}

fn route(metrics: &Metrics) -> Route {
    let config = config::Backend {
        name: "blue".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 143,
        tls: BackendTls::None,
        proxy_protocol: None,
        forward_id: false,
        source: Vec::new(),
        max_links: 0,
        max_links_per_user: 0,
        weight: std::num::NonZeroU32::MIN,
        health: config::Health::unprobed(),
    };
    let backend = Arc::new(Backend::new(config, None, metrics.backend("blue")));
    Route::new(backend, UserName::new(&b"ann"[..]).expect("clean"), LoginAs::Client)
}

fn whole_session(metrics: &Arc<Metrics>) {
    let mut record = record(metrics);
    record.speaks_for("203.0.113.9:5000".parse().expect("an address"));
    record.tls = Some(("1.3", "TLS13_AES_256_GCM_SHA384"));
    record.logged_in(&login(b"ann@example.org"), &route(metrics), Duration::from_millis(42));
    record.to_backend = 100;
    record.to_client = 2000;
    record.close(Ending::ClientClosed);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_one_line_of_text() {
    let metrics = metrics();
    let lines = text(|| whole_session(&metrics));
    assert_eq!(
        lines,
        [concat!(
            " INFO mailmux::record: session closed session=5f3a listener=imaps peer=192.0.2.1:4711 ",
            "client=203.0.113.9:5000 tls=1.3 cipher=TLS13_AES_256_GCM_SHA384 user=\"ann@example.org\" mechanism=PLAIN ",
            "backend=blue login_ms=42 duration_ms=0 to_backend=100 to_client=2000 side=client reason=closed"
        )]
    );
    assert!(shows(&metrics, "mailmux_sessions_closed_total{reason=\"closed\",side=\"client\"} 1"));
    assert!(shows(&metrics, "mailmux_session_seconds_count{backend=\"blue\"} 1"));
    assert!(shows(&metrics, "mailmux_login_seconds_count{backend=\"blue\"} 1"));
    assert!(shows(&metrics, "mailmux_logins_total{mechanism=\"PLAIN\",outcome=\"ok\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_one_flat_json_object() {
    let metrics = metrics();
    let lines = json(|| whole_session(&metrics));
    assert_eq!(
        lines,
        [concat!(
            "{\"level\":\"INFO\",\"message\":\"session closed\",\"session\":\"5f3a\",\"listener\":\"imaps\",",
            "\"peer\":\"192.0.2.1:4711\",\"client\":\"203.0.113.9:5000\",\"tls\":\"1.3\",",
            "\"cipher\":\"TLS13_AES_256_GCM_SHA384\",\"user\":\"ann@example.org\",\"mechanism\":\"PLAIN\",",
            "\"backend\":\"blue\",\"login_ms\":42,\"duration_ms\":0,\"to_backend\":100,\"to_client\":2000,",
            "\"side\":\"client\",\"reason\":\"closed\",\"target\":\"mailmux::record\"}"
        )]
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_closed_is_a_fault_of_ours_and_is_still_written_once() {
    let metrics = metrics();
    let lines = text(|| drop(record(&metrics)));
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("ERROR ") && lines[0].ends_with("side=mailmux reason=internal"), "{lines:?}");
    assert!(shows(&metrics, "mailmux_internal_errors_total 1"));
}

#[tokio::test(start_paused = true)]
async fn a_session_without_login_shows_only_what_is_known() {
    let metrics = metrics();
    metrics.backend("blue");
    let lines = text(|| record(&metrics).close(Ending::HealthCheck));
    assert_eq!(
        lines,
        [concat!(
            "DEBUG mailmux::record: session closed session=5f3a listener=imaps peer=192.0.2.1:4711 ",
            "client=192.0.2.1:4711 duration_ms=0 to_backend=0 to_client=0 side=client reason=health_check"
        )]
    );
    assert!(shows(&metrics, "mailmux_session_seconds_count{backend=\"blue\"} 0"));
}

#[tokio::test(start_paused = true)]
async fn a_session_says_how_long_it_took() {
    let metrics = metrics();
    let record = record(&metrics);
    tokio::time::advance(Duration::from_millis(1500)).await;
    let lines = text(|| record.close(Ending::BackendReset));
    assert!(lines[0].starts_with(" WARN ") && lines[0].contains(" duration_ms=1500 "), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn every_refused_login_is_one_line_that_begins_with_the_address() {
    let metrics = metrics();
    let lines = text(|| {
        let record = record(&metrics);
        record.refused(&login(b"ann"), &Refusal::BadCredentials, None);
        record.refused(&login(b"ann"), &Refusal::Limited(Limit::FailuresPerUser), None);
        record.refused(&login(b"ann"), &Refusal::BackendDown, Some("blue: connection refused"));
        record.refused(&login(b"ann"), &Refusal::Rejected("Closed for moving.".to_owned()), None);
        record.aborted(&login(b"ann"));
        record.close(Ending::ClientLogout);
    });
    assert_eq!(lines.len(), 6);
    assert_eq!(
        lines[..5],
        [
            concat!(
                " INFO mailmux::record: login refused client=192.0.2.1 reason=bad_credentials mechanism=PLAIN ",
                "listener=imaps session=5f3a user=\"ann\""
            ),
            concat!(
                " INFO mailmux::record: login refused client=192.0.2.1 reason=limited limit=failures_per_user ",
                "mechanism=PLAIN listener=imaps session=5f3a user=\"ann\""
            ),
            concat!(
                " INFO mailmux::record: login refused client=192.0.2.1 reason=backend_down mechanism=PLAIN ",
                "listener=imaps session=5f3a user=\"ann\" detail=\"blue: connection refused\""
            ),
            concat!(
                " INFO mailmux::record: login refused client=192.0.2.1 reason=no_route rule=reject mechanism=PLAIN ",
                "listener=imaps session=5f3a user=\"ann\""
            ),
            concat!(
                "DEBUG mailmux::record: login aborted client=192.0.2.1 mechanism=PLAIN ",
                "listener=imaps session=5f3a user=\"ann\""
            ),
        ]
    );
    for outcome in ["bad_credentials", "limited", "backend_down", "no_route", "aborted"] {
        let series = format!("mailmux_logins_total{{mechanism=\"PLAIN\",outcome=\"{outcome}\"}} 1");
        assert!(shows(&metrics, &series), "{series}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_can_forge_a_line_or_a_field_or_colour_a_terminal() {
    let metrics = metrics();
    let user = b"x\" reason=ok client=10.0.0.1 \x1b[31m\xe2\x80\xa8\x85\\";
    let attack = || {
        let mut record = record(&metrics);
        record.refused(&login(user), &Refusal::BadCredentials, Some("bye\r\n INFO login refused client=10.0.0.1\0"));
        record.logged_in(&login(user), &route(&metrics), Duration::ZERO);
        record.close(Ending::ClientClosed);
    };
    let lines = text(attack);
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        // Outside the quotes there is one client and one reason: ours.
        let bare = unquoted(line);
        assert_eq!(bare.matches(" client=").count(), 1, "{bare}");
        assert_eq!(bare.matches(" reason=").count(), 1, "{bare}");
        assert_eq!(bare.matches("INFO").count(), 1, "{bare}");
    }
    let lines = json(attack);
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        assert_eq!(line.matches("\"reason\":").count(), 1, "{line}");
        assert!(
            line.contains(r#""user":"x\\\" reason=ok client=10.0.0.1 \\x1b[31m\\xe2\\x80\\xa8\\x85\\\\""#),
            "{line}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_ever_written() {
    let metrics = metrics();
    for lines in [text(|| whole_session(&metrics)), json(|| whole_session(&metrics))] {
        assert!(!lines.concat().contains("hunter2"));
    }
}

/// The parts of a line of text that stand outside quoted strings.
fn unquoted(line: &str) -> String {
    let (mut bare, mut quoted, mut escaped) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if !quoted => bare.push(c),
            _ => {}
        }
    }
    bare
}
