//! What operators can see of the running server and have done to it, over HTTP with answers in JSON. Each page here has the
//! paths of one thing; each path asks [`Steering`] and tells what came of it. Not here: who may ask (the room above).

mod backends;
pub(super) mod openapi;
mod server;
mod traces;
mod users;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::answers::json as said;
use crate::steer::{SteerError, Steering};

/// The paths below `/api/v1`.
pub fn api(steering: Steering) -> Router {
    Router::new().merge(server::paths()).merge(users::paths()).merge(traces::paths()).merge(openapi::paths()).merge(backends::paths()).with_state(steering)
}

fn failed(error: &SteerError) -> Response {
    let status = match error {
        SteerError::NoSuchBackend(_) => StatusCode::NOT_FOUND,
        SteerError::StillThere(_) => StatusCode::CONFLICT,
        SteerError::TooManyTraces => StatusCode::TOO_MANY_REQUESTS,
    };
    said(status, &json!({ "error": error.to_string() }))
}
