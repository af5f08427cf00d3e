//! The metrics of backends and of the links to them: what there is and when it comes and goes; `backend.rs` moves it. What
//! logins ask of the pool is in `pool.rs`, what groups and backends are at the moment of a scrape in `standing.rs`.

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use super::backend::BackendMetrics;
use super::errors::{BackendError, BackendLogin};
use super::families::{Families, LATENCY, LIFETIME, Made};
use super::named::Named;
use super::pool::Pools;
use super::standing::Standings;

/// What a link to a backend can be doing.
const LINKS: [&str; 5] = ["connecting", "warm", "active", "resetting", "idle"];
const DIRECTIONS: [&str; 2] = ["to_backend", "to_client"];
pub(super) const OUTCOMES: [&str; 2] = ["ok", "failed"];

/// The families of all backends.
pub(super) struct Backends {
    up: IntGaugeVec,
    links: IntGaugeVec,
    queue: IntGaugeVec,
    queue_seconds: HistogramVec,
    queue_timeouts: IntCounterVec,
    connects: IntCounterVec,
    connect_seconds: HistogramVec,
    tls_seconds: HistogramVec,
    logins: IntCounterVec,
    login_seconds: HistogramVec,
    session_seconds: HistogramVec,
    relay_bytes: IntCounterVec,
    errors: IntCounterVec,
    retries: IntCounterVec,
    probes: IntCounterVec,
    probe_seconds: HistogramVec,
    pool: Pools,
    pub(super) standings: Standings,
    named: Named,
}

/// How a backend is probed; the label `kind` of `mailmux_backend_probes_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// As far as its greeting.
    Greeting,
    /// With a login.
    Login,
}

impl ProbeKind {
    const ALL: [Self; 2] = [Self::Greeting, Self::Login];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Login => "login",
        }
    }
}

impl Backends {
    /// Fails only if two metrics had one name.
    pub(super) fn new(families: &Families<'_>) -> Made<Self> {
        let backend = ["backend"];
        Ok(Self {
            up: families.gauges(
                "mailmux_backend_up",
                "1 while the backend is well, as far as probes and logins have shown; 0 while it is down.",
                &backend,
            )?,
            links: families.gauges(
                "mailmux_backend_links",
                "Connections to the backend: being opened, waiting for any login (warm), in use (active), being cleaned (resetting), \
                 logged in and waiting for their user (idle).",
                &["backend", "state"],
            )?,
            queue: families.gauges(
                "mailmux_backend_queue",
                "Logins that wait for a place among the backend's links (max_links, max_links_per_user).",
                &backend,
            )?,
            queue_seconds: families.histograms(
                "mailmux_backend_queue_seconds",
                "How long logins waited for a place among the backend's links; of those that had to.",
                &LATENCY,
                &backend,
            )?,
            queue_timeouts: families.counters(
                "mailmux_backend_queue_timeouts_total",
                "Logins that got no place among the backend's links in time.",
                &backend,
            )?,
            connects: families.counters(
                "mailmux_backend_connects_total",
                "Links that were to be opened, for logins, probes and the pool; mailmux_backend_errors_total says what went wrong.",
                &["backend", "outcome"],
            )?,
            connect_seconds: families.histograms(
                "mailmux_backend_connect_seconds",
                "How long opening a link took, where that succeeded: name, TCP, TLS and the greeting.",
                &LATENCY,
                &backend,
            )?,
            tls_seconds: families.histograms(
                "mailmux_backend_tls_handshake_seconds",
                "How long TLS handshakes with the backend took that succeeded; for backends with TLS.",
                &LATENCY,
                &backend,
            )?,
            logins: families.counters(
                "mailmux_backend_logins_total",
                "Logins that the backend was asked for, by how they ended; each try counts, probes and links from the pool do not.",
                &["backend", "outcome"],
            )?,
            login_seconds: families.histograms(
                "mailmux_login_seconds",
                "How long logins took that succeeded, from the client's command to the backend's OK.",
                &LATENCY,
                &backend,
            )?,
            session_seconds: families.histograms(
                "mailmux_session_seconds",
                "How long sessions lasted that were logged in, from accept to close.",
                &LIFETIME,
                &backend,
            )?,
            relay_bytes: families.counters(
                "mailmux_relay_bytes_total",
                "Bytes moved after login.",
                &["backend", "direction"],
            )?,
            errors: families.counters(
                "mailmux_backend_errors_total",
                "What went wrong with the backend in logins and in opening links for the pool; local: this machine lacks descriptors, \
                 ports or memory.",
                &["backend", "kind"],
            )?,
            retries: families.counters(
                "mailmux_backend_retries_total",
                "Logins tried once more, here or at another of the group, because the backend failed.",
                &backend,
            )?,
            probes: families.counters(
                "mailmux_backend_probes_total",
                "Health checks of the backend, as far as its greeting or with a login; for backends that are probed.",
                &["backend", "kind", "outcome"],
            )?,
            probe_seconds: families.histograms(
                "mailmux_backend_probe_seconds",
                "How long health checks of the backend took that succeeded.",
                &LATENCY,
                &["backend", "kind"],
            )?,
            pool: Pools::new(families)?,
            standings: Standings::new(families)?,
            named: Named::default(),
        })
    }

