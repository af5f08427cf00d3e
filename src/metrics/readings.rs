//! What the metrics say at this moment, in numbers for people: the same that `/metrics` shows, summed over what does not matter
//! to them.

use std::collections::BTreeMap;

use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::Metrics;

/// Counts by a label.
pub type Counts = BTreeMap<String, u64>;

/// What the metrics said at one moment. Totals are since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// Listeners by name.
    pub listeners: BTreeMap<String, ListenerReadings>,
    /// Attempts to log in, by outcome.
    pub logins: Counts,
    /// Sessions that have ended, by reason.
    pub closed: Counts,
    /// What limits have refused, by limit.
    pub limited: Counts,
    /// Bytes moved after login.
    pub bytes_to_client: u64,
    /// Bytes moved after login.
    pub bytes_to_backend: u64,
    /// Logins that wait for a place at a backend.
    pub queue: u64,
    /// How long logging in took: upper bounds, and how many took no longer.
    pub login_seconds: Vec<(f64, u64)>,
    /// Logins that succeeded, by backend.
    pub backend_logins: Counts,
    /// Reloads of the configuration: those that succeeded, and those that failed.
    pub reloads: (u64, u64),
    /// When the configuration in use was read, seconds since 1970.
    pub configured_at: f64,
    /// Processes before this one, and their sessions.
    pub predecessors: (u64, u64),
    /// Of the process: open descriptors, how many there may be, bytes of memory in use. Where the system tells them.
    pub process: Option<(u64, u64, u64)>,
}

/// Those of one listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenerReadings {
    /// Connections open now.
    pub sessions: u64,
    /// Of these, those that are not logged in yet.
    pub preauth: u64,
    /// Connections accepted.
    pub accepted: u64,
}

impl Metrics {
    /// What they say now.
    pub fn readings(&self) -> Readings {
        let families = Families(self.registry.gather());
        let reloads = families.by("mailmux_config_reloads_total", "outcome");
        let reloads = |outcome: &str| reloads.get(outcome).copied().unwrap_or_default();
        let bytes = families.by("mailmux_relay_bytes_total", "direction");
        let bytes = |direction: &str| bytes.get(direction).copied().unwrap_or_default();
        Readings {
            listeners: families.listeners(),
            logins: families.by("mailmux_logins_total", "outcome"),
            closed: families.by("mailmux_sessions_closed_total", "reason"),
            limited: families.by("mailmux_limited_total", "limit"),
            bytes_to_client: bytes("to_client"),
            bytes_to_backend: bytes("to_backend"),
            queue: families.sum("mailmux_backend_queue"),
            login_seconds: families.buckets("mailmux_login_seconds"),
            backend_logins: families.by("mailmux_login_seconds", "backend"),
            reloads: (reloads("ok"), reloads("failed")),
            configured_at: families.of("mailmux_config_last_reload_success_timestamp_seconds").map(value).sum(),
            predecessors: (families.sum("mailmux_predecessors"), families.sum("mailmux_predecessor_sessions")),
            process: families.of("process_open_fds").next().is_some().then(|| {
                let sum = |name| families.sum(name);
                (sum("process_open_fds"), sum("process_max_fds"), sum("process_resident_memory_bytes"))
            }),
        }
    }
}

struct Families(Vec<MetricFamily>);

impl Families {
    /// The series of a metric; none where it has none yet.
    fn of(&self, name: &str) -> impl Iterator<Item = (&Metric, MetricType)> {
        let family = self.0.iter().find(|family| family.name() == name);
        family.into_iter().flat_map(|family| family.get_metric().iter().map(|metric| (metric, family.get_field_type())))
    }

    fn sum(&self, name: &str) -> u64 {
        self.of(name).map(|series| whole(value(series))).sum()
    }

    fn by(&self, name: &str, label: &str) -> Counts {
        let mut counts = Counts::new();
        for series in self.of(name) {
            if let Some(of) = series.0.get_label().iter().find(|pair| pair.name() == label) {
                *counts.entry(of.value().to_owned()).or_default() += whole(value(series));
            }
        }
        counts
    }

