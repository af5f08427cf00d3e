//! Everything that a configuration asks for and that is read from files: certificates, maps, secrets. A plan is made in full
//! before anything of it counts, so that a reload that fails has changed nothing; what has not changed since the
//! configuration before is taken over from there, with what is known of it. Not here: sockets, tasks.

use std::sync::Arc;

use super::{State, collect, general};
use crate::backend::Backend;
use crate::config::{Config, Finding, ListenerTls};
use crate::imap::Secret;
use crate::metrics::Metrics;
use crate::probe::Prober;
use crate::routing::Router;
use crate::secret_file;
use crate::tls::{Acceptor, Certificates, Connector, Stamp};

/// What was read; nothing is bound and nothing runs yet.
pub struct Plan {
    pub(super) config: Config,
    pub(super) metrics: Arc<Metrics>,
    pub(super) router: Router,
    pub(super) probers: Vec<Prober>,
    /// There when a listener speaks TLS.
    pub(super) acceptor: Option<Arc<Acceptor>>,
    /// How its files were just before they were read.
    pub(super) stamp: Stamp,
    pub(super) admin_token: Option<Arc<Secret>>,
    pub(super) self_signed: Option<String>,
    pub(super) warnings: Vec<Finding>,
}

impl Plan {
    /// Reads certificates, keys, maps and secrets.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(config: Config) -> Result<Self, Vec<Finding>> {
        let metrics = Arc::new(Metrics::new().map_err(|error| vec![general(error.to_string())])?);
        Self::read(config, metrics, None)
    }

    /// The same for a server that runs already.
    ///
    /// # Errors
    /// As for [`Plan::load`].
    pub(super) fn after(config: Config, before: &State) -> Result<Self, Vec<Finding>> {
        Self::read(config, Arc::clone(&before.metrics), Some(before))
    }

    fn read(config: Config, metrics: Arc<Metrics>, before: Option<&State>) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let mut warnings = Vec::new();
        let mut self_signed = None;
        let stamp = Stamp::of(&config.tls);
        let acceptor = load_acceptor(&config, before, &mut warnings, &mut self_signed);
        let acceptor = collect(&mut findings, acceptor);
        let backends = collect(&mut findings, load_backends(&config, &metrics, before));
        // Without its backends, what else is wrong with the routes is found all the same.
        let backends = backends.unwrap_or_default();
        let probers = collect(&mut findings, load_probers(&backends)).unwrap_or_default();
        let router = Router::new(&config, backends, &metrics, before.map(|before| &*before.router));
        let router = collect(&mut findings, router);
        let admin_token = collect(&mut findings, load_admin_token(&config));
        match (acceptor, router, admin_token) {
            (Some(acceptor), Some(router), Some(admin_token)) if findings.is_empty() => {
                let admin_token = admin_token.map(Arc::new);
                Ok(Self { config, metrics, router, probers, acceptor, stamp, admin_token, self_signed, warnings })
            }
            _ => Err(findings),
        }
    }

    /// What is worth a word but keeps nothing from running.
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// The certificates that clients meet, if they meet any.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.acceptor.as_deref().map(Acceptor::certificates)
    }

    /// The rules, with everything loaded that they need.
    pub fn router(&self) -> &Router {
        &self.router
    }
}

/// With certificates anew; `before` is looked at for what can be taken over.
pub(super) fn load_acceptor(
    config: &Config,
    before: Option<&State>,
    warnings: &mut Vec<Finding>,
    self_signed: &mut Option<String>,
) -> Result<Option<Arc<Acceptor>>, Vec<Finding>> {
    if config.listeners.iter().all(|listener| listener.tls == ListenerTls::None) {
        return Ok(None);
    }
    let before = before.and_then(|before| before.acceptor.as_deref());
    let certificates = if config.tls.certificates.is_empty() && config.tls.directory.is_none() {
        let (certificates, pem) = Certificates::self_signed(&["localhost", "127.0.0.1", "::1"])
            .map_err(|error| vec![general(format!("cannot make a certificate: {error}"))])?;
        *self_signed = Some(pem);
        certificates
    } else {
        let (certificates, more) = Certificates::load(&config.tls, before.map(Acceptor::certificates))?;
        warnings.extend(more);
        certificates
    };
    Acceptor::new(Arc::new(certificates), &config.tls, before).map(|acceptor| Some(Arc::new(acceptor)))
}

fn load_backends(
    config: &Config,
    metrics: &Metrics,
    before: Option<&State>,
) -> Result<Vec<Arc<Backend>>, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut backends = Vec::new();
    for backend in &config.backends {
        let Some(connector) = collect(&mut findings, Connector::for_backend(&backend.tls)) else { continue };
        let before = before.and_then(|before| before.router.backend(&backend.name));
        backends.push(match before {
            Some(before) if before.config == *backend && before.connects_by(connector.as_ref()) => Arc::clone(before),
            Some(before) => Arc::new(before.renewed(backend.clone(), connector)),
            None => Arc::new(Backend::new(backend.clone(), connector, metrics.backend(&backend.name))),
        });
    }
    if findings.is_empty() { Ok(backends) } else { Err(findings) }
}

/// For the backends that are to be probed.
fn load_probers(backends: &[Arc<Backend>]) -> Result<Vec<Prober>, Vec<Finding>> {
    let mut findings = Vec::new();
    let probed = backends.iter().filter(|backend| backend.config.health.interval.is_some());
    let loaded = probed.map(|backend| Prober::new(backend).map_err(|finding| vec![finding]));
    let probers = loaded.filter_map(|prober| collect(&mut findings, prober)).collect();
    if findings.is_empty() { Ok(probers) } else { Err(findings) }
}

fn load_admin_token(config: &Config) -> Result<Option<Secret>, Vec<Finding>> {
    let Some(file) = config.admin.as_ref().and_then(|admin| admin.token_file.as_ref()) else { return Ok(None) };
    secret_file::read(&file.value)
        .map(Some)
        .map_err(|why| vec![Finding { site: Some(file.site.clone()), message: why }])
}
