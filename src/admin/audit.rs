//! Who did what: one line in the log for every call that changes something, or would have. Not here: what came of it in
//! words (the pages of `steer/` log that).

use axum::http::StatusCode;
use axum::http::request::Parts;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Caller;
use crate::imap::escape;

/// The most of a path that is written down.
const PATH: usize = 1024;
/// In place of a status: the caller went away before the answer.
const GONE: u16 = 499;

/// A call under way. However it ends, there is one line of it.
pub(super) struct Audit {
    who: Caller,
    method: String,
    what: String,
    began: Instant,
    is_told: bool,
}

impl Audit {
    pub(super) fn begin(who: Caller, request: &Parts) -> Self {
        let what = request.uri.path_and_query().map_or("/", |what| what.as_str());
        let what = escape(&what.as_bytes()[..what.len().min(PATH)]).to_string();
        let method = escape(request.method.as_str().as_bytes()).to_string();
        Self { who, method, what, began: Instant::now(), is_told: false }
    }

    /// It was answered.
    pub(super) fn end(mut self, status: StatusCode) {
        self.tell(status.as_u16());
    }

    fn tell(&mut self, status: u16) {
        self.is_told = true;
        let Self { who, method, what, .. } = self;
        let took_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Those who were not let in.
        if matches!(status, 401 | 403 | 421 | 429) {
            warn!(%who, method, path = what, status, took_ms, "audit");
        } else {
            info!(%who, method, path = what, status, took_ms, "audit");
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(GONE);
        }
    }
}
