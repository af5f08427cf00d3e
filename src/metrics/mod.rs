//! Every metric, its labels and its guards. Rooms hold guards and call verbs; none of them sees a counter. There is no
//! global registry: a [`Metrics`] belongs to one server, so that two servers in one process do not meet.
//!
//! Labels come from the configuration or from closed lists, never from what a peer sends, and every series exists from
//! the start, so that a rate over it is right from its first event on. Those of backends and their links are in
//! `backend.rs`, those of the process in `life.rs`; `readings.rs` reads them for people.

mod admin;
mod backend;
mod life;
mod quantile;
mod readings;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::imap::Mechanism;
use crate::outcome::{Ending, LOGIN_OUTCOMES, Limit};

pub use admin::AdminMetrics;
use backend::Backends;
pub use backend::{BackendError, BackendMetrics, BackendReading, Checkout, Counted, Eviction};
pub use life::Life;
pub use quantile::quantile;
pub use readings::{Counts, ListenerReadings, Readings};

/// Connecting and logging in: 1 ms to 30 s.
const LATENCY: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// TLS versions as labels; `none` is a handshake that ended before one was agreed on.
const TLS_VERSIONS: [&str; 3] = ["1.2", "1.3", "none"];
/// The outcomes of a TLS handshake.
const TLS_OUTCOMES: [&str; 5] = ["ok", "resumed", "failed", "alpn_refused", "timeout"];
/// Sources of routes: how a question to one ends.
const LOOKUP_OUTCOMES: [&str; 4] = ["found", "unknown", "refused", "failed"];
/// How an answer that can be kept came about.
const LOOKUP_WAYS: [&str; 4] = ["hit", "miss", "shared", "stale"];

/// All metrics of one server.
pub struct Metrics {
    registry: Registry,
    sessions: IntGaugeVec,
    sessions_total: IntCounterVec,
    sessions_closed: IntCounterVec,
    handshakes: IntCounterVec,
    handshake_seconds: HistogramVec,
    proxy_headers: IntCounterVec,
    preauth: IntGaugeVec,
    logins: IntCounterVec,
    backends: Backends,
    limited: IntCounterVec,
    lookup_seconds: HistogramVec,
    lookup_cache: IntCounterVec,
    certificate_expiry: GaugeVec,
    /// The names under which certificates are shown.
    certificates: Mutex<BTreeSet<String>>,
    life: Life,
    admin: AdminMetrics,
    accept_errors: IntCounter,
    internal_errors: IntCounter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// The metrics of one listener.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    sessions: IntGauge,
    sessions_total: IntCounter,
    preauth: IntGauge,
    handshakes: IntCounterVec,
    handshake_seconds: Histogram,
    name: Arc<str>,
}

/// The metrics of one source of routes.
#[derive(Debug, Clone)]
pub struct LookupMetrics {
    seconds: HistogramVec,
    cache: IntCounterVec,
    name: Arc<str>,
}

/// Counts one thing as present for as long as it lives.
#[derive(Debug)]
pub struct Present(IntGauge);

