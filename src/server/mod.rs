//! The server: what lives as long as the process, put together from a checked configuration. First everything that is
//! read from files (`plan.rs`), then everything that is bound (`doors.rs`), then it runs; and while it runs, another
//! configuration may take the place of the one it has, all at once. No code of a single session here.

mod admin_doors;
mod doors;
mod plan;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{interval, sleep, timeout};
use tracing::warn;

use crate::admission::Admission;
use crate::config::{self, Config, Finding};
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
use crate::tls::{Acceptor, Stamp, Watch};

use admin_doors::{AdminDoors, AdminPlace, AdminSocket};
pub use doors::Door;
use doors::Doors;
pub use plan::Plan;

/// How often what limits remember is looked through for what can be forgotten.
const SWEEP: Duration = Duration::from_mins(1);
/// How long sessions that were told to end are waited for.
const LAST_WAIT: Duration = Duration::from_secs(3);
/// Orders that wait for the one that is carried out.
const ORDERS: usize = 64;

/// A server that is bound and ready to run.
pub struct Server {
    current: watch::Sender<Arc<State>>,
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
}

/// Whom to tell what came of an order.
pub(crate) type Answer = oneshot::Sender<Result<Vec<Finding>, Vec<Finding>>>;

impl Plan {
    /// Binds all listeners, where they are not there already.
    ///
    /// # Errors
    /// Every address that cannot be bound. Must be called within a runtime.
    pub fn bind(self, surroundings: Surroundings) -> Result<Server, Vec<Finding>> {
        let Surroundings { sockets, log, confinement } = surroundings;
        let (inherited, inherited_by_admin) = sorted(sockets)
            .map_err(|error| vec![general(format!("a socket that was handed over cannot be used: {error}"))])?;
        let no_randomness = |_| vec![general("there is no randomness on this machine".to_owned())];
        let mut findings = Vec::new();
        let mut doors = Doors::inheriting(inherited);
        let fitted = collect(&mut findings, doors.fit(&self.config.listeners));
        let mut admin = AdminDoors::inheriting(inherited_by_admin);
        let admin_fitted = collect(&mut findings, admin.fit(self.config.admin.as_ref()));
        let (Some(fitted), Some(admin_fitted)) = (fitted, admin_fitted) else { return Err(findings) };
        let (pool, returns) = Pool::new(self.config.pool.clone()).map_err(no_randomness)?;
        let state = State {
            router: Arc::new(self.router),
            limits: Arc::new(Limits::new(&self.config.limits).map_err(no_randomness)?),
            admission: Arc::new(Admission::new(&self.config.limits)),
            acceptor: self.acceptor,
            stamp: self.stamp,
            refusals: Grid::new(self.config.timeouts.refusal_grid),
            metrics: self.metrics,
            dialling: Arc::new(Dialling::new(names(&self.config), Vec::new())),
            sessions: Arc::default(),
            pool: Arc::new(pool),
            memory: Arc::new(MemoryWatch::new(self.config.limits.memory)),
            log,
            confinement: confinement.map(Arc::new),
            config: self.config,
        };
        let state = Arc::new(state);
        doors.adopt(fitted, &state);
        admin.adopt(admin_fitted, self.admin_token);
        state.settle(&doors);
        let current = watch::channel(state).0;
        let (probers, self_signed) = (self.probers, self.self_signed);
        Ok(Server { current, orders: mpsc::channel(ORDERS), doors, admin, probers, self_signed, returns })
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
            log.set_level(self.config.log.level);
        }
        self.tell_metrics();
        self.metrics.life().configured();
    }

    /// Shows what the configuration names, and nothing else.
    fn tell_metrics(&self) {
        let lookups = self.config.lookups.iter().map(|lookup| format!("lookup:{}", lookup.name)).collect::<Vec<_>>();
        let backends = self.config.backends.iter().map(|backend| backend.name.as_str());
        self.metrics.only_backends(backends.chain(lookups.iter().map(String::as_str)));
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
        let steering = self.steering();
        let Self { current, orders: (_, mut orders), doors, admin, probers, returns, .. } = self;
        // Held by every listener and session, never sent on: when the last holder is gone, everybody is.
        let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
        let state = Arc::clone(&current.borrow());
        let mut running = Running {
            current,
            doors,
            admin,
            probes: Vec::new(),
            phase: phase.clone(),
            alive: Some(alive),
            steering,
            warnings: Vec::new(),
        };
        running.doors.begin(&phase, running.alive.as_ref());
        running.admin.begin(&phase, &state.metrics, &running.steering);
        running.probe(probers);
        let sweeper = spawn(sweep(running.current.subscribe()));
        let watch = spawn(watch_certificates(running.current.subscribe(), running.steering.clone()));
        let memory = spawn(watch_memory(running.current.subscribe()));
        let pool = spawn(Arc::clone(&state.pool).run(returns, Arc::clone(&state.dialling)));
        drop(state);
        let (mut left, mut stopped) = (phase.clone(), phase);
        let was_stopped = loop {
            tokio::select! {
                () = until(&mut stopped, Phase::Stopped) => break true,
                () = until(&mut left, Phase::Succeeded), if running.alive.is_some() => {
                    running.alive = None;
                    running.doors.close();
                }
                _ = all_gone.recv(), if running.alive.is_none() => break false,
                Some(order) = orders.recv() => running.carry_out(order).await,
            }
        };
        if was_stopped {
            running.alive = None;
            running.doors.close();
            if timeout(LAST_WAIT, all_gone.recv()).await.is_err() {
                warn!("some sessions did not end when told to; leaving them behind");
            }
        }
        [sweeper, watch, memory, pool].iter().for_each(JoinHandle::abort);
        for (_, probe) in running.probes {
            probe.abort();
        }
    }
}

