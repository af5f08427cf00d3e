//! The backends, shared by all sessions, and the answer of routing: a [`Route`]. `group.rs` chooses among several. Not
//! here: IMAP text, sockets.

mod group;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{self, MasterForm};
use crate::imap::{Secret, UserName};
use crate::metrics::BackendMetrics;
use crate::tls::Connector;

pub use group::Group;

/// A backend that has only failed for so long is not waited for while somebody else is already trying it.
const FAILS_AT_ONCE_AFTER: Duration = Duration::from_secs(30);

/// Where one login goes, and as whom.
#[derive(Debug, Clone)]
pub struct Route {
    /// The server.
    pub backend: Arc<Backend>,
    /// The group it was chosen from; another member may serve the user too.
    pub group: Option<Arc<Group>>,
    /// The user's name there.
    pub user: UserName,
    /// Whose credentials are used there.
    pub login: LoginAs,
    /// The mechanism to use there, where a lookup prescribes one.
    pub prescribed: Option<Prescribed>,
    /// The address to dial from, where a lookup gives one.
    pub source: Option<IpAddr>,
    /// How long the login there may take, where a lookup says so.
    pub budget: Option<Duration>,
}

impl Route {
    /// To this backend, with nothing prescribed.
    pub fn new(backend: Arc<Backend>, user: UserName, login: LoginAs) -> Self {
        Self { backend, group: None, user, login, prescribed: None, source: None, budget: None }
    }
}

/// A mechanism that a lookup can prescribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the mechanisms")]
pub enum Prescribed {
    Plain,
    Login,
}

/// The client has proven to mailmux itself who it is. Credentials other than the client's own are used for no one else.
#[derive(Debug, Clone, Copy)]
pub struct Proof(());

impl Proof {
    /// To be called by who has seen it, which is routing.
    pub fn seen() -> Self {
        Self(())
    }
}

/// Whose credentials are used at a backend.
#[derive(Debug, Clone)]
pub enum LoginAs {
    /// The client's own.
    Client,
    /// The user's own there, which a lookup knows.
    Given {
        /// The password.
        password: Arc<Secret>,
        /// Why the client may use it.
        proof: Proof,
    },
    /// A master user's, acting for the user.
    Master {
        /// The master user.
        user: UserName,
        /// Its password.
        password: Arc<Secret>,
        /// How it says for whom it acts.
        form: MasterForm,
        /// Why the client may have that.
        proof: Proof,
    },
}

/// One backend: its settings and what is known of it at the moment.
#[derive(Debug)]
pub struct Backend {
    /// Its settings.
    pub config: config::Backend,
    /// There when it is spoken to under TLS.
    pub connector: Option<Connector>,
    /// Its metrics.
    pub metrics: BackendMetrics,
    /// The first failure since the last success.
    failing_since: Mutex<Option<Instant>>,
    trying: AtomicUsize,
    next_source: AtomicUsize,
    draining: AtomicBool,
    sessions: AtomicUsize,
}

/// A session is on its way to a backend or there, for as long as this lives.
#[derive(Debug)]
pub struct Presence(Arc<Backend>);

/// Somebody is trying to reach a backend, for as long as this lives.
#[derive(Debug)]
pub struct Attempt<'a>(&'a Backend);

impl Backend {
    /// A backend of which nothing is known yet.
    pub fn new(config: config::Backend, connector: Option<Connector>, metrics: BackendMetrics) -> Self {
        Self {
            config,
            connector,
            metrics,
            failing_since: Mutex::new(None),
            trying: AtomicUsize::new(0),
            next_source: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            sessions: AtomicUsize::new(0),
        }
    }

    /// Counts a session in.
    pub fn enter(self: &Arc<Self>) -> Presence {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Presence(Arc::clone(self))
    }

    /// How many sessions are there, or on their way.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Whether it gets no new sessions any more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Says whether it gets new sessions.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Whether users can be sent here now.
    pub fn takes_users(&self) -> bool {
        !self.is_draining() && self.is_up()
    }

    /// How it is, for people.
    pub fn condition(&self) -> String {
        let sessions = self.sessions();
        let state = match (self.is_draining(), self.is_up()) {
            (true, _) => "draining",
            (false, true) => "up",
            (false, false) => "down",
        };
        format!("{} ({state}, {sessions} sessions)", self.config.name)
    }

    /// Whether it answers, as far as is known.
    pub fn is_up(&self) -> bool {
        self.failing().is_none()
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

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.0.trying.fetch_sub(1, Ordering::Relaxed);
    }
}