impl Present {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// A fresh set. Fails only if two metrics here had one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registered(&registry, vec)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registered(&registry, vec)
        };
        let histograms = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let vec = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registered(&registry, vec)
        };
        gauges("mailmux_build_info", "The version that is running; always 1.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let metrics = Self {
            sessions: gauges("mailmux_sessions", "Client connections open now.", &["listener"])?,
            sessions_total: counters("mailmux_sessions_total", "Client connections accepted.", &["listener"])?,
            sessions_closed: counters(
                "mailmux_sessions_closed_total",
                "Client connections ended, by who ended them and why.",
                &["side", "reason"],
            )?,
            handshakes: counters(
                "mailmux_tls_handshakes_total",
                "TLS handshakes with clients.",
                &["listener", "version", "outcome"],
            )?,
            handshake_seconds: histograms(
                "mailmux_tls_handshake_seconds",
                "How long successful TLS handshakes with clients took.",
                &LATENCY,
                &["listener"],
            )?,
            proxy_headers: counters(
                "mailmux_proxy_protocol_headers_total",
                "PROXY headers from trusted balancers.",
                &["outcome"],
            )?,
            preauth: gauges("mailmux_preauth_sessions", "Client connections not logged in yet.", &["listener"])?,
            logins: counters("mailmux_logins_total", "Attempts to log in.", &["mechanism", "outcome"])?,
            backends: Backends::new(&registry)?,
            limited: counters("mailmux_limited_total", "Connections and logins refused by a limit.", &["limit"])?,
            lookup_seconds: histograms(
                "mailmux_lookup_seconds",
                "How long questions to sources of routes took.",
                &LATENCY,
                &["lookup", "outcome"],
            )?,
            lookup_cache: counters(
                "mailmux_lookup_cache_total",
                "How answers that can be kept came about: kept, asked for, asked for by somebody else, old.",
                &["lookup", "way"],
            )?,
            certificate_expiry: registered(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "mailmux_certificate_expiry_timestamp_seconds",
                        "When the certificate expires, seconds since 1970.",
                    ),
                    &["name"],
                )?,
            )?,
            certificates: Mutex::default(),
            life: Life::new(&registry)?,
            admin: AdminMetrics::new(&registry)?,
            accept_errors: registered(
                &registry,
                IntCounter::new("mailmux_accept_errors_total", "Failed accepts (out of file descriptors ...).")?,
            )?,
            internal_errors: registered(
                &registry,
                IntCounter::new("mailmux_internal_errors_total", "Faults of mailmux itself; each is a bug.")?,
            )?,
            registry,
        };
        metrics.start_closed_lists();
        Ok(metrics)
    }

    fn start_closed_lists(&self) {
        for ending in Ending::ALL {
            self.sessions_closed.with_label_values(&[ending.side().as_str(), ending.label()]);
        }
        for limit in Limit::ALL {
            self.limited.with_label_values(&[limit.as_str()]);
        }
        for mechanism in Mechanism::ALL {
            for outcome in LOGIN_OUTCOMES {
                self.logins.with_label_values(&[mechanism.as_str(), outcome]);
            }
        }
        for outcome in ["v1", "v2", "bad"] {
            self.proxy_headers.with_label_values(&[outcome]);
        }
    }

    /// The metrics of a listener, present from now on.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        for version in TLS_VERSIONS {
            for outcome in TLS_OUTCOMES {
                // A handshake that succeeded has a version, one that failed has none.
                if (version == "none") != matches!(outcome, "ok" | "resumed") {
                    self.handshakes.with_label_values(&[name, version, outcome]);
                }
            }
        }
        ListenerMetrics {
            sessions: self.sessions.with_label_values(&[name]),
            sessions_total: self.sessions_total.with_label_values(&[name]),
            preauth: self.preauth.with_label_values(&[name]),
            handshakes: self.handshakes.clone(),
            handshake_seconds: self.handshake_seconds.with_label_values(&[name]),
            name: name.into(),
        }
    }

    /// The metrics of a backend, present from now on.
    pub fn backend(&self, name: &str) -> BackendMetrics {
        self.backends.of(name)
    }

    /// The metrics of a source of routes, present from now on.
    pub fn lookup(&self, name: &str) -> LookupMetrics {
        for outcome in LOOKUP_OUTCOMES {
            self.lookup_seconds.with_label_values(&[name, outcome]);
        }
        for way in LOOKUP_WAYS {
            self.lookup_cache.with_label_values(&[name, way]);
        }
        LookupMetrics { seconds: self.lookup_seconds.clone(), cache: self.lookup_cache.clone(), name: name.into() }
    }

    /// An attempt to log in has ended; `outcome` is one of [`LOGIN_OUTCOMES`].
    pub fn login(&self, mechanism: Mechanism, outcome: &'static str) {
        self.logins.with_label_values(&[mechanism.as_str(), outcome]).inc();
    }

    /// A limit refused something.
    pub fn limited(&self, limit: Limit) {
        self.limited.with_label_values(&[limit.as_str()]).inc();
    }

    /// A session has ended.
    pub fn session_closed(&self, ending: Ending) {
        self.sessions_closed.with_label_values(&[ending.side().as_str(), ending.label()]).inc();
        if ending == Ending::Internal {
            self.internal_errors.inc();
        }
    }

    /// A trusted balancer's PROXY header: `v1`, `v2` or `bad`.
    pub fn proxy_header(&self, outcome: &'static str) {
        self.proxy_headers.with_label_values(&[outcome]).inc();
    }

    /// These certificates are in use, until then (seconds since 1970), and no others.
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 million years")]
    pub fn certificates<'c>(&self, expiries: impl Iterator<Item = (&'c str, i64)>) {
        let mut shown = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut *shown);
        for (name, not_after) in expiries {
            self.certificate_expiry.with_label_values(&[name]).set(not_after as f64);
            gone.remove(name);
            shown.insert(name.to_owned());
        }
        for name in gone {
            // It is there: nobody else removes one.
            let _ = self.certificate_expiry.remove_label_values(&[&name]);
        }
    }

    /// Those of the process's own life.
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// Those of the admin port.
    pub fn admin(&self) -> &AdminMetrics {
        &self.admin
    }

    /// The configuration names these backends, and no others: whether another is up is not told any more. What was counted
    /// stays.
    pub fn only_backends<'b>(&self, names: impl Iterator<Item = &'b str>) {
        self.backends.only(names);
    }

    /// `accept` failed.
    pub fn accept_error(&self) {
        self.accept_errors.inc();
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

impl ListenerMetrics {
    /// A connection was accepted and is open until the guard goes.
    pub fn opened(&self) -> Present {
        self.sessions_total.inc();
        Present::new(&self.sessions)
    }

    /// A session is not logged in until the guard goes.
    pub fn preauth(&self) -> Present {
        Present::new(&self.preauth)
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

impl LookupMetrics {
    /// An answer that can be kept came about this way: `hit`, `miss`, `shared` or `stale`.
    pub fn kept(&self, way: &'static str) {
        self.cache.with_label_values(&[&self.name, way]).inc();
    }

    /// A question was answered: `found`, `unknown`, `refused` or `failed`.
    pub fn answered(&self, outcome: &'static str, took: Duration) {
        self.seconds.with_label_values(&[&self.name, outcome]).observe(took.as_secs_f64());
    }

    /// Answers so far, by outcome.
    pub fn answers(&self) -> Vec<(&'static str, u64)> {
        let count = |outcome: &str| self.seconds.with_label_values(&[&self.name, outcome]).get_sample_count();
        LOOKUP_OUTCOMES.iter().map(|outcome| (*outcome, count(outcome))).collect()
    }

    /// How answers that can be kept came about so far.
    pub fn ways(&self) -> Vec<(&'static str, u64)> {
        let count = |way: &str| self.cache.with_label_values(&[&self.name, way]).get();
        LOOKUP_WAYS.iter().map(|way| (*way, count(way))).collect()
    }
}
