//! Lookups: how they do, flush.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{Parameters, Wrong};
use super::{failed, said};
use crate::imap::UserName;
use crate::steer::Steering;

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/lookups", get(list)).route("/lookups/flush", post(flush))
}

async fn list(State(steering): State<Steering>) -> Response {
    let counts = |counts: &[(&'static str, u64)]| {
        counts.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect::<serde_json::Map<_, _>>()
    };
    let shown = steering.lookups().into_iter().map(|lookup| {
        json!({
            "name": lookup.name,
            "kind": lookup.kind,
            "cached": lookup.entries.is_some(),
            "entries": lookup.entries,
            "answers": counts(&lookup.answers),
            "cache": counts(&lookup.ways),
        })
    });
    said(StatusCode::OK, &json!({ "lookups": shown.collect::<Vec<Value>>() }))
}

#[derive(Debug, Deserialize)]
struct What {
    lookup: Option<String>,
    user: Option<String>,
}

async fn flush(State(steering): State<Steering>, Parameters(what): Parameters<What>) -> Response {
    let user = match what.user.map(|user| UserName::new(user.as_bytes())).transpose() {
        Ok(user) => user,
        Err(why) => return Wrong::new(&format!("user: {why}")).into_response(),
    };
    match steering.flush(what.lookup.as_deref(), user.as_ref()).await {
        Ok(flushed) => said(StatusCode::OK, &json!({ "flushed": flushed })),
        Err(error) => failed(&error),
    }
}
