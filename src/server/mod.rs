//! The server: what lives as long as the process, put together from a checked configuration. First everything that is
//! read from files (`plan.rs`), then everything that is bound (`doors.rs`, `admin_doors.rs`), then it runs (`running.rs`); and
//! while it runs, another configuration may take the place of the one it has, all at once. No code of a single session here.

mod admin_doors;
mod doors;
mod plan;
mod running;
mod workers;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::admission::Admission;
use crate::config::{self, Config, Finding};
use crate::history::History;
use crate::limits::Limits;
use crate::link::{Dialling, Names};
use crate::listener::Inherited;
use crate::metrics::Metrics;
use crate::pool::{Pool, Returns};
use crate::probe::Prober;
use crate::process::{Confinement, LogHandle, MemoryWatch, Phase, Role};
use crate::routing::Router;
use crate::session::Grid;
use crate::sessions::Sessions;
use crate::steer::Steering;
use crate::tls::{Acceptor, Stamp};
use crate::trace::Traces;

use admin_doors::{AdminDoors, AdminPlace, AdminSocket};
pub use doors::Door;
use doors::Doors;
pub use plan::Plan;
use running::Running;
pub use workers::{Threads, Workers};

/// Orders that wait for the one that is carried out.
const ORDERS: usize = 64;

/// A server that is bound and ready to run.
pub struct Server {
    current: watch::Sender<Arc<State>>,
    routing: watch::Sender<Arc<Router>>,
    orders: (mpsc::Sender<Order>, mpsc::Receiver<Order>),
    doors: Doors,
    admin: AdminDoors,
    probers: Vec<Prober>,
    self_signed: Option<String>,
    returns: Returns,
}

/// All that a session needs, from its beginning to its end: one configuration, and what lives longer than one.
#[derive(Clone)]
pub struct State {
    pub(crate) config: Config,
    pub(crate) router: Arc<Router>,
    /// The router of now: whoever logs in goes where the rules of that moment say, whenever it has connected.
    pub(crate) routing: watch::Receiver<Arc<Router>>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) admission: Arc<Admission>,
    /// There when a listener speaks TLS.
    pub(crate) acceptor: Option<Arc<Acceptor>>,
    /// How the files of certificates were just before they were read.
    stamp: Stamp,
    pub(crate) refusals: Grid,
    // The same for all configurations.
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) dialling: Arc<Dialling>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) traces: Arc<Traces>,
    pub(crate) history: Arc<History>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) memory: Arc<MemoryWatch>,
    pub(crate) log: Option<LogHandle>,
    pub(crate) confinement: Option<Arc<Confinement>>,
}

/// What a running server can be told to do to itself.
pub(crate) enum Order {
    /// To put this configuration in the place of the one it has. The answer is what is worth a word, or everything that is
    /// wrong, and then nothing has changed.
    Adopt(Box<Config>, Answer),
    /// To read the certificates anew.
    Certificates(Answer),
    /// To give all listening sockets once more, for who comes after this process.
    Share(oneshot::Sender<io::Result<Vec<(Role, OwnedFd)>>>),
    /// To close them here: somebody else accepts.
    Close,
}

/// Where a server finds itself.
#[derive(Default)]
pub struct Surroundings {
    /// Sockets that are open already.
    pub sockets: Vec<(Option<Role>, OwnedFd)>,
    /// The log, whose level a reload may change.
    pub log: Option<LogHandle>,
    /// What the process may open, which a reload must keep to.
    pub confinement: Option<Confinement>,
    /// On which threads sessions live; `None`: where the server does.
    pub workers: Option<Workers>,
}

/// Whom to tell what came of an order.
pub(crate) type Answer = oneshot::Sender<Result<Vec<Finding>, Vec<Finding>>>;

impl Plan {
    /// Binds all listeners, where they are not there already.
    ///
    /// # Errors
    /// Every address that cannot be bound. Must be called within a runtime.
    pub fn bind(self, surroundings: Surroundings) -> Result<Server, Vec<Finding>> {
        let Surroundings { sockets, log, confinement, workers } = surroundings;
        let (inherited, inherited_by_admin) = sorted(sockets)
            .map_err(|error| vec![general(format!("a socket that was handed over cannot be used: {error}"))])?;
        let no_randomness = |_| vec![general("there is no randomness on this machine".to_owned())];
        let mut findings = Vec::new();
        let mut doors = Doors::inheriting(inherited, workers.unwrap_or_else(Workers::here));
        let fitted = collect(&mut findings, doors.fit(&self.config.listeners));
        let mut admin = AdminDoors::inheriting(inherited_by_admin);
        let admin_fitted = collect(&mut findings, admin.fit(self.config.admin.as_ref()));
        let (Some(fitted), Some(admin_fitted)) = (fitted, admin_fitted) else { return Err(findings) };
        let (pool, returns) = Pool::new(self.config.pool.clone()).map_err(no_randomness)?;
        let router = Arc::new(self.router);
        let routing = watch::channel(Arc::clone(&router)).0;
        let state = State {
            router,
            routing: routing.subscribe(),
            limits: Arc::new(Limits::new(&self.config.limits).map_err(no_randomness)?),
            admission: Arc::new(Admission::new(&self.config.limits)),
            acceptor: self.acceptor,
            stamp: self.stamp,
            refusals: Grid::new(self.config.timeouts.refusal_grid),
            metrics: self.metrics,
            dialling: Arc::new(Dialling::new(names(&self.config), Vec::new())),
            sessions: Arc::default(),
            traces: Arc::default(),
            history: Arc::default(),
            pool: Arc::new(pool),
            memory: Arc::new(MemoryWatch::new(self.config.limits.memory)),
            log,
            confinement: confinement.map(Arc::new),
            config: self.config,
        };
        let state = Arc::new(state);
        doors.adopt(fitted, &state);
        admin.adopt(admin_fitted, self.admin_token, state.config.admin.as_ref());
        state.settle(&doors);
        let current = watch::channel(state).0;
        let (probers, self_signed) = (self.probers, self.self_signed);
        Ok(Server { current, routing, orders: mpsc::channel(ORDERS), doors, admin, probers, self_signed, returns })
    }
}

