//! What can be seen of a session from outside while it goes on: when something last moved in it, how much has moved each
//! way, and what it does. Told by its relay, which pays a few stores for it; read by whoever wants to know. With it goes what
//! the session is told in turn (`notice.rs`). Not here: what follows from it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::notice::Notice;

/// One session's.
#[derive(Debug)]
pub struct Pulse {
    born: Instant,
    /// Milliseconds since then.
    beat: AtomicU64,
    to_backend: AtomicU64,
    to_client: AtomicU64,
    state: AtomicU8,
    notice: Notice,
}

/// What a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is on its way to a backend.
    LoggingIn,
    /// It is logged in.
    Active,
    /// It is in IMAP's IDLE (RFC 2177) and waits for news.
    Idle,
}

/// What has moved so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Bytes that the backend's stream took.
    pub to_backend: u64,
    /// Bytes that the client's stream took.
    pub to_client: u64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            beat: AtomicU64::new(0),
            to_backend: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            state: AtomicU8::new(State::LoggingIn as u8),
            notice: Notice::default(),
        }
    }
}

impl Pulse {
    /// The session is logged in.
    pub fn let_in(&self) {
        self.state.store(State::Active as u8, Ordering::Relaxed);
    }

    /// Something moved: so much has by now, and the client is in IDLE or is not.
    pub fn beat(&self, now: Instant, moved: Bytes, idles: bool) {
        let since = now.saturating_duration_since(self.born).as_millis();
        self.beat.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.to_backend.store(moved.to_backend, Ordering::Relaxed);
        self.to_client.store(moved.to_client, Ordering::Relaxed);
        let state = if idles { State::Idle } else { State::Active };
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Where the session hears what it is told.
    pub fn notice(&self) -> &Notice {
        &self.notice
    }

    /// When the session began.
    pub fn born(&self) -> Instant {
        self.born
    }

    /// When something moved last; before that, when the relay began, or the session.
    pub fn last(&self) -> Instant {
        self.born + Duration::from_millis(self.beat.load(Ordering::Relaxed))
    }

    /// What has moved so far.
    pub fn moved(&self) -> Bytes {
        Bytes { to_backend: self.to_backend.load(Ordering::Relaxed), to_client: self.to_client.load(Ordering::Relaxed) }
    }

    /// What the session does.
    pub fn state(&self) -> State {
        let state = self.state.load(Ordering::Relaxed);
        State::ALL.into_iter().find(|known| *known as u8 == state).unwrap_or(State::Active)
    }
}

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::LoggingIn, Self::Active, Self::Idle];

    /// Its name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoggingIn => "logging_in",
            Self::Active => "active",
            Self::Idle => "idle",
        }
    }
}
