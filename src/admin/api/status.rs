//! The server itself, as it is and as it was in the last hour.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::parts::moment;
use super::said;
use crate::config::ListenerTls;
use crate::process::Phase;
use crate::steer::{HISTORY_STEP, Quantiles, Steering};

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/status", get(status)).route("/history", get(history))
}

async fn status(State(steering): State<Steering>, Extension(phase): Extension<watch::Receiver<Phase>>) -> Response {
    let status = steering.status();
    let readings = &status.readings;
    let process = readings.process;
    let sum = |count: fn(&crate::metrics::ListenerReadings) -> u64| readings.listeners.values().map(count).sum::<u64>();
    let (total, preauth) = (sum(|listener| listener.sessions), sum(|listener| listener.preauth));
    let listeners = status.listeners.iter().map(|listener| {
        json!({
            "name": listener.name,
            "address": listener.address,
            "tls": tls(listener.tls),
            "sessions": listener.readings.sessions,
            "preauth": listener.readings.preauth,
            "accepted_total": listener.readings.accepted,
        })
    });
    let answer = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "started_at": moment(status.began_at),
        "uptime_seconds": status.uptime.as_secs_f64(),
        "phase": word(*phase.borrow()),
        "open_descriptors": process.map(|(open, ..)| open),
        "max_descriptors": process.map(|(_, most, _)| most),
        "resident_bytes": process.map(|(.., bytes)| bytes),
        "log_level": status.log_level.as_str(),
        "reload": {
            "last_success_at": readings.configured_at,
            "last_failure_at": status.last_failed_reload.map(moment),
            "succeeded": readings.reloads.0,
            "failed": readings.reloads.1,
        },
        "listeners": listeners.collect::<Vec<_>>(),
        "sessions": { "total": total, "preauth": preauth, "logged_in": total.saturating_sub(preauth) },
        "logins": readings.logins,
        "closed": readings.closed,
        "limited": readings.limited,
        "bytes": { "to_client": readings.bytes_to_client, "to_backend": readings.bytes_to_backend },
        "login_seconds": quantiles(status.login_seconds),
        "queue": readings.queue,
        "predecessors": readings.predecessors.0,
        "predecessor_sessions": readings.predecessors.1,
    });
    said(StatusCode::OK, &answer)
}

async fn history(State(steering): State<Steering>) -> Response {
    let shown = steering.history();
    let of = |quantile: fn(Quantiles) -> f64| -> Vec<_> {
        shown.login_seconds.iter().map(|found| found.map(quantile).map(ten_thousandths)).collect()
    };
    let backends = shown.backends.iter().map(|(name, backend)| {
        let up: Vec<_> = backend.is_up.iter().copied().map(u8::from).collect();
        (name.clone(), json!({ "sessions": backend.sessions, "logins": backend.logins, "up": up }))
    });
    let answer = json!({
        "step_seconds": HISTORY_STEP.as_secs(),
        "ends_at": shown.ends_at.map(moment),
        "sessions": shown.sessions,
        "logins_ok": shown.logins_ok,
        "logins_failed": shown.logins_failed,
        "logins_failed_by": shown.logins_failed_by,
        "bytes_to_client": shown.bytes_to_client,
        "bytes_to_backend": shown.bytes_to_backend,
        "queue": shown.queue,
        "login_seconds": { "p50": of(|q| q.p50), "p95": of(|q| q.p95), "p99": of(|q| q.p99) },
        "backends": backends.collect::<Map<_, _>>(),
    });
    said(StatusCode::OK, &answer)
}

fn quantiles(found: Option<Quantiles>) -> Value {
    let of = |quantile: fn(Quantiles) -> f64| found.map(quantile).map(ten_thousandths);
    json!({ "p50": of(|q| q.p50), "p95": of(|q| q.p95), "p99": of(|q| q.p99) })
}

/// What lies between the bounds of buckets is a guess; more digits would say that it is not.
fn ten_thousandths(seconds: f64) -> f64 {
    (seconds * 10_000.0).round() / 10_000.0
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Running => "running",
        Phase::Succeeded => "succeeded",
        Phase::Draining => "draining",
        Phase::Stopped => "stopped",
    }
}

fn tls(tls: ListenerTls) -> &'static str {
    match tls {
        ListenerTls::Implicit => "implicit",
        ListenerTls::StartTls => "starttls",
        ListenerTls::None => "none",
    }
}
