//! The description of all this for machines: `openapi.json` beside this folder, as it is. Whoever adds a path adds it there; a
//! test compares them, and `tests/real/api.py` compares the running server with what it promises.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::steer::Steering;

/// The document.
pub(in crate::admin) const DOCUMENT: &str = include_str!("../openapi.json");

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/openapi.json", get(document))
}

async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}
