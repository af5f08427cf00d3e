//! Sessions: listed, kicked.

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{Parameters, Wrong, moment, page_size, span, whom};
use super::said;
use crate::config::network;
use crate::pulse;
use crate::steer::{Filter, Seen, Steering};

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new()
        .route("/sessions", get(list))
        .route("/sessions/kick", post(kick))
        .route("/sessions/{id}/kick", post(kick_one))
}

/// Which sessions are meant. A parameter that is not known is refused: who has mistyped one would else kick more than was meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meant {
    id: Option<String>,
    user: Option<String>,
    network: Option<String>,
    backend: Option<String>,
}

/// Which sessions are wanted, and how many at once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    id: Option<String>,
    user: Option<String>,
    network: Option<String>,
    backend: Option<String>,
    listener: Option<String>,
    state: Option<String>,
    limit: Option<usize>,
    after: Option<u64>,
}

async fn list(State(steering): State<Steering>, Parameters(wanted): Parameters<Wanted>) -> Result<Response, Wrong> {
    let Wanted { id, user, network, backend, listener, state, limit, after } = wanted;
    let meant = filter(&steering, Meant { id, user, network, backend })?;
    let filter = Filter { listener, state: state.map(|name| named(&name)).transpose()?, ..meant };
    let page = steering.sessions(&filter, after.unwrap_or(0), page_size(limit)?).await;
    let sessions: Vec<_> = page.items.iter().map(shown).collect();
    let next = page.next.map(|next| next.to_string());
    Ok(said(StatusCode::OK, &json!({ "total": page.total, "next": next, "sessions": sessions })))
}

async fn kick(State(steering): State<Steering>, Parameters(meant): Parameters<Meant>) -> Result<Response, Wrong> {
    let filter = filter(&steering, meant)?;
    if filter.is_empty() {
        return Err(Wrong::new("one of id, user, network and backend is needed"));
    }
    Ok(said(StatusCode::OK, &json!({ "dismissed": steering.kick(&filter).await.told })))
}

async fn kick_one(
    State(steering): State<Steering>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Wrong> {
    let Path(id) = id.map_err(|why| Wrong(why.body_text()))?;
    let dismissed = steering.kick(&Filter { id: Some(id), ..Filter::default() }).await;
    if dismissed.met == 0 {
        return Ok(said(StatusCode::NOT_FOUND, &json!({ "error": "there is no session of this id" })));
    }
    Ok(said(StatusCode::OK, &json!({ "dismissed": dismissed.told })))
}

fn filter(steering: &Steering, meant: Meant) -> Result<Filter, Wrong> {
    let user = meant.user.map(|name| whom(steering, &name)).transpose()?;
    let network = meant.network.map(|text| network(&text)).transpose();
    let network = network.map_err(|why| Wrong(format!("network: {why}")))?;
    Ok(Filter { user, network, backend: meant.backend, id: meant.id, ..Filter::default() })
}

fn named(name: &str) -> Result<pulse::State, Wrong> {
    let found = pulse::State::ALL.into_iter().find(|state| state.as_str() == name);
    found.ok_or_else(|| Wrong::new("state: one of logging_in, active and idle"))
}

/// A session in answers.
pub(super) fn shown(seen: &Seen) -> Value {
    json!({
        "id": *seen.id,
        "user": seen.user,
        "client": seen.client.ip(),
        "client_port": seen.client.port(),
        "listener": *seen.listener,
        "backend": seen.backend,
        "mechanism": seen.mechanism.as_str(),
        "tls": seen.tls,
        "state": seen.state.as_str(),
        "since_at": moment(seen.since),
        "duration_seconds": span(seen.lasted),
        "quiet_seconds": span(seen.quiet),
        "bytes_to_client": seen.bytes.to_client,
        "bytes_to_backend": seen.bytes.to_backend,
    })
}
