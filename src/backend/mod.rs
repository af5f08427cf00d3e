//! The backends, shared by all sessions, and the answer of routing: a [`Route`]. `group.rs` chooses among several,
//! `health.rs` says whether one is well, `places.rs` how many links one may have. Not here: IMAP text, sockets.

mod group;
mod health;
mod places;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::{self, MasterForm, Pooling};
use crate::imap::{Secret, UserName};
use crate::metrics::{BackendMetrics, BackendStanding};
use crate::outcome::Limit;
use crate::random;
use crate::tls::Connector;

pub use group::Group;
pub use health::Aspect;
use health::{Change, Health};
pub use places::Place;
use places::Places;

/// A backend that is down for so long is not waited for while somebody else is already trying it.
const FAILS_AT_ONCE_AFTER: Duration = Duration::from_secs(30);

/// So much later each session of a backend that dies is closed, on average.
const SPREAD_EACH: Duration = Duration::from_millis(5);
/// All of them within this.
const SPREAD_MOST: Duration = Duration::from_secs(5);

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
    /// How long the login there may take, where a lookup says so.
    pub budget: Option<Duration>,
    /// Where links for it come from and where they go.
    pub pool: Pooling,
}

impl Route {
    /// To this backend, with nothing prescribed.
    pub fn new(backend: Arc<Backend>, user: UserName, login: LoginAs) -> Self {
        Self { backend, group: None, user, login, prescribed: None, budget: None, pool: Pooling::Off }
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
    health: Arc<Mutex<Health>>,
    standing: Arc<Standing>,
    trying: AtomicUsize,
    next_source: AtomicUsize,
    /// The configuration has another one in its place, or none.
    retired: AtomicBool,
}

/// What is the same for all of one name, however often its settings change.
#[derive(Debug)]
struct Standing {
    // In one order for everybody (`SeqCst`): whoever comes is counted and then asks whether this one is being drained, and who
    // drains it says so and then counts.
    draining: AtomicBool,
    sessions: AtomicUsize,
    places: Places,
    /// Told when it goes down, is drained or is retired.
    closing: Notify,
}

/// A session is on its way to a backend or there, for as long as this lives.
#[derive(Debug)]
pub struct Presence(Arc<Standing>);

/// Somebody is trying to reach a backend, for as long as this lives.
#[derive(Debug)]
pub struct Attempt<'a>(&'a Backend);

impl Backend {
    /// A backend of which nothing is known yet.
    pub fn new(config: config::Backend, connector: Option<Connector>, metrics: BackendMetrics) -> Self {
        let health = Arc::new(Mutex::new(Health::new(&config.health)));
        let standing = Standing {
            draining: AtomicBool::new(false),
            sessions: AtomicUsize::new(0),
            places: Places::new(config.max_links, config.max_links_per_user),
            closing: Notify::new(),
        };
        metrics.set_up(true);
        Self::with(config, connector, metrics, health, Arc::new(standing))
    }

    /// The same backend with other settings: who is there is counted on, and what is known of its health holds, unless it is
    /// reached in another way now. It stands beside this one until [`Backend::take_over`].
    #[must_use]
    pub fn renewed(&self, config: config::Backend, connector: Option<Connector>) -> Self {
        let health = if self.is_reached_like(&config) {
            Arc::clone(&self.health)
        } else {
            Arc::new(Mutex::new(Health::new(&config.health)))
        };
        Self::with(config, connector, self.metrics.clone(), health, Arc::clone(&self.standing))
    }

    fn with(
        config: config::Backend,
        connector: Option<Connector>,
        metrics: BackendMetrics,
        health: Arc<Mutex<Health>>,
        standing: Arc<Standing>,
    ) -> Self {
        if connector.is_some() {
            metrics.speaks_tls();
        }
        Self {
            config,
            connector,
            metrics,
            health,
            standing,
            trying: AtomicUsize::new(0),
            next_source: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
        }
    }

    fn is_reached_like(&self, config: &config::Backend) -> bool {
        let way = |config: &config::Backend| {
            (config.host.clone(), config.port, config.tls.clone(), config.proxy_protocol, config.source.clone())
        };
        way(&self.config) == way(config)
    }

    /// Whether it is dialled with what this connector was made from.
    pub fn connects_by(&self, connector: Option<&Connector>) -> bool {
        match (&self.connector, connector) {
            (None, None) => true,
            (Some(own), Some(other)) => own.is_same(other),
            _ => false,
        }
    }

    /// Its settings count from now on, for all of its name.
    pub fn take_over(&self) {
        self.health().adapt(&self.config.health);
        self.standing.places.resize(self.config.max_links, self.config.max_links_per_user);
        self.metrics.set_up(self.is_up());
    }

