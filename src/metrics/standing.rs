//! How backends and groups are at the moment of a scrape: looked at then, so that nothing has to be counted meanwhile.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use prometheus::IntGaugeVec;

use super::families::{Families, Made, number};

/// The families.
pub(super) struct Standings {
    draining: IntGaugeVec,
    weight: IntGaugeVec,
    sessions: IntGaugeVec,
    links_limit: IntGaugeVec,
    circuit_open: IntGaugeVec,
    members: IntGaugeVec,
    members_up: IntGaugeVec,
    /// The groups that are shown.
    groups: Mutex<BTreeSet<String>>,
}

/// How a backend of the configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendStanding {
    /// It gets no new sessions.
    pub draining: bool,
    /// Its share of its groups' users.
    pub weight: u32,
    /// Sessions there, or on their way.
    pub sessions: usize,
    /// Links that it may have; 0: any number.
    pub links_limit: usize,
    /// Logins fail there at once, but for one that finds out whether it is back.
    pub circuit_open: bool,
}

/// How a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupStanding {
    /// Its backends, those that stand by included.
    pub backends: usize,
    /// Of these, those that are well and not draining.
    pub up: usize,
}

impl Standings {
    pub(super) fn new(families: &Families<'_>) -> Made<Self> {
        let backend = ["backend"];
        Ok(Self {
            draining: families.gauges(
                "mailmux_backend_draining",
                "1 while the backend gets no new sessions because an operator said so.",
                &backend,
            )?,
            weight: families.gauges(
                "mailmux_backend_weight",
                "The backend's share of its groups' users, against the weights of the others.",
                &backend,
            )?,
            sessions: families.gauges(
                "mailmux_backend_sessions",
                "Sessions at the backend, or on their way there.",
                &backend,
            )?,
            links_limit: families.gauges(
                "mailmux_backend_links_limit",
                "Connections that the backend may have at once (max_links); not there without a limit.",
                &backend,
            )?,
            circuit_open: families.gauges(
                "mailmux_backend_circuit_open",
                "1 while logins at the backend fail at once, but for one that finds out whether it is back: it has been down for half a \
                 minute.",
                &backend,
            )?,
            members: families.gauges(
                "mailmux_group_backends",
                "Backends of the group, those that stand by included.",
                &["group"],
            )?,
            members_up: families.gauges(
                "mailmux_group_backends_up",
                "Backends of the group that are well and not draining, those that stand by included.",
                &["group"],
            )?,
            groups: Mutex::default(),
        })
    }

    pub(super) fn backend(&self, name: &str, standing: BackendStanding) {
        let BackendStanding { draining, weight, sessions, links_limit, circuit_open } = standing;
        self.draining.with_label_values(&[name]).set(draining.into());
        self.weight.with_label_values(&[name]).set(weight.into());
        self.sessions.with_label_values(&[name]).set(number(sessions));
        self.circuit_open.with_label_values(&[name]).set(circuit_open.into());
        if links_limit > 0 {
            self.links_limit.with_label_values(&[name]).set(number(links_limit));
        } else {
            // It may not be there.
            let _ = self.links_limit.remove_label_values(&[name]);
        }
    }

    pub(super) fn remove_backend(&self, name: &str) {
        for gauges in [&self.draining, &self.weight, &self.sessions, &self.links_limit, &self.circuit_open] {
            // It may not be there: not everything that is counted as a backend is shown here.
            let _ = gauges.remove_label_values(&[name]);
        }
    }

    /// These are all groups.
    pub(super) fn groups<'g>(&self, groups: impl Iterator<Item = (&'g str, GroupStanding)>) {
        let mut shown = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut *shown);
        for (name, GroupStanding { backends, up }) in groups {
            self.members.with_label_values(&[name]).set(number(backends));
            self.members_up.with_label_values(&[name]).set(number(up));
            gone.remove(name);
            shown.insert(name.to_owned());
        }
        for name in gone {
            // They are there: nobody else removes one.
            let _ = (self.members.remove_label_values(&[&name]), self.members_up.remove_label_values(&[&name]));
        }
    }
}
