//! The server: what lives as long as the process, put together from a checked configuration. First everything that is
//! read from files ([`Plan`]), then everything that is bound ([`Server`]), then it runs. No code of a single session here.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, timeout};
use tracing::{info, warn};

use crate::admin;
use crate::admission::Admission;
use crate::backend::Backend;
use crate::config::{self, Config, Finding, ListenerTls};
use crate::imap::{Mechanism, Secret};
use crate::limits::Limits;
use crate::link::{Dialling, Names};
use crate::listener::Bound;
use crate::metrics::{ListenerMetrics, Metrics};
use crate::origin::Origin;
use crate::outcome::Limit;
use crate::pool::{Pool, Returns};
use crate::probe::Prober;
use crate::process::Phase;
use crate::routing::Router;
use crate::secret_file;
use crate::session::{Grid, Session};
use crate::sessions::Sessions;
use crate::steer::Steering;
use crate::tls::{Acceptor, Certificates, Connector};

/// How often what limits remember is looked through for what can be forgotten.
const SWEEP: Duration = Duration::from_mins(1);
/// How long sessions that were told to end are waited for.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// Everything that the configuration asks for and that had to be read from files; nothing is bound yet.
pub struct Plan {
    config: Config,
    metrics: Arc<Metrics>,
    router: Router,
    probers: Vec<Prober>,
    acceptor: Option<Acceptor>,
    admin_token: Option<Secret>,
    self_signed: Option<String>,
    warnings: Vec<Finding>,
}

/// A server that is bound and ready to run.
pub struct Server {
    state: Arc<State>,
    doors: Vec<(Bound, Arc<Door>)>,
    probers: Vec<Prober>,
    admin: Option<(TcpListener, SocketAddr, Option<Secret>)>,
    self_signed: Option<String>,
    returns: Returns,
}

/// What all sessions share.
pub struct State {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) router: Router,
    pub(crate) limits: Arc<Limits>,
    pub(crate) admission: Arc<Admission>,
    /// There when a listener speaks TLS.
    pub(crate) acceptor: Option<Acceptor>,
    pub(crate) timeouts: config::Timeouts,
    pub(crate) dialling: Arc<Dialling>,
    pub(crate) refusals: Grid,
    /// Whether clients are asked for certificates.
    pub(crate) asks_for_certificates: bool,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) pool: Arc<Pool>,
}

/// What all sessions of one listener share.
pub struct Door {
    pub(crate) name: Arc<str>,
    pub(crate) config: config::Listener,
    pub(crate) metrics: ListenerMetrics,
    pub(crate) mechanisms: Vec<Mechanism>,
}

impl Plan {
    /// Reads certificates, keys, maps and secrets.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(config: Config) -> Result<Self, Vec<Finding>> {
        let metrics = Arc::new(Metrics::new().map_err(|error| vec![general(error.to_string())])?);
        let mut findings = Vec::new();
        let mut warnings = Vec::new();
        let mut self_signed = None;
        let acceptor = collect(&mut findings, load_acceptor(&config, &metrics, &mut warnings, &mut self_signed));
        let backends = collect(&mut findings, load_backends(&config, &metrics));
        // Without its backends, what else is wrong with the routes is found all the same.
        let backends = backends.unwrap_or_default();
        let probers = collect(&mut findings, load_probers(&backends)).unwrap_or_default();
        let router = collect(&mut findings, Router::new(&config, backends, &metrics));
        let admin_token = collect(&mut findings, load_admin_token(&config));
        match (acceptor, router, admin_token) {
            (Some(acceptor), Some(router), Some(admin_token)) if findings.is_empty() => {
                Ok(Self { config, metrics, router, probers, acceptor, admin_token, self_signed, warnings })
            }
            _ => Err(findings),
        }
    }

    /// What is worth a word but keeps nothing from running.
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// The rules, with everything loaded that they need.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Binds all listeners.
    ///
    /// # Errors
    /// Every address that cannot be bound. Must be called within a runtime.
    pub fn bind(self) -> Result<Server, Vec<Finding>> {
        let Self { config, metrics, router, probers, acceptor, admin_token, self_signed, .. } = self;
        let mut findings = Vec::new();
        let mut doors = Vec::new();
        for listener in &config.listeners {
            if let Some(bound) = collect(&mut findings, Bound::bind(listener).map_err(|finding| vec![finding])) {
                doors.push((bound, Arc::new(Door::new(listener, &metrics))));
            }
        }
        let admin = match &config.admin {
            Some(admin) => collect(&mut findings, bind_admin(admin)).map(|(tcp, at)| (tcp, at, admin_token)),
            None => None,
        };
        if !findings.is_empty() {
            return Err(findings);
        }
        let no_randomness = |_| vec![general("there is no randomness on this machine".to_owned())];
        let limits = Limits::new(&config.limits).map_err(no_randomness)?;
        let (pool, returns) = Pool::new(config.pool.clone(), router.backends()).map_err(no_randomness)?;
        let own = doors.iter().map(|(bound, _)| bound.local_addr()).collect();
        let state = State {
            router,
            limits: Arc::new(limits),
            admission: Arc::new(Admission::new(&config.limits)),
            acceptor,
            dialling: Arc::new(Dialling { names: names(&config), own }),
            refusals: Grid::new(config.timeouts.refusal_grid),
            asks_for_certificates: !matches!(config.tls.client_auth, config::ClientAuth::Off),
            sessions: Arc::default(),
            pool: Arc::new(pool),
            timeouts: config.timeouts,
            metrics,
        };
        Ok(Server { state: Arc::new(state), doors, probers, admin, self_signed, returns })
    }
}

