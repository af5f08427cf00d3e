//! The metrics of one backend, and the verbs that move them. `reading.rs` tells what they show.

mod reading;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::backends::{OUTCOMES, ProbeKind};
use super::counted::Counted;
use super::errors::{BackendError, BackendLogin};
use super::named::Holder;
use super::pool::{Checkout, Eviction};
use super::present::{Present, Timed};

pub use reading::BackendReading;

/// The metrics of one backend.
#[derive(Debug, Clone)]
pub struct BackendMetrics {
    pub(super) up: IntGauge,
    pub(super) connecting: IntGauge,
    pub(super) warm: IntGauge,
    pub(super) active: IntGauge,
    pub(super) resetting: IntGauge,
    pub(super) idle: IntGauge,
    pub(super) queue: IntGauge,
    pub(super) queue_seconds: Histogram,
    pub(super) queue_timeouts: IntCounter,
    pub(super) connect_seconds: Histogram,
    pub(super) login_seconds: Histogram,
    pub(super) session_seconds: Histogram,
    pub(super) reset_seconds: Histogram,
    pub(super) idle_seconds: Histogram,
    pub(super) retries: IntCounter,
    pub(super) to_backend: IntCounter,
    pub(super) to_client: IntCounter,
    pub(super) connects: IntCounterVec,
    pub(super) tls_seconds: HistogramVec,
    pub(super) logins: IntCounterVec,
    pub(super) errors: IntCounterVec,
    pub(super) probes: IntCounterVec,
    pub(super) probe_seconds: HistogramVec,
    pub(super) checkouts: IntCounterVec,
    pub(super) evictions: IntCounterVec,
    pub(super) name: Arc<str>,
    pub(super) holder: Holder,
}

impl BackendMetrics {
    /// A link is being opened until the guard goes.
    pub fn connecting(&self) -> Present {
        self.present(&self.connecting)
    }

    /// A link waits for a login until the guard goes.
    pub fn warm(&self) -> Present {
        self.present(&self.warm)
    }

    /// A link is logged in and waits for its user until the guard goes.
    pub fn idle(&self) -> Present {
        self.present(&self.idle)
    }

    /// What a session has left behind on a link is undone until the guard goes.
    pub fn resetting(&self) -> Present {
        self.present(&self.resetting)
    }

    /// A link is logged in and used until the guard goes.
    pub fn active(&self) -> Present {
        self.present(&self.active)
    }

    /// Somebody waits for a place until the guard goes.
    pub fn queued(&self) -> Timed {
        self.present(&self.queue).timed(&self.queue_seconds)
    }

    fn present(&self, gauge: &IntGauge) -> Present {
        Present::new(gauge, &self.holder)
    }

    /// Somebody has waited for a place in vain.
    pub fn queue_timed_out(&self) {
        self.queue_timeouts.inc();
    }

    /// A login on a route with a pool got its link.
    pub fn checked_out(&self, checkout: Checkout) {
        self.checkouts.with_label_values(&[&self.name, checkout.as_str()]).inc();
    }

    /// A link that could have waited was closed.
    pub fn evicted(&self, why: Eviction) {
        self.evictions.with_label_values(&[&self.name, why.as_str()]).inc();
    }

    /// What a session had left behind on a link is undone.
    pub fn reset(&self, took: Duration) {
        self.reset_seconds.observe(took.as_secs_f64());
    }

    /// A link that was logged in has its user again.
    pub fn has_waited(&self, waited: Duration) {
        self.idle_seconds.observe(waited.as_secs_f64());
    }

    /// A link was opened and greeted.
    pub fn connected(&self, took: Duration) {
        self.connects.with_label_values(&[&self.name, "ok"]).inc();
        self.connect_seconds.observe(took.as_secs_f64());
    }

    /// A link could not be opened.
    pub fn not_connected(&self) {
        self.connects.with_label_values(&[&self.name, "failed"]).inc();
    }

    /// It is spoken to under TLS: its handshakes are shown from now on.
    pub fn speaks_tls(&self) {
        self.tls_seconds.with_label_values(&[&self.name]);
    }

    /// A handshake succeeded.
    pub fn encrypted(&self, took: Duration) {
        self.tls_seconds.with_label_values(&[&self.name]).observe(took.as_secs_f64());
    }

    /// A login has come to an answer there, or to none.
    pub fn answered(&self, outcome: BackendLogin) {
        self.logins.with_label_values(&[&self.name, outcome.as_str()]).inc();
    }

    /// A login succeeded.
    pub fn logged_in(&self, took: Duration) {
        self.login_seconds.observe(took.as_secs_f64());
    }

    /// A logged-in session has ended.
    pub fn session_ended(&self, lasted: Duration) {
        self.session_seconds.observe(lasted.as_secs_f64());
    }

    /// It is probed: what comes of it is shown from now on.
    pub fn is_probed(&self, kind: ProbeKind) {
        for outcome in OUTCOMES {
            self.probes.with_label_values(&[&self.name, kind.as_str(), outcome]);
        }
        self.probe_seconds.with_label_values(&[&self.name, kind.as_str()]);
    }

    /// A probe went well.
    pub fn probed(&self, kind: ProbeKind, took: Duration) {
        self.probes.with_label_values(&[&self.name, kind.as_str(), "ok"]).inc();
        self.probe_seconds.with_label_values(&[&self.name, kind.as_str()]).observe(took.as_secs_f64());
    }

    /// A probe failed.
    pub fn probe_failed(&self, kind: ProbeKind) {
        self.probes.with_label_values(&[&self.name, kind.as_str(), "failed"]).inc();
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
