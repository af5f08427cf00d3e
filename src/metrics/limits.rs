//! The metrics of limits: what they refuse, whom they hold, how much they remember.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::families::{Families, Made, number};
use crate::outcome::Limit;

/// Those after which a user or a network is held back for a while.
const HOLDING: [Limit; 2] = [Limit::FailuresPerNetwork, Limit::FailuresPerUser];

/// The families of limits.
pub(super) struct Limits {
    pub(super) limited: IntCounterVec,
    holds: IntCounterVec,
    held: IntGaugeVec,
    keys: IntGaugeVec,
    sessions: IntGaugeVec,
}

/// What limits remember at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Users or networks that are remembered.
    pub keys: usize,
    /// Of these, those that are held back now, where the limit does that.
    pub held: usize,
}

impl Limits {
    pub(super) fn new(families: &Families<'_>) -> Made<Self> {
        let limits = Self {
            limited: families.counters(
                "mailmux_limited_total",
                "Connections and logins refused by a limit; it has the name of its key in the configuration.",
                &["limit"],
            )?,
            holds: families.counters(
                "mailmux_limit_holds_total",
                "How often a network or a user failed so often that its logins were refused for a while.",
                &["limit"],
            )?,
            held: families.gauges(
                "mailmux_limit_held",
                "Networks or users whose logins are refused now because too many failed.",
                &["limit"],
            )?,
            keys: families.gauges(
                "mailmux_limit_keys",
                "Networks or users that a limit remembers now; for limits that are set.",
                &["limit"],
            )?,
            sessions: families.gauges(
                "mailmux_sessions_limit",
                "Client connections that may be open at once (limits.sessions); not there without a limit.",
                &[],
            )?,
        };
        for limit in Limit::ALL {
            limits.limited.with_label_values(&[limit.as_str()]);
        }
        for limit in HOLDING {
            limits.holds.with_label_values(&[limit.as_str()]);
        }
        Ok(limits)
    }

    pub(super) fn held(&self, limit: Limit) {
        self.holds.with_label_values(&[limit.as_str()]).inc();
    }

    pub(super) fn seen(&self, limit: Limit, remembered: Option<Remembered>) {
        let name = limit.as_str();
        let Some(Remembered { keys, held }) = remembered else {
            // They may not be there.
            let _ = (self.keys.remove_label_values(&[name]), self.held.remove_label_values(&[name]));
            return;
        };
        self.keys.with_label_values(&[name]).set(number(keys));
        if HOLDING.contains(&limit) {
            self.held.with_label_values(&[name]).set(number(held));
        }
    }

    pub(super) fn sessions_limit(&self, most: usize) {
        if most == 0 {
            // It may not be there.
            let _ = self.sessions.remove_label_values::<&str>(&[]);
        } else {
            self.sessions.with_label_values::<&str>(&[]).set(number(most));
        }
    }
}