    /// It is not in the configuration any more: links that wait are given up. Sessions live on.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.standing.closing.notify_waiters();
    }

    /// Whether that has happened.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// Counts a session in.
    pub fn enter(&self) -> Presence {
        self.standing.sessions.fetch_add(1, Ordering::SeqCst);
        Presence(Arc::clone(&self.standing))
    }

    /// How many sessions are there, or on their way.
    pub fn sessions(&self) -> usize {
        self.standing.sessions.load(Ordering::SeqCst)
    }

    /// How long one of its sessions waits before it tells its client that the backend has died: a random part of a time
    /// that grows with their number, for they all come back.
    pub fn spread(&self) -> Duration {
        let sessions = u32::try_from(self.sessions()).unwrap_or(u32::MAX);
        SPREAD_EACH.saturating_mul(sessions).min(SPREAD_MOST).mul_f64(random::fraction())
    }

    /// Whether it gets no new sessions any more.
    pub fn is_draining(&self) -> bool {
        self.standing.draining.load(Ordering::SeqCst)
    }

    /// Says whether it gets new sessions.
    pub fn set_draining(&self, draining: bool) {
        self.standing.draining.store(draining, Ordering::SeqCst);
        self.standing.closing.notify_waiters();
    }

    /// Whether users can be sent here now. One that is down gets one now and then, to find out whether it is back.
    pub fn takes_users(&self) -> bool {
        if self.is_draining() {
            return false;
        }
        let mut health = self.health();
        health.is_up() || health.claim_trial(Instant::now())
    }

    /// A place among this user's links, as soon as there is one; [`Backend::complete`] makes it one among all.
    ///
    /// # Errors
    /// It had to wait until `deadline`.
    pub async fn place_of(&self, user: &UserName, deadline: Instant) -> Result<Place, Limit> {
        self.in_queue(self.standing.places.of_user(user, deadline)).await
    }

    /// Makes a user's place one for a new link, as soon as the backend may have one more.
    ///
    /// # Errors
    /// It had to wait until `deadline`.
    pub async fn complete(&self, place: &mut Place, deadline: Instant) -> Result<(), Limit> {
        self.in_queue(self.standing.places.complete(place, deadline)).await
    }

    /// Counts whoever has to wait.
    async fn in_queue<T>(&self, turn: impl Future<Output = Result<T, Limit>>) -> Result<T, Limit> {
        let mut turn = pin!(turn);
        let at_once = poll_fn(|cx| Poll::Ready(turn.as_mut().poll(cx))).await;
        let done = match at_once {
            Poll::Ready(done) => done,
            Poll::Pending => {
                let _queued = self.metrics.queued();
                turn.await
            }
        };
        if done.is_err() {
            self.metrics.queue_timed_out();
        }
        done
    }

    /// A place for a link that is nobody's yet, if there is one to spare.
    pub fn spare_place(&self) -> Option<Place> {
        self.standing.places.spare()
    }

    /// Ready when links to it that nobody uses are to be given up: it is down, is being drained, or is retired.
    pub async fn closes(&self) {
        loop {
            let mut closing = pin!(self.standing.closing.notified());
            closing.as_mut().enable();
            if self.is_draining() || !self.is_up() || self.is_retired() {
                return;
            }
            closing.await;
        }
    }

    /// How it is, for people.
    pub fn condition(&self) -> String {
        let sessions = self.sessions();
        let draining = if self.is_draining() { "draining, " } else { "" };
        format!("{}: {draining}{}, {sessions} sessions", self.config.name, self.health())
    }

    /// Whether it is well, as far as is known.
    pub fn is_up(&self) -> bool {
        self.health().is_up()
    }

    /// Begins an attempt; `None` when the backend is down for half a minute and somebody is already finding out
    /// whether it is back, so that a dead backend does not make every client wait.
    pub fn attempt(&self) -> Option<Attempt<'_>> {
        let is_lost = self.is_lost();
        if self.trying.fetch_add(1, Ordering::Relaxed) > 0 && is_lost {
            self.trying.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Attempt(self))
    }

    /// It is down for half a minute.
    fn is_lost(&self) -> bool {
        self.health().down_since().is_some_and(|since| since.elapsed() >= FAILS_AT_ONCE_AFTER)
    }

    /// How it is, for the metrics.
    pub fn standing(&self) -> BackendStanding {
        BackendStanding {
            draining: self.is_draining(),
            weight: self.config.weight.get(),
            sessions: self.sessions(),
            links_limit: self.config.max_links,
            circuit_open: self.is_lost(),
        }
    }

    /// Something with it went well.
    pub fn succeeded(&self, aspect: Aspect) {
        let change = self.health().succeeded(aspect, Instant::now());
        self.note(change);
    }

    /// Something failed, for the backend's sake; `why` is for the log. `user`: in whose login; `None`: in a probe.
    pub fn failed(&self, aspect: Aspect, user: Option<&UserName>, why: &str) {
        let change = self.health().failed(aspect, user, why, Instant::now());
        self.note(change);
    }

    /// How long to wait until it is probed next; `None`: it is not.
    pub fn until_probe(&self) -> Option<Duration> {
        self.health().until_probe()
    }

    fn note(&self, change: Option<Change>) {
        let backend = self.config.name.as_str();
        match change {
            Some(Change::Up(after)) => {
                self.metrics.set_up(true);
                info!(backend, after = after.as_secs(), "backend is up again");
            }
            Some(Change::Down(why)) => {
                self.metrics.set_up(false);
                self.standing.closing.notify_waiters();
                warn!(backend, why, "backend is down");
            }
            None => {}
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
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
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.0.trying.fetch_sub(1, Ordering::Relaxed);
    }
}