    /// The metrics of a backend, present from now on.
    pub(super) fn of(&self, name: &str) -> BackendMetrics {
        self.named.enter(name, |holder| {
            for kind in BackendError::ALL {
                self.errors.with_label_values(&[name, kind.as_str()]);
            }
            for outcome in OUTCOMES {
                self.connects.with_label_values(&[name, outcome]);
            }
            for outcome in BackendLogin::ALL {
                self.logins.with_label_values(&[name, outcome.as_str()]);
            }
            self.pool.begin(name);
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
                queue_seconds: self.queue_seconds.with_label_values(&[name]),
                queue_timeouts: self.queue_timeouts.with_label_values(&[name]),
                connect_seconds: self.connect_seconds.with_label_values(&[name]),
                login_seconds: self.login_seconds.with_label_values(&[name]),
                session_seconds: self.session_seconds.with_label_values(&[name]),
                reset_seconds: self.pool.reset_seconds.with_label_values(&[name]),
                idle_seconds: self.pool.idle_seconds.with_label_values(&[name]),
                retries: self.retries.with_label_values(&[name]),
                to_backend: self.relay_bytes.with_label_values(&[name, "to_backend"]),
                to_client: self.relay_bytes.with_label_values(&[name, "to_client"]),
                connects: self.connects.clone(),
                tls_seconds: self.tls_seconds.clone(),
                logins: self.logins.clone(),
                errors: self.errors.clone(),
                probes: self.probes.clone(),
                probe_seconds: self.probe_seconds.clone(),
                checkouts: self.pool.checkouts.clone(),
                evictions: self.pool.evictions.clone(),
                name: name.into(),
                holder,
            }
        })
    }

    /// How others are is not told any more; what they have counted is, until their last session has ended.
    pub(super) fn only<'b>(&self, names: impl Iterator<Item = &'b str>) {
        self.named.only(names, |name| {
            // It is there: nobody else removes one.
            let _ = self.up.remove_label_values(&[name]);
            self.standings.remove_backend(name);
        });
    }

    /// Takes away the series of those whose last session has ended.
    pub(super) fn forget(&self) {
        self.named.forget(|name| {
            // Those that are not there are those of backends without TLS or without probes.
            for state in LINKS {
                let _ = self.links.remove_label_values(&[name, state]);
            }
            for direction in DIRECTIONS {
                let _ = self.relay_bytes.remove_label_values(&[name, direction]);
            }
            for kind in BackendError::ALL {
                let _ = self.errors.remove_label_values(&[name, kind.as_str()]);
            }
            for outcome in BackendLogin::ALL {
                let _ = self.logins.remove_label_values(&[name, outcome.as_str()]);
            }
            for outcome in OUTCOMES {
                let _ = self.connects.remove_label_values(&[name, outcome]);
                for kind in ProbeKind::ALL {
                    let _ = self.probes.remove_label_values(&[name, kind.as_str(), outcome]);
                }
            }
            for kind in ProbeKind::ALL {
                let _ = self.probe_seconds.remove_label_values(&[name, kind.as_str()]);
            }
            let _ = self.queue.remove_label_values(&[name]);
            for counters in [&self.queue_timeouts, &self.retries] {
                let _ = counters.remove_label_values(&[name]);
            }
            let times = [&self.queue_seconds, &self.connect_seconds, &self.tls_seconds, &self.login_seconds];
            for seconds in times.into_iter().chain([&self.session_seconds]) {
                let _ = seconds.remove_label_values(&[name]);
            }
            self.pool.remove(name);
        });
    }
}
