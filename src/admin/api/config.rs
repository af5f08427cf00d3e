//! The configuration in use, and how much is logged.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use super::parts::{Parameters, Wrong};
use super::{failed, said};
use crate::config::{duration, log_level};
use crate::steer::Steering;

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/config", get(show)).route("/log-level", post(set_log_level))
}

async fn show(State(steering): State<Steering>) -> Response {
    let config = steering.shown_config();
    let file = config.file.map(|file| file.display().to_string());
    said(StatusCode::OK, &json!({ "file": file, "loaded_at": config.loaded_at, "toml": config.text.as_str() }))
}

#[derive(Debug, Deserialize)]
struct Level {
    to: Option<String>,
    r#for: Option<String>,
}

async fn set_log_level(State(steering): State<Steering>, Parameters(level): Parameters<Level>) -> Response {
    let Some(to) = level.to else { return Wrong::new("to: a level is expected").into_response() };
    let to = match log_level(&to) {
        Ok(to) => to,
        Err(why) => return Wrong::new(&format!("to: {why}")).into_response(),
    };
    let time = match level.r#for.as_deref().map(duration).transpose() {
        Ok(time) => time,
        Err(why) => return Wrong::new(&format!("for: {why}")).into_response(),
    };
    match steering.set_log_level(to, time) {
        Ok(()) => said(StatusCode::OK, &json!({ "level": steering.log_level().as_str() })),
        Err(error) => failed(&error),
    }
}