/// A server while it runs.
struct Running {
    current: watch::Sender<Arc<State>>,
    doors: Doors,
    admin: AdminDoors,
    probes: Vec<(Arc<Prober>, JoinHandle<()>)>,
    phase: watch::Receiver<Phase>,
    /// There while connections are accepted.
    alive: Option<mpsc::Sender<Infallible>>,
    steering: Steering,
    /// What was worth a word when everything was read last.
    warnings: Vec<Finding>,
}

impl Running {
    async fn carry_out(&mut self, order: Order) {
        let mut phase = self.phase.clone();
        let (answer, order) = match order {
            Order::Adopt(config, answer) => (answer, Some(config)),
            Order::Certificates(answer) => (answer, None),
            Order::Share(answer) => {
                // Whoever gave the order may have gone away.
                let _ = answer.send(self.share());
                return;
            }
            Order::Close => {
                self.doors.close();
                self.admin.close();
                return;
            }
        };
        let carried_out = async {
            match order {
                Some(config) => self.adopt(*config).await,
                None => self.renew_certificates().await,
            }
        };
        let outcome = tokio::select! {
            outcome = carried_out => outcome,
            () = until(&mut phase, Phase::Stopped) => Err(vec![general("mailmux has been stopped".to_owned())]),
        };
        // Whoever gave the order may have gone away.
        let _ = answer.send(outcome);
    }

    fn share(&self) -> io::Result<Vec<(Role, OwnedFd)>> {
        let listeners = self.doors.share()?.into_iter();
        let listeners = listeners.map(|(address, socket)| (Role::Listener(address), socket.into()));
        let admin = self.admin.share()?.into_iter().map(|(place, socket)| match (place, socket) {
            (AdminPlace::Address(address), socket) => (Role::AdminAddress(address), socket.into()),
            (AdminPlace::Path(path), socket) => (Role::AdminPath(path), socket.into()),
        });
        Ok(listeners.chain(admin).collect())
    }

    /// Reads everything, binds what is new, and then puts it all in place without a moment in between. Sessions keep what
    /// they began with.
    async fn adopt(&mut self, config: Config) -> Result<Vec<Finding>, Vec<Finding>> {
        let before = Arc::clone(&self.current.borrow());
        if let Some(confinement) = &before.confinement {
            let closed = confinement.refuses(&config);
            if !closed.is_empty() {
                return Err(closed);
            }
        }
        let state = Arc::clone(&before);
        // A million lines or thousands of certificates take a while.
        let read = spawn_blocking(move || Plan::after(config, &state)).await;
        let outcome = read.unwrap_or_else(|_| Err(vec![a_fault()]));
        let adopted = outcome.and_then(|plan| self.put_in_place(plan, &before));
        if adopted.is_err() {
            // Of what would have come nothing is shown.
            before.tell_metrics();
        }
        adopted
    }

