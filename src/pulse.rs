//! When something last moved in a session: told by its relay, read by whoever wants the quiet ones first. Not here: what
//! follows from it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// One session's.
#[derive(Debug)]
pub struct Pulse {
    born: Instant,
    /// Milliseconds since then.
    beat: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { born: Instant::now(), beat: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// Something moved.
    pub fn beat(&self, now: Instant) {
        let since = now.saturating_duration_since(self.born).as_millis();
        self.beat.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When that was last; at first, when the session began.
    pub fn last(&self) -> Instant {
        self.born + Duration::from_millis(self.beat.load(Ordering::Relaxed))
    }
}
