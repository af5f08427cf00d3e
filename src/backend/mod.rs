//! The backends, shared by all sessions, and the answer of routing: a [`Route`]. `group.rs` chooses among several, by what
//! `weight.rs` has, `health.rs` says whether one is well, `history.rs` what has become of that, `places.rs` how many links one
//! may have. Not here: IMAP text, sockets.

mod group;
mod health;
mod history;
mod places;
mod route;
mod weight;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config;
use crate::imap::UserName;
use crate::metrics::BackendMetrics;
use crate::outcome::Limit;
use crate::random;
use crate::tls::Connector;

pub use group::Group;
pub use health::Aspect;
use health::{Change, Health};
use history::History;
pub use history::{CHANGES, HealthReport, Turn};
pub use places::Place;
use places::Places;
pub use route::{LoginAs, Prescribed, Proof, Route};
use weight::Weight;

/// A backend that is down for so long is not waited for while somebody else is already trying it.
const FAILS_AT_ONCE_AFTER: Duration = Duration::from_secs(30);

/// So much later each session of a backend that dies is closed, on average.
const SPREAD_EACH: Duration = Duration::from_millis(5);
/// All of them within this.
const SPREAD_MOST: Duration = Duration::from_secs(5);

/// One backend: its settings and what is known of it at the moment.
#[derive(Debug)]
pub struct Backend {
    /// Its settings.
    pub config: config::Backend,
    /// There when it is spoken to under TLS.
    pub connector: Option<Connector>,
    /// Its metrics.
    pub metrics: BackendMetrics,
    known: Arc<Mutex<Known>>,
    standing: Arc<Standing>,
    trying: AtomicUsize,
    next_source: AtomicUsize,
    /// The configuration has another one in its place, or none.
    retired: AtomicBool,
}

/// What is known of its health, and since when: one thing, so that changes are told in the order in which they happen.
#[derive(Debug)]
struct Known {
    health: Health,
    history: History,
}

