//! Backends: how they are, drain, undrain, weight.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{Parameters, Wrong, moment};
use super::{failed, said};
use crate::config::duration;
use crate::steer::{BackendReport, Steering};

/// How long a drain waits for sessions to end by themselves, unless it is told.
const PATIENCE: Duration = Duration::from_mins(5);
/// As in the configuration.
const MOST_WEIGHT: u32 = 1000;

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new()
        .route("/backends", get(backends))
        .route("/backends/{backend}", get(backend))
        .route("/backends/{backend}/drain", post(drain))
        .route("/backends/{backend}/undrain", post(undrain))
        .route("/backends/{backend}/weight", post(weight))
}

#[derive(Debug, Deserialize)]
struct HowLong {
    r#for: Option<String>,
}

#[derive(Debug, Deserialize)]
struct HowMuch {
    to: Option<String>,
}

async fn backends(State(steering): State<Steering>) -> Response {
    let backends: Vec<_> = steering.backends().iter().map(shown).collect();
    said(StatusCode::OK, &json!({ "backends": backends }))
}

async fn backend(State(steering): State<Steering>, Path(backend): Path<String>) -> Response {
    let (report, turns) = match steering.backend_report(&backend) {
        Ok(found) => found,
        Err(error) => return failed(&error),
    };
    let mut whole = shown(&report);
    if let Some(object) = whole.as_object_mut() {
        let turns = turns.iter().map(|turn| json!({ "at": moment(turn.at), "up": turn.is_up, "reason": turn.reason }));
        object.insert("history".to_owned(), turns.collect());
    }
    said(StatusCode::OK, &whole)
}

async fn drain(
    State(steering): State<Steering>,
    Path(backend): Path<String>,
    Parameters(how_long): Parameters<HowLong>,
) -> Response {
    let patience = match how_long.r#for.as_deref().map(duration) {
        None => PATIENCE,
        Some(Ok(patience)) => patience,
        Some(Err(why)) => return Wrong::new(&format!("for: {why}")).into_response(),
    };
    match steering.drain(&backend, patience).await {
        Ok(drained) => said(StatusCode::OK, &json!({ "dismissed": drained.dismissed })),
        Err(error) => failed(&error),
    }
}

async fn undrain(State(steering): State<Steering>, Path(backend): Path<String>) -> Response {
    match steering.undrain(&backend) {
        Ok(()) => said(StatusCode::OK, &json!({})),
        Err(error) => failed(&error),
    }
}

async fn weight(
    State(steering): State<Steering>,
    Path(backend): Path<String>,
    Parameters(how_much): Parameters<HowMuch>,
) -> Response {
    let weight = match how_much.to.as_deref() {
        Some("configured") => None,
        Some(number) => match number.parse() {
            Ok(weight @ 0..=MOST_WEIGHT) => Some(weight),
            _ => return Wrong::new("to: expected a number from 0 to 1000, or configured").into_response(),
        },
        None => return Wrong::new("to is missing: a number from 0 to 1000, or configured").into_response(),
    };
    match steering.set_weight(&backend, weight) {
        Ok(()) => said(StatusCode::OK, &json!({})),
        Err(error) => failed(&error),
    }
}

fn shown(report: &BackendReport) -> Value {
    let BackendReport { health, reading, .. } = report;
    let state = match (report.is_draining, health.is_up) {
        (true, _) => "draining",
        (false, true) => "up",
        (false, false) => "down",
    };
    json!({
        "name": report.name,
        "address": report.address,
        "tls": report.tls,
        "groups": report.groups,
        "state": state,
        "health": {
            "up": health.is_up,
            "reason": health.reason,
            "since_at": health.since.map(moment),
            "last_check_at": health.last_check.map(moment),
        },
        "weight": report.weight,
        "configured_weight": report.configured_weight,
        "sessions": report.sessions,
        "max_links": report.max_links,
        "links": report.links,
        "links_by_state": {
            "connecting": reading.connecting,
            "warm": reading.warm,
            "active": reading.active,
            "resetting": reading.resetting,
            "idle": reading.idle,
        },
        "queue": reading.queue,
        "pool": { "mode": report.pool_mode, "warm": reading.warm, "reusable": reading.idle, "active": reading.active },
        "logins_total": reading.logins,
        "errors_total": reading.errors,
        "login_seconds": report.login_seconds.map(|[p50, p95, p99]| json!({ "p50": p50, "p95": p95, "p99": p99 })),
        "bytes": { "to_client": reading.to_client, "to_backend": reading.to_backend },
    })
}