    fn listeners(&self) -> BTreeMap<String, ListenerReadings> {
        let mut listeners = BTreeMap::<_, ListenerReadings>::new();
        for (name, sessions) in self.by("mailmux_sessions", "listener") {
            listeners.entry(name).or_default().sessions = sessions;
        }
        for (name, preauth) in self.by("mailmux_preauth_sessions", "listener") {
            listeners.entry(name).or_default().preauth = preauth;
        }
        for (name, accepted) in self.by("mailmux_sessions_total", "listener") {
            listeners.entry(name).or_default().accepted = accepted;
        }
        listeners
    }

    /// Those of all series of a histogram together.
    fn buckets(&self, name: &str) -> Vec<(f64, u64)> {
        let mut all: Vec<(f64, u64)> = Vec::new();
        for (metric, _) in self.of(name) {
            let histogram = metric.get_histogram();
            let bounds = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
            for (at, (bound, count)) in bounds.chain([(f64::INFINITY, histogram.get_sample_count())]).enumerate() {
                match all.get_mut(at) {
                    Some((_, sum)) => *sum += count,
                    None => all.push((bound, count)),
                }
            }
        }
        all
    }
}

/// Of a histogram: how often something was observed.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 observations")]
fn value((metric, kind): (&Metric, MetricType)) -> f64 {
    match kind {
        MetricType::COUNTER => metric.get_counter().get_value(),
        MetricType::GAUGE => metric.get_gauge().get_value(),
        MetricType::HISTOGRAM => metric.get_histogram().get_sample_count() as f64,
        MetricType::SUMMARY | MetricType::UNTYPED => 0.0,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of floats saturates")]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::imap::Mechanism;
    use crate::outcome::{Ending, Limit};

    /// Each number comes from where it should, and so has the name that it is looked up by.
    #[test]
    fn what_happens_is_read() {
        let metrics = Metrics::new().expect("no name twice");
        let (blue, green, door) = (metrics.backend("blue"), metrics.backend("green"), metrics.listener("imaps"));
        let guards = (door.opened(), door.opened(), door.preauth(), green.queued());
        for (backend, millis) in [(&blue, 3), (&blue, 40), (&green, 60_000)] {
            backend.logged_in(Duration::from_millis(millis));
            metrics.login(Mechanism::Plain, "ok");
        }
        metrics.login(Mechanism::Login, "bad_credentials");
        metrics.limited(Limit::SessionsPerUser);
        metrics.session_closed(Ending::Kicked);
        metrics.life().reloaded(true);
        metrics.life().reloaded(false);
        metrics.life().reloaded(false);
        metrics.life().configured();
        metrics.life().predecessors(1, 17);

        let readings = metrics.readings();
        let listener = ListenerReadings { sessions: 2, preauth: 1, accepted: 2 };
        assert_eq!(readings.listeners, [("imaps".to_owned(), listener)].into());
        assert_eq!((readings.logins["ok"], readings.logins["bad_credentials"], readings.logins["timeout"]), (3, 1, 0));
        assert_eq!((readings.limited["sessions_per_user"], readings.limited["memory"]), (1, 0));
        assert_eq!((readings.closed["kicked"], readings.closed["moved"]), (1, 0));
        assert_eq!(readings.queue, 1);
        assert_eq!(readings.backend_logins, [("blue".to_owned(), 2), ("green".to_owned(), 1)].into());
        let below = |bound: f64| readings.login_seconds.iter().find(|(at, _)| *at >= bound).map(|(_, count)| *count);
        assert_eq!((below(0.005), below(0.05), below(30.0), below(31.0)), (Some(1), Some(2), Some(2), Some(3)));
        assert_eq!((readings.reloads, readings.predecessors), ((1, 2), (1, 17)));
        assert!(readings.configured_at > 1e9, "{}", readings.configured_at);
        assert!(readings.process.is_some_and(|(open, most, bytes)| open > 0 && most >= open && bytes > 100_000));
        drop(guards);
        let listener = ListenerReadings { sessions: 0, preauth: 0, accepted: 2 };
        assert_eq!(metrics.readings().listeners, [("imaps".to_owned(), listener)].into());
    }
}
