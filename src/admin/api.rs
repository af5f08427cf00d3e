//! What operators can have done to the running server, over HTTP with answers in JSON. Each path asks [`Steering`] and tells
//! what came of it. Not here: who may ask (the room's own page).
//!
//! | `POST /api/v1/...` | answer |
//! |---|---|
//! | `reload` | `{"warnings": [...]}`; 422 with `error` and `findings` where the configuration is refused |
//! | `users/USER/hold` | `{}`: logins wait, for a quarter of an hour at most |
//! | `users/USER/release` | `{"was_held": true}` |
//! | `users/USER/kick` | `{"dismissed": 2}` |
//! | `users/USER/move`, `?to=BACKEND` | `{"dismissed": 2}`, once the sessions have gone |
//! | `backends/BACKEND/drain`, `?for=5m` | `{"dismissed": 2}`, once the sessions have gone |
//! | `backends/BACKEND/undrain` | `{}` |

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::duration;
use crate::imap::UserName;
use crate::steer::{SteerError, Steering};

/// How long a drain waits for sessions to end by themselves, unless it is told.
const PATIENCE: Duration = Duration::from_mins(5);

/// The paths below `/api/v1`.
pub fn api(steering: Steering) -> Router {
    Router::new()
        .route("/reload", post(reload))
        .route("/users/{user}/hold", post(hold))
        .route("/users/{user}/release", post(release))
        .route("/users/{user}/kick", post(kick))
        .route("/users/{user}/move", post(move_user))
        .route("/backends/{backend}/drain", post(drain))
        .route("/backends/{backend}/undrain", post(undrain))
        .with_state(steering)
}

#[derive(Debug, Deserialize)]
struct Destination {
    to: Option<String>,
}

#[derive(Debug, Deserialize)]
struct HowLong {
    r#for: Option<String>,
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

async fn hold(State(steering): State<Steering>, Path(user): Path<String>) -> Response {
    let Ok(user) = UserName::new(user.as_bytes()) else { return no_user() };
    steering.hold(&user);
    said(StatusCode::OK, &json!({}))
}

async fn release(State(steering): State<Steering>, Path(user): Path<String>) -> Response {
    let Ok(user) = UserName::new(user.as_bytes()) else { return no_user() };
    said(StatusCode::OK, &json!({ "was_held": steering.release(&user) }))
}

async fn kick(State(steering): State<Steering>, Path(user): Path<String>) -> Response {
    let Ok(user) = UserName::new(user.as_bytes()) else { return no_user() };
    said(StatusCode::OK, &json!({ "dismissed": steering.kick(&user) }))
}

async fn move_user(
    State(steering): State<Steering>,
    Path(user): Path<String>,
    Query(destination): Query<Destination>,
) -> Response {
    let Ok(user) = UserName::new(user.as_bytes()) else { return no_user() };
    match steering.move_user(&user, destination.to.as_deref(), async {}).await {
        Ok(moved) => said(StatusCode::OK, &json!({ "dismissed": moved.dismissed })),
        Err(error) => failed(&error),
    }
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

fn failed(error: &SteerError) -> Response {
    let status = match error {
        SteerError::NoSuchBackend(_) => StatusCode::NOT_FOUND,
        SteerError::StillThere(_) => StatusCode::CONFLICT,
    };
    said(status, &json!({ "error": error.to_string() }))
}

fn no_user() -> Response {
    said(
        StatusCode::BAD_REQUEST,
        &json!({ "error": "that is no user's name: it is empty or holds a control character" }),
    )
}

fn said(status: StatusCode, what: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{what}\n")).into_response()
}
