//! What is read from the metrics of a backend, for operators who ask the running server. Not here: counting.

use prometheus::core::Metric;
use prometheus::{Histogram, IntCounterVec, IntGauge};

use super::{BackendError, BackendMetrics, Checkout, Eviction};

/// The metrics of one backend, read at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendReading {
    /// Links that are being opened.
    pub connecting: u64,
    /// Links that are connected and wait for anybody.
    pub warm: u64,
    /// Links that are logged in and wait for their user.
    pub idle: u64,
    /// Links that sessions use.
    pub active: u64,
    /// Links on which what a session has left behind is undone.
    pub resetting: u64,
    /// Logins that wait for a free link.
    pub queue: u64,
    /// Logins that have succeeded.
    pub logins: u64,
    /// What has gone wrong.
    pub errors: u64,
    /// Bytes moved after login to clients ...
    pub to_client: u64,
    /// ... and to the backend.
    pub to_backend: u64,
    /// How long logging in took: upper bounds, and how many took no longer.
    pub login_seconds: Vec<(f64, u64)>,
    /// Which links logins on routes with a pool got.
    pub checkouts: Vec<(Checkout, u64)>,
    /// Why links did not wait in the pool, or do so no longer.
    pub evictions: Vec<(Eviction, u64)>,
}

impl BackendMetrics {
    /// All that it shows now.
    pub fn read(&self) -> BackendReading {
        let gauge = |gauge: &IntGauge| u64::try_from(gauge.get()).unwrap_or_default();
        let counter =
            |counters: &IntCounterVec, label: &str| counters.with_label_values(&[self.name.as_ref(), label]).get();
        BackendReading {
            connecting: gauge(&self.connecting),
            warm: gauge(&self.warm),
            idle: gauge(&self.idle),
            active: gauge(&self.active),
            resetting: gauge(&self.resetting),
            queue: gauge(&self.queue),
            logins: self.login_seconds.get_sample_count(),
            errors: BackendError::ALL.into_iter().map(|kind| counter(&self.errors, kind.as_str())).sum(),
            to_client: self.to_client.get(),
            to_backend: self.to_backend.get(),
            login_seconds: buckets(&self.login_seconds),
            checkouts: Checkout::ALL.map(|checkout| (checkout, counter(&self.checkouts, checkout.as_str()))).into(),
            evictions: Eviction::ALL.map(|why| (why, counter(&self.evictions, why.as_str()))).into(),
        }
    }
}

/// The buckets of a histogram: upper bounds, and how many lie below each.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let metric = histogram.metric();
    let histogram = metric.get_histogram();
    let bounds = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    bounds.chain([(f64::INFINITY, histogram.get_sample_count())]).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Metrics, quantile};

    #[test]
    fn what_happens_is_read() {
        let metrics = Metrics::new().expect("no name twice");
        let (blue, green) = (metrics.backend("blue"), metrics.backend("green"));
        let untouched = green.read();
        assert_eq!((untouched.logins, quantile(0.5, &untouched.login_seconds)), (0, None));

        let guards = (
            blue.connecting(),
            [blue.warm(), blue.warm()],
            blue.idle(),
            blue.active(),
            blue.resetting(),
            blue.queued(),
        );
        for millis in [30, 40, 30_000, 90_000] {
            blue.logged_in(Duration::from_millis(millis));
        }
        blue.error(BackendError::Tls);
        blue.error(BackendError::Timeout);
        blue.checked_out(Checkout::Hit);
        blue.evicted(Eviction::Age);
        let read = blue.read();
        assert_eq!((read.connecting, read.warm, read.idle, read.active, read.resetting), (1, 2, 1, 1, 1));
        assert_eq!((read.queue, read.logins, read.errors), (1, 4, 2));
        assert!(read.checkouts.contains(&(Checkout::Hit, 1)) && read.checkouts.contains(&(Checkout::Dead, 0)));
        assert!(read.evictions.contains(&(Eviction::Age, 1)) && read.evictions.contains(&(Eviction::Full, 0)));
        assert_eq!(quantile(0.5, &read.login_seconds), Some(0.05), "two of four");
        assert_eq!(quantile(0.99, &read.login_seconds), Some(30.0), "as much as is known");
        drop(guards);
        let read = blue.read();
        assert_eq!(
            (read.connecting, read.warm, read.idle, read.active, read.resetting, read.queue),
            (0, 0, 0, 0, 0, 0)
        );
        assert_eq!(green.read(), untouched, "each has its own");
    }
}
