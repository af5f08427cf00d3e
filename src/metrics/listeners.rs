//! The metrics of listeners: connections of clients, and their TLS.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::families::{Families, Made, PATIENCE, PROMPT};
use super::named::{Holder, Named};
use super::present::{Present, Timed};

/// TLS versions as labels; `none` is a handshake that ended before one was agreed on.
const TLS_VERSIONS: [&str; 3] = ["1.2", "1.3", "none"];
/// The outcomes of a TLS handshake.
const TLS_OUTCOMES: [&str; 5] = ["ok", "resumed", "failed", "alpn_refused", "timeout"];
/// The same of a PROXY header.
const HEADERS: [&str; 3] = ["v1", "v2", "bad"];

/// The families of all listeners.
pub(super) struct Listeners {
    sessions: IntGaugeVec,
    sessions_total: IntCounterVec,
    preauth: IntGaugeVec,
    preauth_seconds: HistogramVec,
    handshakes: IntCounterVec,
    handshake_seconds: HistogramVec,
    pub(super) proxy_headers: IntCounterVec,
    pub(super) accept_errors: IntCounter,
    named: Named,
}

/// The metrics of one listener.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    sessions: IntGauge,
    sessions_total: IntCounter,
    preauth: IntGauge,
    preauth_seconds: Histogram,
    handshakes: IntCounterVec,
    handshake_seconds: Histogram,
    name: Arc<str>,
    holder: Holder,
}

impl Listeners {
    pub(super) fn new(families: &Families<'_>) -> Made<Self> {
        let listeners = Self {
            sessions: families.gauges("mailmux_sessions", "Client connections open now.", &["listener"])?,
            sessions_total: families.counters(
                "mailmux_sessions_total",
                "Client connections accepted, those that a limit then turned away included.",
                &["listener"],
            )?,
            preauth: families.gauges(
                "mailmux_preauth_sessions",
                "Client connections that are not logged in yet.",
                &["listener"],
            )?,
            preauth_seconds: families.histograms(
                "mailmux_preauth_seconds",
                "How long client connections were open until they were logged in, or ended before.",
                &PATIENCE,
                &["listener"],
            )?,
            handshakes: families.counters(
                "mailmux_tls_handshakes_total",
                "TLS handshakes with clients; resumed: with a ticket of an earlier one.",
                &["listener", "version", "outcome"],
            )?,
            handshake_seconds: families.histograms(
                "mailmux_tls_handshake_seconds",
                "How long TLS handshakes with clients took that succeeded.",
                &PROMPT,
                &["listener"],
            )?,
            proxy_headers: families.counters(
                "mailmux_proxy_protocol_headers_total",
                "PROXY headers of trusted balancers by version; bad: none, or one that is broken.",
                &["outcome"],
            )?,
            accept_errors: families.counter(
                "mailmux_accept_errors_total",
                "Connections that could not be accepted, for want of file descriptors or memory; those to the admin port included.",
            )?,
            named: Named::default(),
        };
        for outcome in HEADERS {
            listeners.proxy_headers.with_label_values(&[outcome]);
        }
        Ok(listeners)
    }

    pub(super) fn of(&self, name: &str) -> ListenerMetrics {
        self.named.enter(name, |holder| {
            for (version, outcome) in handshakes() {
                self.handshakes.with_label_values(&[name, version, outcome]);
            }
            ListenerMetrics {
                sessions: self.sessions.with_label_values(&[name]),
                sessions_total: self.sessions_total.with_label_values(&[name]),
                preauth: self.preauth.with_label_values(&[name]),
                preauth_seconds: self.preauth_seconds.with_label_values(&[name]),
                handshakes: self.handshakes.clone(),
                handshake_seconds: self.handshake_seconds.with_label_values(&[name]),
                name: name.into(),
                holder,
            }
        })
    }

    pub(super) fn only<'n>(&self, names: impl Iterator<Item = &'n str>) {
        self.named.only(names, |_| ());
    }

    pub(super) fn forget(&self) {
        self.named.forget(|name| {
            // All are there: nobody else removes one.
            for (version, outcome) in handshakes() {
                let _ = self.handshakes.remove_label_values(&[name, version, outcome]);
            }
            let _ = self.sessions.remove_label_values(&[name]);
            let _ = self.sessions_total.remove_label_values(&[name]);
            let _ = self.preauth.remove_label_values(&[name]);
            let _ = self.preauth_seconds.remove_label_values(&[name]);
            let _ = self.handshake_seconds.remove_label_values(&[name]);
        });
    }
}

/// A handshake that succeeded has a version, one that failed has none.
fn handshakes() -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = TLS_VERSIONS.into_iter().flat_map(|version| TLS_OUTCOMES.map(|outcome| (version, outcome)));
    all.filter(|(version, outcome)| (*version != "none") == matches!(*outcome, "ok" | "resumed"))
}

impl ListenerMetrics {
    /// A connection was accepted and is open until the guard goes.
    pub fn opened(&self) -> Present {
        self.sessions_total.inc();
        Present::new(&self.sessions, &self.holder)
    }

    /// A session is not logged in until the guard goes.
    pub fn preauth(&self) -> Timed {
        Present::new(&self.preauth, &self.holder).timed(&self.preauth_seconds)
    }

    /// A handshake succeeded.
    pub fn handshake(&self, version: &'static str, resumed: bool, took: Duration) {
        let outcome = if resumed { "resumed" } else { "ok" };
        self.handshakes.with_label_values(&[&self.name, version, outcome]).inc();
        self.handshake_seconds.observe(took.as_secs_f64());
    }

    /// A handshake did not succeed: `failed`, `alpn_refused` or `timeout`.
    pub fn handshake_failed(&self, outcome: &'static str) {
        self.handshakes.with_label_values(&[&self.name, "none", outcome]).inc();
    }
}
