//! What operators can see of the running server and have done to it, over HTTP with answers in JSON. Each page here has the
//! paths of one thing; each path asks [`Steering`] and tells what came of it. Not here: who may ask (the room above).

mod backends;
pub(super) mod openapi;
mod certificates;
mod config;
mod limits;
mod lookups;
mod parts;
mod pool;
mod routes;
mod server;
mod sessions;
mod status;
mod traces;
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
        .merge(status::paths())
        .merge(users::paths())
        .merge(backends::paths())
        .merge(pool::paths())
        .merge(routes::paths())
        .merge(limits::paths())
        .merge(lookups::paths())
        .merge(certificates::paths())
        .merge(config::paths())
        .merge(sessions::paths())
        .merge(traces::paths())
        .merge(openapi::paths())
        .with_state(steering)
}

fn failed(error: &SteerError) -> Response {
    let status = match error {
        SteerError::NoSuchBackend(_) | SteerError::NoSuchListener(_) | SteerError::NoSuchLookup(_) => {
            StatusCode::NOT_FOUND
        }
        SteerError::StillThere(_) | SteerError::NoLog => StatusCode::CONFLICT,
        SteerError::TooManyTraces => StatusCode::TOO_MANY_REQUESTS,
    };
    said(status, &json!({ "error": error.to_string() }))
}

pub(super) fn said(status: StatusCode, what: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{what}\n")).into_response()
}