impl Server {
    /// Reads what must be read and binds what must be bound: [`Plan::load`] and [`Plan::bind`] in one.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn build(config: Config) -> Result<Self, Vec<Finding>> {
        Plan::load(config)?.bind()
    }

    /// The listeners' names and the addresses they are bound to.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.doors.iter().map(|(bound, door)| (door.name.to_string(), bound.local_addr())).collect()
    }

    /// The admin port's address.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(_, address, _)| *address)
    }

    /// The certificate (PEM) that was made because the configuration names none.
    pub fn self_signed(&self) -> Option<&str> {
        self.self_signed.as_deref()
    }

    /// Its metrics.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.state.metrics)
    }

    /// Steers it while it runs.
    pub fn steering(&self) -> Steering {
        Steering(Arc::clone(&self.state))
    }

    /// Serves until `phase` leaves [`Phase::Running`] and the last session has ended, or until it is
    /// [`Phase::Stopped`].
    pub async fn run(self, mut phase: watch::Receiver<Phase>) {
        // Held by every listener and session, never sent on: when the last holder is gone, everybody is.
        let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
        for (bound, door) in self.doors {
            info!(listener = %door.name, address = %bound.local_addr(), "listening");
            spawn(accept(bound, Arc::clone(&self.state), door, phase.clone(), alive.clone()));
        }
        drop(alive);
        if let Some((tcp, address, token)) = self.admin {
            info!(%address, "admin port listening");
            let metrics = Arc::clone(&self.state.metrics);
            spawn(admin::serve(tcp, admin::State { metrics, phase: phase.clone(), token }));
        }
        let state = Arc::clone(&self.state);
        let sweeper = spawn(async move {
            let mut tick = interval(SWEEP);
            loop {
                tick.tick().await;
                state.limits.sweep();
                state.admission.sweep();
            }
        });
        let pool = Arc::clone(&self.state.pool);
        let connect = self.state.timeouts.backend_connect;
        let pool = spawn(pool.run(self.returns, Arc::clone(&self.state.dialling), connect));
        let probes: Vec<_> =
            self.probers.into_iter().map(|prober| spawn(prober.run(Arc::clone(&self.state.dialling)))).collect();
        let stopped = tokio::select! {
            _ = all_gone.recv() => false,
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => true,
        };
        if stopped && timeout(LAST_WAIT, all_gone.recv()).await.is_err() {
            warn!("some sessions did not end when told to; leaving them behind");
        }
        sweeper.abort();
        pool.abort();
        probes.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Door {
    fn new(config: &config::Listener, metrics: &Metrics) -> Self {
        Self {
            name: config.name.as_str().into(),
            metrics: metrics.listener(&config.name),
            mechanisms: config.mechanisms.iter().copied().map(mechanism).collect(),
            config: config.clone(),
        }
    }
}

/// Accepts on one listener, and gives each connection a session of its own.
async fn accept(
    bound: Bound,
    state: Arc<State>,
    door: Arc<Door>,
    phase: watch::Receiver<Phase>,
    alive: mpsc::Sender<Infallible>,
) {
    let metrics = Arc::clone(&state.metrics);
    let listener = Arc::clone(&door.name);
    let on_error = move |error: &std::io::Error| {
        metrics.accept_error();
        warn!(%listener, %error, "accept failed; waiting a moment");
    };
    let for_sessions = phase.clone();
    let serve = move |tcp: TcpStream, peer: SocketAddr| {
        let Ok(entry) = state.admission.enter() else {
            state.metrics.limited(Limit::Sessions);
            return;
        };
        let Ok(local) = tcp.local_addr() else { return };
        let origin = Origin::new(peer, local);
        let session = Session::new(Arc::clone(&state), Arc::clone(&door), origin, for_sessions.clone());
        let alive = alive.clone();
        spawn(async move {
            session.run(tcp, entry).await;
            drop(alive);
        });
    };
    bound.run(phase, on_error, serve).await;
}

#[expect(clippy::disallowed_methods, reason = "the one place where tasks are born")]
fn spawn<F: Future<Output = ()> + Send + 'static>(task: F) -> tokio::task::JoinHandle<()> {
    tokio::spawn(task)
}

