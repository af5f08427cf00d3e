//! The backends, shared by all sessions, and the answer of routing: a [`Route`]. Not here: IMAP text, sockets.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config;
use crate::imap::{Secret, UserName};
use crate::metrics::BackendMetrics;

/// A backend that has only failed for so long is not waited for while somebody else is already trying it.
const FAILS_AT_ONCE_AFTER: Duration = Duration::from_secs(30);

/// Where one login goes, and as whom.
#[derive(Debug, Clone)]
pub struct Route {
    /// The server.
    pub backend: Arc<Backend>,
    /// The user's name there.
    pub user: UserName,
    /// Whose credentials are used there.
    pub login: LoginAs,
}

/// Whose credentials are used at a backend.
#[derive(Debug, Clone)]
pub enum LoginAs {
    /// The client's own.
    Client,
    /// A master user's, acting for the user; only for clients that mailmux itself has authenticated.
    Master {
        /// The master user.
        user: UserName,
        /// Its password.
        password: Arc<Secret>,
    },
}

/// One backend: its settings and what is known of it at the moment.
#[derive(Debug)]
pub struct Backend {
    /// Its settings.
    pub config: config::Backend,
    /// Its metrics.
    pub metrics: BackendMetrics,
    /// The first failure since the last success.
    failing_since: Mutex<Option<Instant>>,
    trying: AtomicUsize,
    next_source: AtomicUsize,
}

/// Somebody is trying to reach a backend, for as long as this lives.
#[derive(Debug)]
pub struct Attempt<'a>(&'a Backend);

impl Backend {
    /// A backend of which nothing is known yet.
    pub fn new(config: config::Backend, metrics: BackendMetrics) -> Self {
        Self {
            config,
            metrics,
            failing_since: Mutex::new(None),
            trying: AtomicUsize::new(0),
            next_source: AtomicUsize::new(0),
        }
    }

    /// Begins an attempt; `None` when the backend has failed for half a minute and somebody is already finding out
    /// whether it is back, so that a dead backend does not make every client wait.
    pub fn attempt(&self) -> Option<Attempt<'_>> {
        let failing = self.failing().is_some_and(|since| since.elapsed() >= FAILS_AT_ONCE_AFTER);
        if self.trying.fetch_add(1, Ordering::Relaxed) > 0 && failing {
            self.trying.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Attempt(self))
    }

    /// The backend answered.
    pub fn succeeded(&self) {
        self.metrics.set_up(true);
        *self.failing_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The backend failed.
    pub fn failed(&self) {
        self.metrics.set_up(false);
        self.failing_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// The local address to dial from next, of the family wanted; `None`: the kernel's choice.
    pub fn source(&self, ipv6: bool) -> Option<IpAddr> {
        let fitting = || self.config.source.iter().filter(|address| address.is_ipv6() == ipv6);
        let count = fitting().count();
        if count == 0 {
            return None;
        }
        fitting().nth(self.next_source.fetch_add(1, Ordering::Relaxed) % count).copied()
    }

    fn failing(&self) -> Option<Instant> {
        *self.failing_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.0.trying.fetch_sub(1, Ordering::Relaxed);
    }
}
