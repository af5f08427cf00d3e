//! The server itself, as it is and as it was in the last hour. What operators see of backends, sessions and users is on
//! their pages.

use std::time::{Duration, SystemTime};

use super::Steering;
use crate::config::{ListenerTls, LogLevel};
use crate::history::{Quantiles, Shown};
use crate::metrics::{ListenerReadings, Readings};

/// How the server is.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Status {
    pub began_at: SystemTime,
    pub uptime: Duration,
    pub log_level: LogLevel,
    pub last_failed_reload: Option<SystemTime>,
    pub listeners: Vec<ListenerStatus>,
    /// How long logging in took in the last five minutes.
    pub login_seconds: Option<Quantiles>,
    /// Totals since the start.
    pub readings: Readings,
}

/// How a listener is.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ListenerStatus {
    pub name: String,
    /// As the configuration has it.
    pub address: String,
    pub tls: ListenerTls,
    pub readings: ListenerReadings,
}

impl Steering {
    /// How the server is.
    pub fn status(&self) -> Status {
        let state = self.state();
        let readings = state.metrics.readings();
        let (began_at, uptime) = state.history.began();
        let listeners = state.config.listeners.iter().map(|listener| ListenerStatus {
            name: listener.name.clone(),
            address: listener.address.value.to_string(),
            tls: listener.tls,
            readings: readings.listeners.get(&listener.name).copied().unwrap_or_default(),
        });
        Status {
            began_at,
            uptime,
            log_level: self.log_level(),
            last_failed_reload: state.metrics.life().last_failed_reload(),
            listeners: listeners.collect(),
            login_seconds: state.history.recent_logins(&readings),
            readings,
        }
    }

    /// How it was in the last hour.
    pub fn history(&self) -> Shown {
        self.state().history.shown()
    }
}
