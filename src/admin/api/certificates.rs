//! Certificates: those that clients are shown.

use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

use super::said;
use crate::steer::Steering;

const DAY: i64 = 24 * 60 * 60;

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/certificates", get(list))
}

async fn list(State(steering): State<Steering>) -> Response {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let shown = steering.certificates().await.into_iter().map(|certificate| {
        json!({
            "name": certificate.name,
            "names": certificate.names,
            "file": certificate.file.map(|file| file.display().to_string()),
            "issuer": certificate.issuer,
            "not_before_at": certificate.not_before,
            "not_after_at": certificate.not_after,
            // Whole days: what expires within the day has none.
            "days_left": certificate.not_after.saturating_sub(now).div_euclid(DAY),
            "key": certificate.key,
        })
    });
    said(StatusCode::OK, &json!({ "certificates": shown.collect::<Vec<Value>>() }))
}
