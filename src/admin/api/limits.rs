//! Limits: who is held back, pardon.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use super::parts::{Parameters, Wrong, moment};
use super::said;
use crate::config::network;
use crate::imap::UserName;
use crate::steer::{Mark, Steering};

/// How many are shown at once, unless it is told, and at most.
const SHOWN: usize = 100;
const MOST_SHOWN: usize = 1000;

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/limits", get(list)).route("/limits/pardon", post(pardon))
}

#[derive(Debug, Deserialize)]
struct Page {
    limit: Option<String>,
    after: Option<String>,
}

async fn list(State(steering): State<Steering>, Parameters(page): Parameters<Page>) -> Response {
    let limit = page.limit.map_or(Some(SHOWN), |limit| limit.parse().ok());
    let Some(limit) = limit.filter(|limit| (1..=MOST_SHOWN).contains(limit)) else {
        return Wrong::new("limit: a number from 1 to 1000 is expected").into_response();
    };
    let after = match page.after.as_deref().map(Mark::read) {
        None => None,
        Some(Some(mark)) => Some(mark),
        Some(None) => return Wrong::new("after: the `next` of an answer is expected").into_response(),
    };
    let page = steering.held(limit, after).await;
    let held = page.held.iter().map(|held| {
        json!({
            "kind": held.kind,
            "key": held.key,
            "limit": held.limit,
            "failures": held.failures,
            "since_at": held.since.map(moment),
            "until_at": held.until.map(moment),
            "reason": held.reason,
        })
    });
    let held = held.collect::<Vec<_>>();
    said(StatusCode::OK, &json!({ "total": page.total, "next": page.next.map(|mark| mark.write()), "held": held }))
}

#[derive(Debug, Deserialize)]
struct Whom {
    network: Option<String>,
    user: Option<String>,
}

async fn pardon(State(steering): State<Steering>, Parameters(whom): Parameters<Whom>) -> Response {
    let pardoned = match (whom.network, whom.user) {
        (Some(text), None) => match network(&text) {
            Ok(networks) => steering.pardon_networks(networks).await,
            Err(why) => return Wrong::new(&format!("network: {why}")).into_response(),
        },
        (None, Some(user)) => match UserName::new(user.as_bytes()) {
            Ok(user) => steering.pardon_user(&user),
            Err(why) => return Wrong::new(&format!("user: {why}")).into_response(),
        },
        _ => return Wrong::new("either network or user is expected").into_response(),
    };
    said(StatusCode::OK, &json!({ "pardoned": pardoned }))
}
