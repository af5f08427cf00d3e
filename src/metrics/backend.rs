//! The metrics of backends, of the links to them and of the pool. `reading.rs` tells what they show.

mod reading;

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{LATENCY, Present, registered};

pub use reading::BackendReading;

/// Sessions: 1 s to 7 days.
const LIFETIME: [f64; 10] = [1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 86400.0, 259_200.0, 604_800.0];

/// The families of all backends.
pub(super) struct Backends {
    up: IntGaugeVec,
    /// Of whom it is told whether they are up.
    names: Mutex<BTreeSet<String>>,
    links: IntGaugeVec,
    queue: IntGaugeVec,
    connect_seconds: HistogramVec,
    login_seconds: HistogramVec,
    session_seconds: HistogramVec,
    relay_bytes: IntCounterVec,
    errors: IntCounterVec,
    retries: IntCounterVec,
    probes: IntCounterVec,
    checkouts: IntCounterVec,
    evictions: IntCounterVec,
}

/// The metrics of one backend.
#[derive(Debug, Clone)]
pub struct BackendMetrics {
    up: IntGauge,
    connecting: IntGauge,
    warm: IntGauge,
    active: IntGauge,
    resetting: IntGauge,
    idle: IntGauge,
    queue: IntGauge,
    connect_seconds: Histogram,
    login_seconds: Histogram,
    session_seconds: Histogram,
    retries: IntCounter,
    to_backend: IntCounter,
    to_client: IntCounter,
    errors: IntCounterVec,
    probes: IntCounterVec,
    checkouts: IntCounterVec,
    evictions: IntCounterVec,
    name: Arc<str>,
}

/// What can go wrong with a backend; the label `kind` of `mailmux_backend_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendError {
    /// TCP: refused, unreachable, no such name.
    Connect,
    /// No answer in time, at any step.
    Timeout,
    /// The handshake, or a certificate that does not verify.
    Tls,
    /// A greeting that is not `* OK`.
    Greeting,
    /// Anything else that is not IMAP as expected.
    Protocol,
    /// End of stream before the login was answered.
    Closed,
    /// STARTTLS wanted and not offered or refused.
    StartTls,
    /// `NO [UNAVAILABLE]`.
    Unavailable,
    /// `NO [SERVERBUG]`.
    ServerBug,
    /// Nothing of the backend's: this machine has no descriptor, port or memory for a link.
    Local,
}

impl BackendError {
    const ALL: [Self; 10] = [
        Self::Connect,
        Self::Timeout,
        Self::Tls,
        Self::Greeting,
        Self::Protocol,
        Self::Closed,
        Self::StartTls,
        Self::Unavailable,
        Self::ServerBug,
        Self::Local,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Greeting => "greeting",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::StartTls => "starttls",
            Self::Unavailable => "unavailable",
            Self::ServerBug => "serverbug",
            Self::Local => "local",
        }
    }
}

/// Which link a login on a route with a pool got; the label `outcome` of `mailmux_pool_checkouts_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkout {
    /// One that was logged in already.
    Hit,
    /// One that was connected already.
    Warm,
    /// A new one, since none was waiting.
    Miss,
    /// A new one, since those that were waiting belong to other credentials.
    WrongCredential,
    /// A new one, since those that were waiting turned out to be dead.
    Dead,
}

impl Checkout {
    const ALL: [Self; 5] = [Self::Hit, Self::Warm, Self::Miss, Self::WrongCredential, Self::Dead];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Warm => "warm",
            Self::Miss => "miss",
            Self::WrongCredential => "wrong_credential",
            Self::Dead => "dead",
        }
    }
}

/// Why a link did not wait in the pool, or does so no longer; the label `reason` of `mailmux_pool_evictions_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// It has waited long enough.
    Age,
    /// The backend closed it, or said what it should not.
    Dead,
    /// The session has left something behind that cannot be undone, or that may.
    Dirty,
    /// Undoing what the session has left behind failed.
    ResetFailed,
    /// As many wait as may.
    Full,
    /// Its user has logged in with other credentials, or was sent away.
    Credential,
    /// Somebody else needs its place.
    Wanted,
    /// The backend is down or is being drained.
    Closing,
}

impl Eviction {
    const ALL: [Self; 8] = [
        Self::Age,
        Self::Dead,
        Self::Dirty,
        Self::ResetFailed,
        Self::Full,
        Self::Credential,
        Self::Wanted,
        Self::Closing,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Dead => "dead",
            Self::Dirty => "dirty",
            Self::ResetFailed => "reset_failed",
            Self::Full => "full",
            Self::Credential => "credential",
            Self::Wanted => "wanted",
            Self::Closing => "closing",
        }
    }
}

