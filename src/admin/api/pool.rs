//! The pool: links that wait, by backend, who got one and why others went.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Map, Value, json};

use super::said;
use crate::steer::{BackendReport, Steering};

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/pool", get(pool))
}

async fn pool(State(steering): State<Steering>) -> Response {
    let backends: Vec<_> = steering.backends().iter().map(shown).collect();
    said(StatusCode::OK, &json!({ "backends": backends }))
}

fn shown(report: &BackendReport) -> Value {
    let reading = &report.reading;
    let checkouts: Map<_, _> =
        reading.checkouts.iter().map(|(checkout, count)| (checkout.as_str().to_owned(), json!(count))).collect();
    let evictions: Map<_, _> =
        reading.evictions.iter().map(|(why, count)| (why.as_str().to_owned(), json!(count))).collect();
    json!({
        "backend": report.name,
        "mode": report.pool_mode,
        "warm": reading.warm,
        "reusable": reading.idle,
        "active": reading.active,
        "checkouts": checkouts,
        "evictions": evictions,
    })
}
