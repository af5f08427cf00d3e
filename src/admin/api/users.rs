//! Users: listed, shown, hold, release, kick, move.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::parts::{Parameters, Whom, Wrong, moment, page_size};
use super::{failed, said, sessions};
use crate::steer::{Filter, KnownUser, Rank, Sort, Steering};

/// Of one user so many sessions are listed.
const SESSIONS: usize = 1000;

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new()
        .route("/users", get(list))
        .route("/users/{user}", get(one))
        .route("/users/{user}/hold", post(hold))
        .route("/users/{user}/release", post(release))
        .route("/users/{user}/kick", post(kick))
        .route("/users/{user}/move", post(move_user))
}

/// Which users are wanted, in which order, and how many at once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    sort: Option<String>,
    held: Option<bool>,
    limit: Option<usize>,
    after: Option<String>,
}

async fn list(State(steering): State<Steering>, Parameters(wanted): Parameters<Wanted>) -> Result<Response, Wrong> {
    let sort = match wanted.sort.as_deref() {
        None => Sort::default(),
        Some(name) => Sort::named(name).ok_or_else(|| Wrong::new("sort: one of name, bytes and sessions"))?,
    };
    let after = wanted.after.as_deref().map(str::parse::<Rank>).transpose();
    let after = after.map_err(|_| Wrong::new("after: that is no page's next"))?;
    let limit = page_size(wanted.limit)?;
    let page = steering.users(sort, wanted.held == Some(true), after, limit).await;
    let users: Vec<_> = page.items.iter().map(shown).collect();
    let next = page.next.map(|next| next.to_string());
    Ok(said(StatusCode::OK, &json!({ "total": page.total, "next": next, "users": users })))
}

async fn one(State(steering): State<Steering>, Whom(user): Whom) -> Response {
    let Some(known) = steering.user(&user) else {
        return said(StatusCode::NOT_FOUND, &json!({ "error": "nothing is known of this user" }));
    };
    let page = steering.sessions(&Filter::of_user(user), 0, SESSIONS).await;
    let mut answer = shown(&known);
    answer["session_list"] = page.items.iter().map(sessions::shown).collect();
    said(StatusCode::OK, &answer)
}

/// A user in answers.
fn shown(known: &KnownUser) -> Value {
    json!({
        "user": known.seen.shown(),
        "sessions": known.seen.sessions,
        "bytes_to_client": known.seen.bytes.to_client,
        "bytes_to_backend": known.seen.bytes.to_backend,
        "held_until_at": known.seen.held_until.map(moment),
        "moved_to": known.moved_to,
    })
}

async fn hold(State(steering): State<Steering>, Whom(user): Whom) -> Response {
    steering.hold(&user);
    said(StatusCode::OK, &json!({}))
}

async fn release(State(steering): State<Steering>, Whom(user): Whom) -> Response {
    said(StatusCode::OK, &json!({ "was_held": steering.release(&user) }))
}

async fn kick(State(steering): State<Steering>, Whom(user): Whom) -> Response {
    said(StatusCode::OK, &json!({ "dismissed": steering.kick(&Filter::of_user(user)).await.told }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Destination {
    to: Option<String>,
}

async fn move_user(
    State(steering): State<Steering>,
    Whom(user): Whom,
    Parameters(destination): Parameters<Destination>,
) -> Response {
    match steering.move_user(&user, destination.to.as_deref(), async {}).await {
        Ok(moved) => said(StatusCode::OK, &json!({ "dismissed": moved.dismissed })),
        Err(error) => failed(&error),
    }
}
