//! What requests and answers of several pages have in common: parameters that are told to be wrong in the form of all errors,
//! names of users, pages of lists, moments and spans.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::said;
use crate::imap::UserName;
use crate::steer::Steering;

/// How many of a list are on one page, unless it is asked for more or fewer, and at most.
const PAGE: usize = 100;
const LONGEST_PAGE: usize = 1000;

/// What stands in the query.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(why) => Err(wrong(&why.body_text())),
        }
    }
}

/// The user whom the path names; see [`Steering::whom`].
pub(super) struct Whom(pub(super) UserName);

impl FromRequestParts<Steering> for Whom {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, steering: &Steering) -> Result<Self, Response> {
        match Path::<String>::from_request_parts(parts, steering).await {
            Ok(Path(name)) => whom(steering, &name).map(Self),
            Err(why) => Err(wrong(&why.body_text())),
        }
    }
}

/// The user of this name.
pub(super) fn whom(steering: &Steering, name: &str) -> Result<UserName, Response> {
    steering.whom(name).map_err(|_| wrong("that is no user's name: it is empty or holds a control character"))
}

/// How many are wanted on a page.
pub(super) fn page_size(limit: Option<usize>) -> Result<usize, Response> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=LONGEST_PAGE => Ok(limit),
        _ => Err(wrong(&format!("limit: a page has 1 to {LONGEST_PAGE}"))),
    }
}

/// It cannot be understood what is wanted.
pub(super) fn wrong(why: &str) -> Response {
    said(StatusCode::BAD_REQUEST, &json!({ "error": why }))
}

/// A moment in answers: seconds since 1970, to the millisecond.
pub(super) fn moment(moment: SystemTime) -> Value {
    span(moment.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A span in answers: seconds, to the millisecond.
pub(super) fn span(span: Duration) -> Value {
    json!((span.as_secs_f64() * 1000.0).round() / 1000.0)
}
