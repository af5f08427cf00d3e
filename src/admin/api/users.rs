//! Users: hold, release, kick, move.

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde_json::json;

use super::{failed, said};
use crate::imap::UserName;
use crate::steer::Steering;

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new()
        .route("/users/{user}/hold", post(hold))
        .route("/users/{user}/release", post(release))
        .route("/users/{user}/kick", post(kick))
        .route("/users/{user}/move", post(move_user))
}

#[derive(Debug, Deserialize)]
struct Destination {
    to: Option<String>,
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

fn no_user() -> Response {
    said(
        StatusCode::BAD_REQUEST,
        &json!({ "error": "that is no user's name: it is empty or holds a control character" }),
    )
}
