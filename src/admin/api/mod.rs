//! What operators can see of the running server and have done to it, over HTTP with answers in JSON. Each page here has the
//! paths of one thing; each path asks [`Steering`] and tells what came of it. Not here: who may ask (the room above).

mod backends;
mod parts;
mod server;
mod sessions;
mod users;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::steer::{SteerError, Steering};

/// The paths below `/api/v1`.
pub fn api(steering: Steering) -> Router {
    Router::new()
        .merge(server::paths())
        .merge(sessions::paths())
        .merge(users::paths())
        .merge(backends::paths())
        .with_state(steering)
}

fn failed(error: &SteerError) -> Response {
    let status = match error {
        SteerError::NoSuchBackend(_) => StatusCode::NOT_FOUND,
        SteerError::StillThere(_) => StatusCode::CONFLICT,
    };
    said(status, &json!({ "error": error.to_string() }))
}

fn said(status: StatusCode, what: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{what}\n")).into_response()
}