impl State {
    /// Whether clients are asked for certificates.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        !matches!(self.config.tls.client_auth, config::ClientAuth::Off)
    }

    /// What follows in rooms that live longer than a configuration.
    fn settle(&self, doors: &Doors) {
        self.dialling.avoid(doors.addresses());
        for backend in self.router.backends() {
            backend.take_over();
        }
        self.pool.adopt(self.config.pool.clone(), self.config.timeouts.backend_connect, self.router.backends());
        if let Some(log) = &self.log {
            log.set_level(self.config.log.level, None);
        }
        self.tell_metrics();
        self.metrics.life().configured();
    }

    /// Shows what the configuration names, and nothing else.
    fn tell_metrics(&self) {
        let lookups = self.config.lookups.iter().map(|lookup| format!("lookup:{}", lookup.name)).collect::<Vec<_>>();
        let backends = self.config.backends.iter().map(|backend| backend.name.as_str());
        self.metrics.only_backends(backends.chain(lookups.iter().map(String::as_str)));
        self.metrics.only_lookups(self.config.lookups.iter().map(|lookup| lookup.name.as_str()));
        self.metrics.only_listeners(self.config.listeners.iter().map(|listener| listener.name.as_str()));
        self.metrics.certificates(self.acceptor.iter().flat_map(|acceptor| acceptor.certificates().expiries()));
    }

    /// With another configuration.
    fn renewed(&self, plan: Plan) -> Self {
        let Plan { config, router, acceptor, stamp, .. } = plan;
        Self {
            router: Arc::new(router),
            limits: Arc::new(self.limits.renewed(&config.limits)),
            admission: Arc::new(self.admission.renewed(&config.limits)),
            acceptor,
            stamp,
            refusals: self.refusals.renewed(config.timeouts.refusal_grid),
            memory: if config.limits.memory == self.config.limits.memory {
                Arc::clone(&self.memory)
            } else {
                Arc::new(MemoryWatch::new(config.limits.memory))
            },
            config,
            ..self.clone()
        }
    }
}

impl Server {
    /// Reads what must be read and binds what must be bound: [`Plan::load`] and [`Plan::bind`] in one.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn build(config: Config) -> Result<Self, Vec<Finding>> {
        Plan::load(config)?.bind(Surroundings::default())
    }

    /// The listeners' names and the addresses they are bound to.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.doors.names_and_addresses()
    }

    /// The admin port's address.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.address()
    }

    /// The certificate (PEM) that was made because the configuration names none.
    pub fn self_signed(&self) -> Option<&str> {
        self.self_signed.as_deref()
    }

    /// Steers it while it runs.
    pub fn steering(&self) -> Steering {
        Steering::new(self.current.subscribe(), self.orders.0.clone())
    }

    /// Serves until `phase` leaves [`Phase::Running`] and the last session has ended, or until it is
    /// [`Phase::Stopped`].
    pub async fn run(self, phase: watch::Receiver<Phase>) {
        Running::run(self, phase).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where tasks are born")]
fn spawn<F: Future<Output = ()> + Send + 'static>(task: F) -> JoinHandle<()> {
    tokio::spawn(task)
}

/// Sockets that are there already, by whom they are for. Those of systemd tell by their address alone.
fn sorted(sockets: Vec<(Option<Role>, OwnedFd)>) -> io::Result<(Inherited, Vec<(AdminPlace, AdminSocket)>)> {
    let (mut doors, mut admin) = (Inherited::default(), Vec::new());
    for (role, socket) in sockets {
        match role {
            None => doors.add(None, TcpListener::from(socket))?,
            Some(Role::Listener(address)) => doors.add(Some(address), TcpListener::from(socket))?,
            Some(Role::AdminAddress(address)) => {
                admin.push((AdminPlace::Address(address), AdminSocket::Tcp(TcpListener::from(socket))));
            }
            Some(Role::AdminPath(path)) => {
                admin.push((AdminPlace::Path(path), AdminSocket::Unix(UnixListener::from(socket))));
            }
            Some(Role::Elder) => {}
        }
    }
    Ok((doors, admin))
}

fn collect<T>(findings: &mut Vec<Finding>, result: Result<T, Vec<Finding>>) -> Option<T> {
    result.map_err(|more| findings.extend(more)).ok()
}

/// DNS, or without it what the system has.
fn names(config: &Config) -> Names {
    Names::new(&config.server.name_servers).unwrap_or_else(|why| {
        warn!(why, "the system's settings for DNS cannot be used; its library is asked instead, for each link anew");
        Names::by_the_system()
    })
}

fn a_fault() -> Finding {
    general("reading failed: a fault of mailmux itself".to_owned())
}

/// A finding that has no place in the file.
fn general(message: String) -> Finding {
    Finding { site: None, message }
}
