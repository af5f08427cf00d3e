//! The metrics of the pool: which links logins get, what becomes of links that wait.

use prometheus::{HistogramVec, IntCounterVec};

use super::families::{Families, LATENCY, Made, WAITING};

/// The families of the pool.
pub(super) struct Pools {
    pub(super) checkouts: IntCounterVec,
    pub(super) evictions: IntCounterVec,
    pub(super) reset_seconds: HistogramVec,
    pub(super) idle_seconds: HistogramVec,
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
    pub(super) const ALL: [Self; 5] = [Self::Hit, Self::Warm, Self::Miss, Self::WrongCredential, Self::Dead];

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
    pub(super) const ALL: [Self; 8] = [
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

impl Pools {
    pub(super) fn new(families: &Families<'_>) -> Made<Self> {
        let backend = ["backend"];
        Ok(Self {
            checkouts: families.counters(
                "mailmux_pool_checkouts_total",
                "Logins on routes with a pool, by the link they got: one that was logged in already (hit), one that was connected \
                 already (warm), or a new one and why that.",
                &["backend", "outcome"],
            )?,
            evictions: families.counters(
                "mailmux_pool_evictions_total",
                "Links that did not wait in the pool, or no longer do so, by why.",
                &["backend", "reason"],
            )?,
            reset_seconds: families.histograms(
                "mailmux_pool_reset_seconds",
                "How long it took to undo on a link what its session had left behind, where that succeeded.",
                &LATENCY,
                &backend,
            )?,
            idle_seconds: families.histograms(
                "mailmux_pool_idle_seconds",
                "How long logged-in links had waited when their user came back.",
                &WAITING,
                &backend,
            )?,
        })
    }

    /// Those of a backend are there from now on.
    pub(super) fn begin(&self, name: &str) {
        for checkout in Checkout::ALL {
            self.checkouts.with_label_values(&[name, checkout.as_str()]);
        }
        for why in Eviction::ALL {
            self.evictions.with_label_values(&[name, why.as_str()]);
        }
    }

    /// Those of a backend are there no longer.
    pub(super) fn remove(&self, name: &str) {
        // All are there: nobody else removes one.
        for checkout in Checkout::ALL {
            let _ = self.checkouts.remove_label_values(&[name, checkout.as_str()]);
        }
        for why in Eviction::ALL {
            let _ = self.evictions.remove_label_values(&[name, why.as_str()]);
        }
        let _ = self.reset_seconds.remove_label_values(&[name]);
        let _ = self.idle_seconds.remove_label_values(&[name]);
    }
}