fn collect<T>(findings: &mut Vec<Finding>, result: Result<T, Vec<Finding>>) -> Option<T> {
    result.map_err(|more| findings.extend(more)).ok()
}

fn load_acceptor(
    config: &Config,
    metrics: &Metrics,
    warnings: &mut Vec<Finding>,
    self_signed: &mut Option<String>,
) -> Result<Option<Acceptor>, Vec<Finding>> {
    if config.listeners.iter().all(|listener| listener.tls == ListenerTls::None) {
        return Ok(None);
    }
    let certificates = if config.tls.certificates.is_empty() && config.tls.directory.is_none() {
        let (certificates, pem) = Certificates::self_signed(&["localhost", "127.0.0.1", "::1"])
            .map_err(|error| vec![general(format!("cannot make a certificate: {error}"))])?;
        *self_signed = Some(pem);
        certificates
    } else {
        let (certificates, more) = Certificates::load(&config.tls)?;
        warnings.extend(more);
        certificates
    };
    for (name, not_after) in certificates.expiries() {
        metrics.certificate(name, not_after);
    }
    Acceptor::new(Arc::new(certificates), &config.tls).map(Some)
}

fn load_backends(config: &Config, metrics: &Metrics) -> Result<Vec<Arc<Backend>>, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut backends = Vec::new();
    for backend in &config.backends {
        if let Some(connector) = collect(&mut findings, Connector::for_backend(&backend.tls)) {
            backends.push(Arc::new(Backend::new(backend.clone(), connector, metrics.backend(&backend.name))));
        }
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

/// DNS, or without it what the system has.
fn names(config: &Config) -> Names {
    Names::new(&config.server.name_servers).unwrap_or_else(|why| {
        warn!(why, "the system's settings for DNS cannot be used; its library is asked instead, for each link anew");
        Names::by_the_system()
    })
}

fn bind_admin(admin: &config::Admin) -> Result<(TcpListener, SocketAddr), Vec<Finding>> {
    let address = admin.address.value;
    let bind = || {
        let tcp = std::net::TcpListener::bind(address)?;
        tcp.set_nonblocking(true)?;
        let address = tcp.local_addr()?;
        Ok((TcpListener::from_std(tcp)?, address))
    };
    bind().map_err(|error: std::io::Error| {
        let message = format!("cannot listen on {address}: {error}");
        vec![Finding { site: Some(admin.address.site.clone()), message }]
    })
}

fn load_admin_token(config: &Config) -> Result<Option<Secret>, Vec<Finding>> {
    let Some(file) = config.admin.as_ref().and_then(|admin| admin.token_file.as_ref()) else { return Ok(None) };
    secret_file::read(&file.value)
        .map(Some)
        .map_err(|why| vec![Finding { site: Some(file.site.clone()), message: why }])
}

/// A finding that has no place in the file.
fn general(message: String) -> Finding {
    Finding { site: None, message }
}

fn mechanism(configured: config::Mechanism) -> Mechanism {
    match configured {
        config::Mechanism::Plain => Mechanism::Plain,
        config::Mechanism::Login => Mechanism::Login,
        config::Mechanism::XOAuth2 => Mechanism::XOAuth2,
        config::Mechanism::OAuthBearer => Mechanism::OAuthBearer,
        config::Mechanism::ScramSha1 => Mechanism::ScramSha1,
        config::Mechanism::ScramSha256 => Mechanism::ScramSha256,
    }
}
