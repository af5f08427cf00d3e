//! The metrics of sources of routes.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use super::families::{Families, Made, PROMPT, number};
use super::named::{Holder, Named};

/// How a question ends.
const LOOKUP_OUTCOMES: [&str; 4] = ["found", "unknown", "refused", "failed"];
/// How an answer that can be kept came about.
const LOOKUP_WAYS: [&str; 4] = ["hit", "miss", "shared", "stale"];

/// The families of all sources.
pub(super) struct Lookups {
    seconds: HistogramVec,
    cache: IntCounterVec,
    entries: IntGaugeVec,
    named: Named,
}

/// The metrics of one source of routes.
#[derive(Debug, Clone)]
pub struct LookupMetrics {
    seconds: HistogramVec,
    cache: IntCounterVec,
    name: Arc<str>,
    _holder: Holder,
}

impl Lookups {
    pub(super) fn new(families: &Families<'_>) -> Made<Self> {
        Ok(Self {
            seconds: families.histograms(
                "mailmux_lookup_seconds",
                "How long questions to a source of routes took, kept answers included; by how they ended.",
                &PROMPT,
                &["lookup", "outcome"],
            )?,
            cache: families.counters(
                "mailmux_lookup_cache_total",
                "How answers that can be kept came about: kept (hit), asked for (miss), asked for by somebody else (shared), old \
                 because the source is down (stale).",
                &["lookup", "way"],
            )?,
            entries: families.gauges(
                "mailmux_lookup_cache_entries",
                "Answers that are kept now, fresh and old ones; for sources whose answers are kept.",
                &["lookup"],
            )?,
            named: Named::default(),
        })
    }

    pub(super) fn of(&self, name: &str) -> LookupMetrics {
        self.named.enter(name, |holder| {
            for outcome in LOOKUP_OUTCOMES {
                self.seconds.with_label_values(&[name, outcome]);
            }
            for way in LOOKUP_WAYS {
                self.cache.with_label_values(&[name, way]);
            }
            LookupMetrics {
                seconds: self.seconds.clone(),
                cache: self.cache.clone(),
                name: name.into(),
                _holder: holder,
            }
        })
    }

    pub(super) fn only<'n>(&self, names: impl Iterator<Item = &'n str>) {
        self.named.only(names, |name| {
            // There may be none.
            let _ = self.entries.remove_label_values(&[name]);
        });
    }

    pub(super) fn kept(&self, name: &str, entries: Option<usize>) {
        match entries {
            Some(entries) => self.entries.with_label_values(&[name]).set(number(entries)),
            // There may be none.
            None => drop(self.entries.remove_label_values(&[name])),
        }
    }

    pub(super) fn forget(&self) {
        self.named.forget(|name| {
            // All are there: nobody else removes one.
            for outcome in LOOKUP_OUTCOMES {
                let _ = self.seconds.remove_label_values(&[name, outcome]);
            }
            for way in LOOKUP_WAYS {
                let _ = self.cache.remove_label_values(&[name, way]);
            }
        });
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
