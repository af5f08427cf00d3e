//! A server while it runs: its tasks, and the orders it carries out. A reload reads and binds all that is new before anything
//! changes, and then puts it in place without a moment in between; what fails has changed nothing. Not here: where orders come
//! from (`steer/`), phases (`conduct.rs`).

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{interval, sleep, timeout};
use tracing::{info, warn};

use super::admin_doors::{AdminDoors, AdminPlace};
use super::doors::Doors;
use super::plan::{self, Plan};
use super::{Order, Server, State, a_fault, collect, general, names, spawn};
use crate::config::{Config, Finding};
use crate::history::BackendSample;
use crate::probe::Prober;
use crate::process::{MEMORY_LOOKS, Phase, Role};
use crate::routing::Router;
use crate::steer::Steering;
use crate::tls::{Stamp, Watch};

/// How often what limits remember is looked through for what can be forgotten.
const SWEEP: Duration = Duration::from_mins(1);
/// How long sessions that were told to end are waited for.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// A server while it runs.
pub(super) struct Running {
    current: watch::Sender<Arc<State>>,
    routing: watch::Sender<Arc<Router>>,
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
    /// Runs until everybody has gone, or everything is to stop.
    pub(super) async fn run(server: Server, phase: watch::Receiver<Phase>) {
        let steering = server.steering();
        let Server { current, routing, orders: (_, mut orders), doors, admin, probers, returns, .. } = server;
        // Held by every listener and session, never sent on: when the last holder is gone, everybody is.
        let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
        let state = Arc::clone(&current.borrow());
        let mut running = Self {
            current,
            routing,
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
        let level = spawn(watch_log_level(running.current.subscribe()));
        let history = spawn(keep_history(running.current.subscribe()));
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
            running.current.borrow().sessions.stop();
            running.alive = None;
            running.doors.close();
            if timeout(LAST_WAIT, all_gone.recv()).await.is_err() {
                warn!("some sessions did not end when told to; leaving them behind");
            }
        }
        [sweeper, watch, memory, level, history, pool].iter().for_each(JoinHandle::abort);
        running.admin.leave();
        for (_, probe) in running.probes {
            probe.abort();
        }
    }

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
        self.routing.send_replace(Arc::clone(&state.router));
        self.doors.adopt(fitted, &state);
        self.doors.begin(&self.phase, self.alive.as_ref());
        self.admin.adopt(admin_fitted, token, state.config.admin.as_ref());
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
    // No state is held while nothing is looked at: what a reload has replaced goes at once.
    let mut known = current.borrow().stamp;
    let mut watch = Watch::new(known);
    loop {
        let wait = current.borrow().config.tls.watch;
        let Some(wait) = wait else {
            sleep(SWEEP).await;
            continue;
        };
        sleep(wait).await;
        let state = Arc::clone(&current.borrow());
        if state.stamp != known {
            // Read meanwhile, by a reload.
            known = state.stamp;
            watch = Watch::new(known);
        }
        let Ok(stamp) = look(&state).await else { return };
        let is_used = state.acceptor.is_some();
        drop(state);
        if watch.look(stamp) && is_used {
            steering.renew_certificates().await;
        }
    }
}

async fn watch_memory(current: watch::Receiver<Arc<State>>) {
    let mut tick = interval(MEMORY_LOOKS);
    loop {
        tick.tick().await;
        let state = Arc::clone(&current.borrow());
        state.memory.look(state.admission.sessions());
    }
}

/// Puts the configured level of the log back when the time is over for which another was chosen.
async fn watch_log_level(current: watch::Receiver<Arc<State>>) {
    let Some(log) = current.borrow().log.clone() else { return };
    loop {
        log.time_is_over().await;
        let level = current.borrow().config.log.level;
        if log.end_of_time(level) {
            info!(level = level.as_str(), "the log's level is the configured one again");
        }
    }
}

async fn keep_history(current: watch::Receiver<Arc<State>>) {
    let history = Arc::clone(&current.borrow().history);
    let sample = || {
        let state = Arc::clone(&current.borrow());
        let backends = state.router.backends().iter().map(|backend| BackendSample {
            name: backend.config.name.clone(),
            sessions: backend.sessions(),
            is_up: backend.is_up(),
        });
        (state.metrics.readings(), backends.collect())
    };
    history.keep(sample).await;
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
