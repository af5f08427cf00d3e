//! Sessions: listed, kicked.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{Parameters, moment, page_size, span, whom, wrong};
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

async fn list(State(steering): State<Steering>, Parameters(wanted): Parameters<Wanted>) -> Response {
    let Wanted { id, user, network, backend, listener, state, limit, after } = wanted;
    let filter = filter(&steering, Meant { id, user, network, backend }).and_then(|filter| {
        let state = state.map(|name| named(&name)).transpose()?;
        Ok((Filter { listener, state, ..filter }, page_size(limit)?))
    });
    let (filter, limit) = match filter {
        Ok(filter) => filter,
        Err(response) => return response,
    };
    let page = steering.sessions(&filter, after.unwrap_or(0), limit).await;
    let sessions: Vec<_> = page.items.iter().map(shown).collect();
    said(
        StatusCode::OK,
        &json!({ "total": page.total, "next": page.next.map(|next| next.to_string()), "sessions": sessions }),
    )
}

async fn kick(State(steering): State<Steering>, Parameters(meant): Parameters<Meant>) -> Response {
    match filter(&steering, meant) {
        Ok(filter) if filter.is_empty() => wrong("one of id, user, network and backend is needed"),
        Ok(filter) => said(StatusCode::OK, &json!({ "dismissed": steering.kick(&filter).await.told })),
        Err(response) => response,
    }
}

async fn kick_one(State(steering): State<Steering>, Path(id): Path<String>) -> Response {
    let filter = Filter { id: Some(id), ..Filter::default() };
    let dismissed = steering.kick(&filter).await;
    if dismissed.met == 0 {
        return said(StatusCode::NOT_FOUND, &json!({ "error": "there is no session of this id" }));
    }
    said(StatusCode::OK, &json!({ "dismissed": dismissed.told }))
}

fn filter(steering: &Steering, meant: Meant) -> Result<Filter, Response> {
    let Meant { id, user, network: net, backend } = meant;
    let user = user.map(|name| whom(steering, &name)).transpose()?;
    let network = net.map(|text| network(&text).map_err(|why| wrong(&format!("network: {why}")))).transpose()?;
    Ok(Filter { id, user, network, backend, ..Filter::default() })
}

fn named(name: &str) -> Result<pulse::State, Response> {
    let found = pulse::State::ALL.into_iter().find(|state| state.as_str() == name);
    found.ok_or_else(|| wrong("state: one of logging_in, active and idle"))
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
