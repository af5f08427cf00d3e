//! Backends: drain, undrain.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde_json::json;

use super::{failed, said};
use crate::config::duration;
use crate::steer::Steering;

/// How long a drain waits for sessions to end by themselves, unless it is told.
const PATIENCE: Duration = Duration::from_mins(5);

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/backends/{backend}/drain", post(drain)).route("/backends/{backend}/undrain", post(undrain))
}

#[derive(Debug, Deserialize)]
struct HowLong {
    r#for: Option<String>,
}

async fn drain(
    State(steering): State<Steering>,
    Path(backend): Path<String>,
    Query(how_long): Query<HowLong>,
) -> Response {
    let patience = match how_long.r#for.as_deref().map(duration) {
        None => PATIENCE,
        Some(Ok(patience)) => patience,
        Some(Err(why)) => return said(StatusCode::BAD_REQUEST, &json!({ "error": format!("for: {why}") })),
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