impl Backends {
    /// Fails only if two metrics had one name.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let histograms = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            registered(registry, HistogramVec::new(opts, &["backend"])?)
        };
        let connect = "How long connecting took: TCP, TLS and the greeting.";
        let login = "How long logging in at the backend took, from the client's command to the backend's OK.";
        let checkouts = "Logins on routes with a pool, by the link they got: one that was logged in already (hit), one that \
                         was connected already (warm), or a new one and why that.";
        Ok(Self {
            up: gauges("mailmux_backend_up", "Whether the backend is well, as far as is known.", &["backend"])?,
            names: Mutex::default(),
            links: gauges("mailmux_backend_links", "Connections to the backend.", &["backend", "state"])?,
            queue: gauges("mailmux_backend_queue", "Logins that wait for a free link.", &["backend"])?,
            connect_seconds: histograms("mailmux_backend_connect_seconds", connect, &LATENCY)?,
            login_seconds: histograms("mailmux_login_seconds", login, &LATENCY)?,
            session_seconds: histograms("mailmux_session_seconds", "How long logged-in sessions lasted.", &LIFETIME)?,
            relay_bytes: counters("mailmux_relay_bytes_total", "Bytes moved after login.", &["backend", "direction"])?,
            errors: counters(
                "mailmux_backend_errors_total",
                "What went wrong with the backend.",
                &["backend", "kind"],
            )?,
            retries: counters(
                "mailmux_backend_retries_total",
                "Logins tried once more because the backend failed.",
                &["backend"],
            )?,
            probes: counters(
                "mailmux_backend_probes_total",
                "Probes of backends by how they ended.",
                &["backend", "outcome"],
            )?,
            checkouts: counters("mailmux_pool_checkouts_total", checkouts, &["backend", "outcome"])?,
            evictions: counters(
                "mailmux_pool_evictions_total",
                "Links that did not wait in the pool, or no longer do so, by why.",
                &["backend", "reason"],
            )?,
        })
    }

    /// The metrics of a backend, present from now on.
    /// Tells of nobody else any more whether it is up.
    pub(super) fn only<'b>(&self, names: impl Iterator<Item = &'b str>) {
        let kept: Vec<_> = names.collect();
        let mut known = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name| {
            let is_kept = kept.contains(&name.as_str());
            if !is_kept {
                // It is there: nobody else removes one.
                let _ = self.up.remove_label_values(&[name]);
            }
            is_kept
        });
    }

    pub(super) fn of(&self, name: &str) -> BackendMetrics {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        for kind in BackendError::ALL {
            self.errors.with_label_values(&[name, kind.as_str()]);
        }
        for outcome in ["ok", "failed"] {
            self.probes.with_label_values(&[name, outcome]);
        }
        for checkout in Checkout::ALL {
            self.checkouts.with_label_values(&[name, checkout.as_str()]);
        }
        for why in Eviction::ALL {
            self.evictions.with_label_values(&[name, why.as_str()]);
        }
        let up = self.up.with_label_values(&[name]);
        // Nothing is known against it yet.
        up.set(1);
        let links = |state| self.links.with_label_values(&[name, state]);
        BackendMetrics {
            up,
            connecting: links("connecting"),
            warm: links("warm"),
            active: links("active"),
            resetting: links("resetting"),
            idle: links("idle"),
            queue: self.queue.with_label_values(&[name]),
            connect_seconds: self.connect_seconds.with_label_values(&[name]),
            login_seconds: self.login_seconds.with_label_values(&[name]),
            session_seconds: self.session_seconds.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            to_backend: self.relay_bytes.with_label_values(&[name, "to_backend"]),
            to_client: self.relay_bytes.with_label_values(&[name, "to_client"]),
            errors: self.errors.clone(),
            probes: self.probes.clone(),
            checkouts: self.checkouts.clone(),
            evictions: self.evictions.clone(),
            name: name.into(),
        }
    }
}

impl BackendMetrics {
    /// A link is being opened until the guard goes.
    pub fn connecting(&self) -> Present {
        Present::new(&self.connecting)
    }

    /// A link waits for a login until the guard goes.
    pub fn warm(&self) -> Present {
        Present::new(&self.warm)
    }

    /// A link is logged in and waits for its user until the guard goes.
    pub fn idle(&self) -> Present {
        Present::new(&self.idle)
    }

    /// What a session has left behind on a link is undone until the guard goes.
    pub fn resetting(&self) -> Present {
        Present::new(&self.resetting)
    }

    /// Somebody waits for a place until the guard goes.
    pub fn queued(&self) -> Present {
        Present::new(&self.queue)
    }

    /// A login on a route with a pool got its link.
    pub fn checked_out(&self, checkout: Checkout) {
        self.checkouts.with_label_values(&[&self.name, checkout.as_str()]).inc();
    }

    /// A link that could have waited was closed.
    pub fn evicted(&self, why: Eviction) {
        self.evictions.with_label_values(&[&self.name, why.as_str()]).inc();
    }

    /// A link is logged in and used until the guard goes.
    pub fn active(&self) -> Present {
        Present::new(&self.active)
    }

    /// A link was opened and greeted.
    pub fn connected(&self, took: Duration) {
        self.connect_seconds.observe(took.as_secs_f64());
    }

    /// A login succeeded.
    pub fn logged_in(&self, took: Duration) {
        self.login_seconds.observe(took.as_secs_f64());
    }

    /// A logged-in session has ended.
    pub fn session_ended(&self, lasted: Duration) {
        self.session_seconds.observe(lasted.as_secs_f64());
    }

    /// A probe ended: `ok` or `failed`.
    pub fn probed(&self, outcome: &'static str) {
        self.probes.with_label_values(&[&self.name, outcome]).inc();
    }

    /// A login is tried once more.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// Something went wrong.
    pub fn error(&self, kind: BackendError) {
        self.errors.with_label_values(&[&self.name, kind.as_str()]).inc();
    }

    /// Whether the last attempt to reach it succeeded.
    pub fn set_up(&self, up: bool) {
        self.up.set(up.into());
    }

    /// Wraps the client's stream for the relay: what is written to it is counted as `to_client`.
    pub fn counted_client<S>(&self, stream: S) -> Counted<S> {
        Counted { stream, written: self.to_client.clone() }
    }

    /// Wraps the backend's stream for the relay: what is written to it is counted as `to_backend`.
    pub fn counted_backend<S>(&self, stream: S) -> Counted<S> {
        Counted { stream, written: self.to_backend.clone() }
    }
}

/// A stream whose written bytes are counted as they go.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    written: IntCounter,
}

impl<S> Counted<S> {
    /// The stream below.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = written {
            self.written.inc_by(n as u64);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
