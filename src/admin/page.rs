//! The status page: a document, its style, its script and its icon, out of memory. There is no data in them, so everybody may
//! have them; what the page shows it asks of `api/`, with the token that whoever looks at it has typed.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// What names hostile users have chosen is shown on this page; nothing but the two files beside it is ever run or obeyed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// The paths of the page.
pub(super) fn paths<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let files = [
        ("/", "text/html; charset=utf-8", include_str!("page/status.html")),
        ("/status.css", "text/css; charset=utf-8", include_str!("page/status.css")),
        ("/status.js", "text/javascript; charset=utf-8", include_str!("page/status.js")),
        ("/status.svg", "image/svg+xml", include_str!("page/status.svg")),
    ];
    files.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        let tag = tag_of(text);
        router.route(path, get(async move |headers: HeaderMap| file(&headers, kind, &tag, text)))
    })
}

fn file(headers: &HeaderMap, kind: &'static str, tag: &str, text: &'static str) -> Response {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    let is_known = known.flat_map(|tags| tags.split(',')).any(|known| known.trim().trim_start_matches("W/") == tag);
    let about = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, tag),
    ];
    if is_known { (StatusCode::NOT_MODIFIED, about).into_response() } else { (about, text).into_response() }
}

/// What is the same has the same.
fn tag_of(text: &str) -> String {
    let hash = digest(&SHA256, text.as_bytes());
    let mut tag = String::from("\"");
    for byte in &hash.as_ref()[..16] {
        // Writing to memory cannot fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag + "\""
}
