//! What a user's sessions say, line by line while they say it: trace.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::json;

use super::super::Patience;
use super::parts::{Parameters, Whom};
use super::{failed, said};
use crate::config::duration;
use crate::steer::Steering;
use crate::trace::Trace;

/// Unless it is told, and at most.
const TIME: (Duration, Duration) = (Duration::from_mins(5), Duration::from_hours(1));
const BYTES: (u64, u64) = (1_000_000, 64_000_000);
/// How much longer than the trace its reader may take.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// The paths of this page.
pub(super) fn paths() -> Router<Steering> {
    Router::new().route("/users/{user}/trace", post(trace))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HowMuch {
    r#for: Option<String>,
    bytes: Option<String>,
}

async fn trace(
    State(steering): State<Steering>,
    Whom(user): Whom,
    Parameters(how_much): Parameters<HowMuch>,
    patience: Option<Extension<Patience>>,
) -> Response {
    let refused = |words: String| said(StatusCode::BAD_REQUEST, &json!({ "error": words }));
    let time = match how_much.r#for.as_deref().map(duration) {
        None => TIME.0,
        Some(Ok(time)) if !time.is_zero() && time <= TIME.1 => time,
        Some(Ok(_)) => return refused("for: must be longer than nothing and at most 1h".to_owned()),
        Some(Err(why)) => return refused(format!("for: {why}")),
    };
    let most = match how_much.bytes.as_deref().map(size) {
        None => BYTES.0,
        Some(Some(bytes)) if (1..=BYTES.1).contains(&bytes) => bytes,
        Some(_) => return refused("bytes: must be a size from 1 to 64MB, such as 500kB or 1MB".to_owned()),
    };
    match steering.trace(&user, time, most) {
        Ok(trace) => {
            if let Some(Extension(patience)) = patience {
                patience.extend(time + LAST_WORDS);
            }
            let lines = Body::new(Lines(trace));
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], lines).into_response()
        }
        Err(error) => failed(&error),
    }
}

/// `1000`, `500kB`, `1MB`.
fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at_checked(digits)?;
    let factor = match unit {
        "" => 1,
        "kB" => 1000,
        "MB" => 1_000_000,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(factor)
}

/// A trace as the body of an answer.
struct Lines(Trace);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.0.poll_next(cx).map(|lines| lines.map(|lines| Ok(Frame::data(lines.into()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("12", 12), ("3kB", 3000), ("64MB", 64_000_000)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "kB", "1 MB", "1mb", "-1", "1.5MB", "99999999999999999999", "18446744073709551615MB", "٣"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
