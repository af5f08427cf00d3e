//! The metrics of the admin port: how often it was asked, and what came of it.

use prometheus::IntCounterVec;

use super::families::{Families, Made};

/// How a request to the admin port ends.
const OUTCOMES: [&str; 6] = ["ok", "bad", "unauthorized", "forbidden", "slowed", "failed"];

/// The metrics of the admin port.
pub struct AdminMetrics {
    requests: IntCounterVec,
}

impl AdminMetrics {
    pub(super) fn new(families: &Families<'_>) -> Made<Self> {
        let requests = families.counters(
            "mailmux_admin_requests_total",
            "Requests to the admin port: done, wrong, with a wrong token or none, not allowed, one too many, failed.",
            &["outcome"],
        )?;
        for outcome in OUTCOMES {
            requests.with_label_values(&[outcome]);
        }
        Ok(Self { requests })
    }

    /// A request was answered with this status of HTTP.
    pub fn answered(&self, status: u16) {
        let outcome = match status {
            401 => "unauthorized",
            403 | 421 => "forbidden",
            429 => "slowed",
            400..500 => "bad",
            500.. => "failed",
            _ => "ok",
        };
        self.requests.with_label_values(&[outcome]).inc();
    }
}
