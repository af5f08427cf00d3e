//! Where a user would go, and why.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;

use super::parts::{Parameters, Wrong};
use super::{failed, said};
use crate::imap::UserName;
use crate::steer::{Steering, Whence};

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/users/{user}/route", get(route))
}

#[derive(Debug, Deserialize)]
struct From {
    listener: Option<String>,
    client: Option<String>,
    server_name: Option<String>,
}

async fn route(
    State(steering): State<Steering>,
    Path(user): Path<String>,
    Parameters(From { listener, client, server_name }): Parameters<From>,
) -> Response {
    let Ok(user) = UserName::new(user.as_bytes()) else {
        return Wrong::new("that is no user's name: it is empty or holds a control character").into_response();
    };
    let Ok(client) = client.as_deref().map(str::parse).transpose() else {
        return Wrong::new("client: expected an IP address").into_response();
    };
    let explained = match steering.explain(&user, Whence { listener, client, server_name }).await {
        Ok(explained) => explained,
        Err(error) => return failed(&error),
    };
    let end = explained.end.as_ref().ok();
    said(
        StatusCode::OK,
        &json!({
            "steps": explained.steps,
            "backend": end.map(|end| &end.backend),
            "address": end.map(|end| &end.address),
            "group": end.and_then(|end| end.group.as_ref()),
            "as": end.map(|end| &end.user),
            "login": end.map(|end| &end.login),
            "error": explained.end.as_ref().err(),
        }),
    )
}
