//! Hosts that only a lookup names. Each is a backend like others, with the settings of the lookup's template, and lives on,
//! so that what is known of its health does. They share the lookup's metrics: labels are bounded by the configuration.

use std::sync::Arc;

use dashmap::DashMap;

use super::lookup::Host;
use crate::backend::Backend;
use crate::config;
use crate::metrics::{BackendMetrics, Metrics};
use crate::tls::Connector;

/// Of more hosts than this nothing is remembered from one login to the next.
const MOST: usize = 10_000;

/// The hosts that one lookup has named.
pub(super) struct Hosts {
    known: DashMap<Host, Arc<Backend>>,
    /// Whose settings they have; `None`: the defaults.
    template: Option<Arc<Backend>>,
    /// `None`: it may name no host, so that there is nothing to count.
    metrics: Option<BackendMetrics>,
}

impl Hosts {
    /// None yet; or those of `before`, if their settings are the same. `backends` are those of the configuration.
    pub(super) fn new(
        lookup: &config::Lookup,
        backends: &[Arc<Backend>],
        metrics: &Metrics,
        before: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let template = lookup.template.and_then(|index| backends.get(index)).cloned();
        let names_hosts = !(lookup.allow.hosts.is_empty() && lookup.allow.networks.is_empty());
        let same = |before: &&Arc<Self>| {
            before.metrics.is_some() == names_hosts
                && match (&before.template, &template) {
                    (None, None) => true,
                    (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                    _ => false,
                }
        };
        if let Some(before) = before.filter(same) {
            return Arc::clone(before);
        }
        let metrics = names_hosts.then(|| metrics.backend(&format!("lookup:{}", lookup.name)));
        Arc::new(Self { known: DashMap::new(), template, metrics })
    }

    /// Links to these hosts that wait are given up.
    pub(super) fn retire(&self) {
        self.known.iter().for_each(|host| host.retire());
    }

    /// The backend that this host is.
    ///
    /// # Errors
    /// It cannot be one; why, for the log.
    pub(super) fn backend(&self, host: &Host) -> Result<Arc<Backend>, String> {
        if let Some(known) = self.known.get(host) {
            return Ok(Arc::clone(&known));
        }
        let metrics = self.metrics.as_ref().ok_or_else(|| format!("{} is not in this lookup's allow", host.name))?;
        let template = self.template.as_ref().map_or_else(config::Backend::usual, |template| template.config.clone());
        let config = host.config(&template)?;
        let problems = |findings: Vec<config::Finding>| {
            findings.into_iter().map(|finding| finding.message).collect::<Vec<_>>().join("; ")
        };
        let connector = Connector::for_backend(&config.tls).map_err(problems)?;
        let backend = Arc::new(Backend::new(config, connector, metrics.clone()));
        if self.known.len() < MOST {
            self.known.insert(host.clone(), Arc::clone(&backend));
        }
        Ok(backend)
    }
}
