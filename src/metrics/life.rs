//! The metrics of the process's own life: what it was configured with, what comes before its end, what it loses.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::registered;

/// How a reload ends.
const OUTCOMES: [&str; 2] = ["ok", "failed"];

/// The metrics of the process's own life.
pub struct Life {
    reloads: IntCounterVec,
    certificate_reloads: IntCounterVec,
    last_reload: Gauge,
    last_failure: Mutex<Option<SystemTime>>,
    draining: IntGauge,
    drain_remaining: IntGauge,
    predecessors: IntGauge,
    predecessor_sessions: IntGauge,
    log_lines_dropped: IntCounter,
}

impl Life {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let reloads = |name: &str, help: &str| {
            let counters = registered(registry, IntCounterVec::new(Opts::new(name, help), &["outcome"])?)?;
            for outcome in OUTCOMES {
                counters.with_label_values(&[outcome]);
            }
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help)?);
        let when_read = "When the configuration that is in use was read, seconds since 1970.";
        let dropped = "Log lines that were lost, because they could not be written (in time).";
        Ok(Self {
            reloads: reloads(
                "mailmux_config_reloads_total",
                "Reloads of the configuration; one that failed has changed nothing.",
            )?,
            certificate_reloads: reloads(
                "mailmux_certificate_reloads_total",
                "Reloads of certificates whose files had changed; one that failed has changed nothing.",
            )?,
            last_reload: registered(
                registry,
                Gauge::new("mailmux_config_last_reload_success_timestamp_seconds", when_read)?,
            )?,
            last_failure: Mutex::default(),
            draining: gauge(
                "mailmux_draining",
                "1 while the process accepts no new connections and waits for its end.",
            )?,
            drain_remaining: gauge(
                "mailmux_drain_sessions_remaining",
                "Sessions that a process which is draining still has.",
            )?,
            predecessors: gauge(
                "mailmux_predecessors",
                "Older processes that still drain after an upgrade to this one.",
            )?,
            predecessor_sessions: gauge("mailmux_predecessor_sessions", "Sessions that these still have.")?,
            log_lines_dropped: registered(registry, IntCounter::new("mailmux_log_lines_dropped_total", dropped)?)?,
        })
    }

    /// A configuration was read and is in use, or was refused.
    pub fn reloaded(&self, ok: bool) {
        self.reloads.with_label_values(&[outcome(ok)]).inc();
        if !ok {
            *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
        }
    }

    /// When a configuration was refused last.
    pub fn last_failed_reload(&self) -> Option<SystemTime> {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Certificates were read because their files had changed.
    pub fn certificates_reloaded(&self, ok: bool) {
        self.certificate_reloads.with_label_values(&[outcome(ok)]).inc();
    }

    /// The configuration that is in use was read just now.
    pub fn configured(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last_reload.set(now.as_secs_f64());
    }

    /// When the configuration that is in use was read, in seconds since 1970.
    pub fn configured_at(&self) -> f64 {
        self.last_reload.get()
    }

    /// The process drains, and so many sessions are left.
    pub fn draining(&self, sessions: usize) {
        self.draining.set(1);
        self.drain_remaining.set(number(sessions));
    }

    /// Older processes, and the sessions that they have.
    pub fn predecessors(&self, processes: usize, sessions: usize) {
        self.predecessors.set(number(processes));
        self.predecessor_sessions.set(number(sessions));
    }

    /// So many lines of the log were lost since the start of the process.
    pub fn log_lines_dropped(&self, total: u64) {
        self.log_lines_dropped.inc_by(total.saturating_sub(self.log_lines_dropped.get()));
    }
}

fn outcome(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
