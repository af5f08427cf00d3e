//! What all answers have in common: errors are `{"error": words}`, also those that axum gives by itself, nothing is kept by
//! whoever stands between, and nothing is taken for what it is not. Not here: what an answer says.

use axum::body::{Body, to_bytes};
use axum::http::header::{self, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::json;

/// The most of an error's words.
const WORDS: usize = 4096;
/// Their bodies are read by machines that know nothing else.
const PLAIN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The answer as it goes out.
pub(super) async fn finished(method: &Method, path: &str, answer: Response) -> Response {
    let mut answer = if is_wordless(path, &answer) { worded(method, answer).await } else { answer };
    let headers = answer.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

fn is_wordless(path: &str, answer: &Response) -> bool {
    let is_error = answer.status().is_client_error() || answer.status().is_server_error();
    let is_json = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    is_error && !is_json && !PLAIN.contains(&path)
}

/// An error of axum's, which has its words in plain text or none.
async fn worded(method: &Method, answer: Response) -> Response {
    let (mut head, body) = answer.into_parts();
    let said = to_bytes(body, WORDS).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let words = match (head.status, said.trim()) {
        // What is, axum says in a header.
        (StatusCode::METHOD_NOT_ALLOWED, _) => format!("{method} is not for this path"),
        (StatusCode::NOT_FOUND, "") => "there is nothing here".to_owned(),
        (status, "") => status.canonical_reason().unwrap_or("refused").to_lowercase(),
        (_, said) => said.to_owned(),
    };
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(head, Body::from(format!("{}\n", json!({ "error": words }))))
}
