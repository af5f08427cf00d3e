//! The running server itself: its configuration.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use serde_json::json;

use super::said;
use crate::steer::Steering;

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/reload", post(reload))
}

async fn reload(State(steering): State<Steering>) -> Response {
    match steering.reload().await {
        Ok(warnings) => said(StatusCode::OK, &json!({ "warnings": warnings.shown() })),
        Err(findings) => said(
            StatusCode::UNPROCESSABLE_ENTITY,
            &json!({ "error": "the configuration is refused, nothing has changed", "findings": findings.shown() }),
        ),
    }
}
