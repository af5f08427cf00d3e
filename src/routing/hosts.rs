//! Hosts that only a lookup names. Each is a backend like others, with the settings of the lookup's template, and lives on,
//! so that what is known of its health does. They share the lookup's metrics: labels are bounded by the configuration.

use std::sync::Arc;

use dashmap::DashMap;

use super::lookup::Host;
use crate::backend::Backend;
use crate::config::{self, Config};
use crate::metrics::{BackendMetrics, Metrics};
use crate::tls::Connector;

/// Of more hosts than this nothing is remembered from one login to the next.
const MOST: usize = 10_000;

/// The hosts that one lookup has named.
pub(super) struct Hosts {
    known: DashMap<Host, Arc<Backend>>,
    template: config::Backend,
    metrics: BackendMetrics,
}

impl Hosts {
    pub(super) fn new(lookup: &config::Lookup, config: &Config, metrics: &Metrics) -> Self {
        let template = lookup.template.and_then(|index| config.backends.get(index));
        Self {
            known: DashMap::new(),
            template: template.cloned().unwrap_or_else(config::Backend::usual),
            metrics: metrics.backend(&format!("lookup:{}", lookup.name)),
        }
    }

    /// The backend that this host is.
    ///
    /// # Errors
    /// It cannot be one; why, for the log.
    pub(super) fn backend(&self, host: &Host) -> Result<Arc<Backend>, String> {
        if let Some(known) = self.known.get(host) {
            return Ok(Arc::clone(&known));
        }
        let config = host.config(&self.template)?;
        let problems = |findings: Vec<config::Finding>| {
            findings.into_iter().map(|finding| finding.message).collect::<Vec<_>>().join("; ")
        };
        let connector = Connector::for_backend(&config.tls).map_err(problems)?;
        let backend = Arc::new(Backend::new(config, connector, self.metrics.clone()));
        if self.known.len() < MOST {
            self.known.insert(host.clone(), Arc::clone(&backend));
        }
        Ok(backend)
    }
}