    fn put_in_place(&mut self, plan: Plan, before: &Arc<State>) -> Result<Vec<Finding>, Vec<Finding>> {
        if *self.phase.borrow() != Phase::Running {
            return Err(vec![general("mailmux is stopping".to_owned())]);
        }
        let mut plan = plan;
        let mut findings = Vec::new();
        let fitted = collect(&mut findings, self.doors.fit(&plan.config.listeners));
        let admin_fitted = collect(&mut findings, self.admin.fit(plan.config.admin.as_ref()));
        let (Some(fitted), Some(admin_fitted)) = (fitted, admin_fitted) else { return Err(findings) };
        // From here on nothing can fail.
        let warnings = std::mem::take(&mut plan.warnings);
        let (probers, token) = (std::mem::take(&mut plan.probers), plan.admin_token.take());
        if plan.config.server.name_servers != before.config.server.name_servers {
            before.dialling.ask(names(&plan.config));
        }
        let state = Arc::new(before.renewed(plan));
        self.current.send_replace(Arc::clone(&state));
        self.doors.adopt(fitted, &state);
        self.doors.begin(&self.phase, self.alive.as_ref());
        self.admin.adopt(admin_fitted, token);
        self.admin.begin(&self.phase, &state.metrics, &self.steering);
        state.settle(&self.doors);
        before.router.retire(&state.router);
        self.probe(probers);
        self.warnings.clone_from(&warnings);
        Ok(warnings)
    }

    /// Certificates alone, with all else as it is.
    async fn renew_certificates(&mut self) -> Result<Vec<Finding>, Vec<Finding>> {
        let before = Arc::clone(&self.current.borrow());
        let state = Arc::clone(&before);
        let read = spawn_blocking(move || {
            let mut warnings = Vec::new();
            let stamp = Stamp::of(&state.config.tls);
            let acceptor = plan::load_acceptor(&state.config, Some(&state), &mut warnings, &mut None)?;
            Ok((acceptor, stamp, warnings))
        });
        let (acceptor, stamp, warnings) = read.await.unwrap_or_else(|_| Err(vec![a_fault()]))?;
        let state = Arc::new(State { acceptor, stamp, ..(*before).clone() });
        self.current.send_replace(Arc::clone(&state));
        self.doors.renew(&state);
        state.tell_metrics();
        // What was said before is not said at each renewal again.
        let new = warnings.iter().filter(|warning| !self.warnings.contains(warning)).cloned().collect();
        self.warnings = warnings;
        Ok(new)
    }

    /// Has these backends probed from now on, and no others. Who is probed already goes on.
    fn probe(&mut self, probers: Vec<Prober>) {
        let mut old = std::mem::take(&mut self.probes);
        for prober in probers {
            let kept = old.iter().position(|(running, _)| **running == prober);
            self.probes.push(if let Some(at) = kept {
                old.swap_remove(at)
            } else {
                let prober = Arc::new(prober);
                let dialling = Arc::clone(&self.current.borrow().dialling);
                let task = spawn(Arc::clone(&prober).run(dialling));
                (prober, task)
            });
        }
        for (_, probe) in old {
            probe.abort();
        }
    }
}

/// Waits until it has come so far at least.
async fn until(phase: &mut watch::Receiver<Phase>, far: Phase) {
    // An error: nobody is left who could say so; then nothing goes on either.
    let _ = phase.wait_for(|phase| *phase >= far).await;
}

/// Looks at the certificates' files now and then, and has them read when they have changed.
async fn watch_certificates(current: watch::Receiver<Arc<State>>, steering: Steering) {
    let look = |state: &Arc<State>| {
        let state = Arc::clone(state);
        spawn_blocking(move || Stamp::of(&state.config.tls))
    };
    let mut state = Arc::clone(&current.borrow());
    let mut watch = Watch::new(state.stamp);
    loop {
        let Some(wait) = state.config.tls.watch else {
            sleep(SWEEP).await;
            state = Arc::clone(&current.borrow());
            continue;
        };
        sleep(wait).await;
        let now = Arc::clone(&current.borrow());
        if now.stamp != state.stamp {
            // Read meanwhile, by a reload.
            watch = Watch::new(now.stamp);
        }
        state = now;
        let Ok(stamp) = look(&state).await else { return };
        if watch.look(stamp) && state.acceptor.is_some() {
            steering.renew_certificates().await;
        }
    }
}

async fn watch_memory(current: watch::Receiver<Arc<State>>) {
    let mut second = interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        let memory = Arc::clone(&current.borrow().memory);
        memory.look();
    }
}

async fn sweep(current: watch::Receiver<Arc<State>>) {
    let mut tick = interval(SWEEP);
    loop {
        tick.tick().await;
        let state = Arc::clone(&current.borrow());
        state.limits.sweep();
        state.admission.sweep();
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