/// What is the same for all of one name, however often its settings change.
#[derive(Debug)]
struct Standing {
    // In one order for everybody (`SeqCst`): whoever comes is counted and then asks whether this one is being drained, and who
    // drains it says so and then counts.
    draining: AtomicBool,
    sessions: AtomicUsize,
    places: Places,
    weight: Weight,
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
        let known = Known::nothing(&config.health);
        let standing = Standing {
            draining: AtomicBool::new(false),
            sessions: AtomicUsize::new(0),
            places: Places::new(config.max_links, config.max_links_per_user),
            weight: Weight::new(config.weight),
            closing: Notify::new(),
        };
        metrics.set_up(true);
        Self::with(config, connector, metrics, known, Arc::new(standing))
    }

    /// The same backend with other settings: who is there is counted on, and what is known of its health holds, unless it is
    /// reached in another way now. It stands beside this one until [`Backend::take_over`].
    #[must_use]
    pub fn renewed(&self, config: config::Backend, connector: Option<Connector>) -> Self {
        let known =
            if self.is_reached_like(&config) { Arc::clone(&self.known) } else { Known::nothing(&config.health) };
        Self::with(config, connector, self.metrics.clone(), known, Arc::clone(&self.standing))
    }

    fn with(
        config: config::Backend,
        connector: Option<Connector>,
        metrics: BackendMetrics,
        known: Arc<Mutex<Known>>,
        standing: Arc<Standing>,
    ) -> Self {
        Self {
            config,
            connector,
            metrics,
            known,
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
        self.known().health.adapt(&self.config.health);
        self.standing.weight.adapt(self.config.weight);
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
        let health = &mut self.known().health;
        health.is_up() || health.claim_trial(Instant::now())
    }

    /// The same, asked without sending anybody.
    pub fn would_take_users(&self) -> bool {
        let health = &self.known().health;
        !self.is_draining() && (health.is_up() || health.may_be_tried(Instant::now()))
    }

    /// Its share of a group's users, as it is now. 0: none but those whom nobody else takes.
    pub fn weight(&self) -> u32 {
        self.standing.weight.now()
    }

    /// Changes that share until it is changed again, the configuration has another one, or the server ends; `None`: back to
    /// what the configuration says.
    pub fn set_weight(&self, weight: Option<u32>) {
        self.standing.weight.set(weight.unwrap_or_else(|| self.config.weight.get()));
    }

    /// How many links to it there are, or are being opened, for users or to wait for them.
    pub fn links(&self) -> usize {
        self.standing.places.taken()
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        let config::Backend { host, port, .. } = &self.config;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// A place among this user's links, as soon as there is one; [`Backend::complete`] makes it one among all.
    ///
    /// # Errors
    /// It had to wait until `deadline`.
    pub async fn place_of(&self, user: &UserName, deadline: Instant) -> Result<Place, Limit> {
        // Who need not wait is gone from there before anybody looks.
        let _queued = self.metrics.queued();
        self.standing.places.of_user(user, deadline).await
    }

    /// Makes a user's place one for a new link, as soon as the backend may have one more.
    ///
    /// # Errors
    /// It had to wait until `deadline`.
    pub async fn complete(&self, place: &mut Place, deadline: Instant) -> Result<(), Limit> {
        let _queued = self.metrics.queued();
        self.standing.places.complete(place, deadline).await
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
        let (now, configured) = (self.weight(), self.config.weight.get());
        let weight = if now == configured { String::new() } else { format!(", weight {now} instead of {configured}") };
        format!("{}: {draining}{}, {sessions} sessions{weight}", self.config.name, self.known().health)
    }

    /// What is known of its health.
    pub fn health(&self) -> HealthReport {
        let known = self.known();
        known.history.report(known.health.is_up(), known.health.why_down())
    }

    /// The last changes of its health, at most [`CHANGES`], oldest first.
    pub fn turns(&self) -> Vec<Turn> {
        self.known().history.turns()
    }

    /// Whether it is well, as far as is known.
    pub fn is_up(&self) -> bool {
        self.known().health.is_up()
    }

    /// Begins an attempt; `None` when the backend is down for half a minute and somebody is already finding out
    /// whether it is back, so that a dead backend does not make every client wait.
    pub fn attempt(&self) -> Option<Attempt<'_>> {
        let is_lost = self.known().health.down_since().is_some_and(|since| since.elapsed() >= FAILS_AT_ONCE_AFTER);
        if self.trying.fetch_add(1, Ordering::Relaxed) > 0 && is_lost {
            self.trying.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Attempt(self))
    }

    /// Something with it went well.
    pub fn succeeded(&self, aspect: Aspect) {
        self.learn(|health| health.succeeded(aspect, Instant::now()));
    }

    /// Something failed, for the backend's sake; `why` is for log and operators, and where it was not reached names the address.
    /// `user`: in whose login; `None`: in a probe.
    pub fn failed(&self, aspect: Aspect, user: Option<&UserName>, why: &str) {
        let whole = match aspect {
            Aspect::Reach => why.to_owned(),
            Aspect::Login => format!("login at {}: {why}", self.address()),
        };
        self.learn(|health| health.failed(aspect, user, history::bounded(&whole), Instant::now()));
    }

    /// The same, since nothing came in time.
    pub fn was_silent(&self, aspect: Aspect, user: Option<&UserName>) {
        match aspect {
            Aspect::Reach => self.failed(aspect, user, &format!("{}: no answer in time", self.address())),
            Aspect::Login => self.failed(aspect, user, "no answer in time"),
        }
    }

    /// How long to wait until it is probed next; `None`: it is not.
    pub fn until_probe(&self) -> Option<Duration> {
        self.known().health.until_probe()
    }

    fn learn(&self, what: impl FnOnce(&mut Health) -> Option<Change>) {
        let mut known = self.known();
        let change = what(&mut known.health);
        known.history.note(change.as_ref(), SystemTime::now());
        drop(known);
        self.tell(change);
    }

    fn tell(&self, change: Option<Change>) {
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

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Known {
    fn nothing(config: &config::Health) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { health: Health::new(config), history: History::default() }))
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
