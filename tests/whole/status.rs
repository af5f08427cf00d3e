//! The server itself, as operators see it over the admin port: how it is, and how the last hour was.

use std::fs;

use mailmux::process::Phase;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::backend::Backend;
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::soon;

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"token\"\n";
const TOKEN: &str = "Authorization: Bearer s3cret\r\n";

async fn world() -> (TempDir, Running, Backend) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    fs::write(folder.path().join("token"), "s3cret\n").expect("written");
    let backend = Backend::listen().await;
    let listener = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n";
    let config = format!("{listener}{}[[route]]\nbackend = \"blue\"\n{ADMIN}", backend.section("blue"));
    let server = Running::start(folder.path(), &config);
    (folder, server, backend)
}

async fn ask(server: &Running, path: &str) -> Value {
    let (status, body) = server.get(path, TOKEN).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Waits until a part of the status has this value.
async fn until(server: &Running, part: &str, expected: &Value) {
    soon(&format!("{part} to be {expected}"), async {
        while ask(server, "/api/v1/status").await.pointer(part) != Some(expected) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_status_tells_what_is_and_what_was() {
    let (_folder, server, backend) = world().await;
    let status = ask(&server, "/api/v1/status").await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], std::process::id());
    assert_eq!(status["phase"], "running");
    assert_eq!(status["log_level"], "info");
    assert_eq!(status["login_seconds"], json!({ "p50": null, "p95": null, "p99": null }));
    assert_eq!((&status["logins"]["ok"], &status["closed"]["kicked"]), (&json!(0), &json!(0)), "there from the start");
    assert!(status["open_descriptors"].as_u64() > Some(3) && status["resident_bytes"].as_u64() > Some(1_000_000));
    let (began, up) = (status["started_at"].as_f64(), status["uptime_seconds"].as_f64());
    assert!(began > Some(1.7e9) && up < Some(300.0), "{status}");

    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    until(&server, "/sessions", &json!({ "total": 1, "preauth": 1, "logged_in": 0 })).await;
    client.say("b LOGIN ann pass\r\n").await;
    let (mut call, _) = backend.let_in().await;
    client.hear("b OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    until(&server, "/sessions", &json!({ "total": 1, "preauth": 0, "logged_in": 1 })).await;
    client.say("c NOOP\r\n").await;
    call.hear(b"c NOOP\r\n").await;
    until(&server, "/bytes/to_backend", &json!(8)).await;
    let status = ask(&server, "/api/v1/status").await;
    assert_eq!((&status["logins"]["ok"], &status["queue"]), (&json!(1), &json!(0)));
    assert!(status["login_seconds"]["p95"].as_f64() > Some(0.0), "one has logged in: {status}");
    let listener = &status["listeners"][0];
    assert_eq!((&listener["name"], &listener["tls"]), (&json!("plain"), &json!("none")));
    assert_eq!((&listener["sessions"], &listener["accepted_total"]), (&json!(1), &json!(1)));
    drop(client);
    call.hear_end().await;
    drop(call);
    until(&server, "/closed/closed", &json!(1)).await;
}

#[tokio::test]
async fn a_refused_reload_and_a_drain_are_seen() {
    let (_folder, server, _backend) = world().await;
    let status = ask(&server, "/api/v1/status").await;
    assert_eq!((&status["reload"]["failed"], &status["reload"]["last_failure_at"]), (&json!(0), &Value::Null));
    server.steering.reload().await.expect_err("it has no file");
    let reload = ask(&server, "/api/v1/status").await["reload"].clone();
    assert_eq!(reload["failed"], 1);
    assert!(reload["last_failure_at"].as_f64() > reload["last_success_at"].as_f64(), "{reload}");
    // Somebody is there, or it would end at once.
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    server.phase.send_replace(Phase::Succeeded);
    until(&server, "/phase", &json!("succeeded")).await;
}

#[tokio::test]
async fn the_history_begins_empty_and_has_the_series_of_the_contract() {
    let (_folder, server, _backend) = world().await;
    let history = ask(&server, "/api/v1/history").await;
    assert_eq!(history["step_seconds"], 10);
    assert!(history["ends_at"].as_f64() > Some(1.7e9));
    for series in ["sessions", "logins_ok", "logins_failed", "bytes_to_client", "bytes_to_backend", "queue"] {
        assert_eq!(history[series], json!([]), "{series}");
    }
    assert_eq!(history["login_seconds"], json!({ "p50": [], "p95": [], "p99": [] }));
    assert_eq!((&history["backends"], &history["logins_failed_by"]), (&json!({}), &json!({})));
}
