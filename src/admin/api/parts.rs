//! What requests and answers of several pages have in common: parameters that are told to be wrong in the form of all errors,
//! names of users, pages of lists, moments and spans.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::said;
use crate::imap::UserName;
use crate::steer::Steering;

/// How many of a list are on one page, unless it is asked for more or fewer, and at most.
const PAGE: usize = 100;
const LONGEST_PAGE: usize = 1000;

/// It cannot be understood what is wanted, and why not.
#[derive(Debug)]
pub(super) struct Wrong(pub(super) String);

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        said(StatusCode::BAD_REQUEST, &json!({ "error": self.0 }))
    }
}

impl Wrong {
    pub(super) fn new(why: &str) -> Self {
        Self(why.to_owned())
    }
}

/// What stands in the query.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Wrong;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Wrong> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(why) => Err(Wrong(why.body_text())),
        }
    }
}

/// The user whom the path names; see [`Steering::whom`].
pub(super) struct Whom(pub(super) UserName);

impl FromRequestParts<Steering> for Whom {
    type Rejection = Wrong;

    async fn from_request_parts(parts: &mut Parts, steering: &Steering) -> Result<Self, Wrong> {
        match Path::<String>::from_request_parts(parts, steering).await {
            Ok(Path(name)) => whom(steering, &name).map(Self),
            Err(why) => Err(Wrong(why.body_text())),
        }
    }
}

/// The user of this name.
pub(super) fn whom(steering: &Steering, name: &str) -> Result<UserName, Wrong> {
    steering.whom(name).map_err(|_| Wrong::new("that is no user's name: it is empty or holds a control character"))
}

/// How many are wanted on a page.
pub(super) fn page_size(limit: Option<usize>) -> Result<usize, Wrong> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=LONGEST_PAGE => Ok(limit),
        _ => Err(Wrong(format!("limit: a page has 1 to {LONGEST_PAGE}"))),
    }
}

/// A moment in answers: seconds since 1970, to the millisecond.
pub(super) fn moment(moment: SystemTime) -> Value {
    span(moment.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A span in answers: seconds, to the millisecond.
pub(super) fn span(span: Duration) -> Value {
    json!((span.as_secs_f64() * 1000.0).round() / 1000.0)
}
