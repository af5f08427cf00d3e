//! How families of series come into being: registered under their name, with words for people. Bounds of histograms stand here
//! too. Not here: what is counted.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Connecting, logging in, waiting for a place: 5 ms to 30 s.
pub(super) const LATENCY: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// What a file or a machine nearby answers: 1 ms to 10 s.
pub(super) const PROMPT: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// What waits for a person or a machine of theirs: 50 ms to 3 min.
pub(super) const PATIENCE: [f64; 11] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0];
/// Links that wait: 1 s to 1 h.
pub(super) const WAITING: [f64; 9] = [1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0];
/// Sessions: 1 s to 7 days.
pub(super) const LIFETIME: [f64; 10] = [1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 86400.0, 259_200.0, 604_800.0];

/// A family, unless another one has its name.
pub(super) type Made<C> = Result<C, prometheus::Error>;

/// Makes families.
pub(super) struct Families<'r>(pub(super) &'r Registry);

impl Families<'_> {
    pub(super) fn counter(&self, name: &str, help: &str) -> Made<IntCounter> {
        self.registered(IntCounter::new(name, help)?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Made<IntCounterVec> {
        self.registered(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Made<IntGauge> {
        self.registered(IntGauge::new(name, help)?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Made<IntGaugeVec> {
        self.registered(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// For moments, which have fractions.
    pub(super) fn moment(&self, name: &str, help: &str) -> Made<Gauge> {
        self.registered(Gauge::new(name, help)?)
    }

    pub(super) fn moments(&self, name: &str, help: &str, labels: &[&str]) -> Made<GaugeVec> {
        self.registered(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub(super) fn histograms(&self, name: &str, help: &str, bounds: &[f64], labels: &[&str]) -> Made<HistogramVec> {
        self.registered(HistogramVec::new(HistogramOpts::new(name, help).buckets(bounds.to_vec()), labels)?)
    }

    fn registered<C: Collector + Clone + 'static>(&self, family: C) -> Made<C> {
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }
}

/// As a gauge shows it.
pub(super) fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
