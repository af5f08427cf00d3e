//! The listeners of a running server: each has a task that accepts, and gives every connection a session with the
//! configuration of that moment. A reload keeps the sockets of addresses that stay, opens those that are new before anything
//! changes, and closes those that are gone. Not here: what a session does.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::State;
use super::workers::{Worker, Workers};
use crate::config::{self, Finding};
use crate::imap::Mechanism;
use crate::listener::{Bound, Inherited};
use crate::metrics::{ListenerMetrics, Metrics};
use crate::origin::Origin;
use crate::outcome::Limit;
use crate::process::Phase;
use crate::session::Session;

/// What all sessions of one listener share.
pub struct Door {
    pub(crate) name: Arc<str>,
    pub(crate) config: config::Listener,
    pub(crate) metrics: ListenerMetrics,
    pub(crate) mechanisms: Vec<Mechanism>,
}

/// All listeners.
pub(super) struct Doors {
    open: Vec<OpenDoor>,
    inherited: Inherited,
    workers: Workers,
}

struct OpenDoor {
    /// As the configuration has it.
    written: SocketAddr,
    address: SocketAddr,
    /// What the next connection gets. Dropping it closes the door.
    front: watch::Sender<Front>,
    /// The same socket once more, for who comes after this process.
    spare: TcpListener,
    /// Nobody accepts here yet.
    bound: Option<Bound>,
}

#[derive(Clone)]
struct Front {
    state: Arc<State>,
    door: Arc<Door>,
}

/// How the listeners of a configuration are to be had: each by its settings and where its socket comes from.
pub(super) struct Fitted(Vec<(config::Listener, Socket)>);

enum Socket {
    /// It is open already.
    Open(SocketAddr),
    New(Bound, TcpListener),
}

impl Doors {
    /// Doors that take these sockets before they open any.
    pub(super) fn inheriting(inherited: Inherited, workers: Workers) -> Self {
        Self { open: Vec::new(), inherited, workers }
    }

    /// Opens the sockets that are not open yet. Nothing else changes until [`Doors::adopt`]; what is returned may be dropped.
    ///
    /// # Errors
    /// Every address that cannot be listened on.
    pub(super) fn fit(&mut self, listeners: &[config::Listener]) -> Result<Fitted, Vec<Finding>> {
        let mut free: Vec<&OpenDoor> = self.open.iter().collect();
        let mut findings = Vec::new();
        let mut fitted = Vec::new();
        for listener in listeners {
            let written = listener.address.value;
            // Of several whose ports the kernel has chosen, the one of this name.
            let is_it = |door: &&OpenDoor| {
                door.written == written && (written.port() != 0 || *door.front.borrow().door.name == *listener.name)
            };
            if let Some(at) = free.iter().position(is_it) {
                fitted.push((listener.clone(), Socket::Open(free.swap_remove(at).address)));
                continue;
            }
            match Bound::bind(listener, &mut self.inherited).and_then(|bound| Ok((bound.share()?, bound))) {
                Ok((spare, bound)) => fitted.push((listener.clone(), Socket::New(bound, spare))),
                Err(mut finding) => {
                    let in_the_way = self.open.iter().find(|door| door.address.port() == written.port());
                    if let Some(door) = in_the_way {
                        finding.message = format!(
                            "cannot listen on {written} while the listener \"{}\" is on {}\n\
                             expected two reloads: one without either, one with the new one",
                            door.front.borrow().door.name,
                            door.address
                        );
                    }
                    findings.push(finding);
                }
            }
        }
        if findings.is_empty() { Ok(Fitted(fitted)) } else { Err(findings) }
    }

    /// These are the listeners from now on: all that are not among them are closed.
    pub(super) fn adopt(&mut self, fitted: Fitted, state: &Arc<State>) {
        let mut before = std::mem::take(&mut self.open);
        for (listener, socket) in fitted.0 {
            let door = Arc::new(Door::new(&listener, &state.metrics));
            let front = Front { state: Arc::clone(state), door };
            match socket {
                Socket::Open(address) => {
                    let at = before.iter().position(|open| open.address == address);
                    if let Some(open) = at.map(|at| before.swap_remove(at)) {
                        open.front.send_replace(front);
                        self.open.push(open);
                    }
                }
                Socket::New(bound, spare) => self.open.push(OpenDoor {
                    written: listener.address.value,
                    address: bound.local_addr(),
                    front: watch::channel(front).0,
                    spare,
                    bound: Some(bound),
                }),
            }
        }
        for gone in before {
            info!(listener = %gone.front.borrow().door.name, address = %gone.address, "not listening any more");
        }
    }

    /// Another configuration for all of them, with the same listeners.
    pub(super) fn renew(&self, state: &Arc<State>) {
        for open in &self.open {
            open.front.send_modify(|front| front.state = Arc::clone(state));
        }
    }

    /// Accepts at those where nobody does yet, while there is `alive`, of which every connection holds one.
    pub(super) fn begin(&mut self, phase: &watch::Receiver<Phase>, alive: Option<&mpsc::Sender<Infallible>>) {
        for open in &mut self.open {
            if let (Some(bound), Some(alive)) = (open.bound.take(), alive) {
                info!(listener = %open.front.borrow().door.name, address = %open.address, "listening");
                let (first, others) = self.workers.acceptors();
                let accepting = |worker: &Arc<Worker>, bound| {
                    let here = (self.workers.clone(), Arc::clone(worker));
                    worker.spawn(accept(here, bound, open.front.subscribe(), phase.clone(), alive.clone()));
                };
                for worker in others {
                    match bound.also() {
                        Ok(bound) => accepting(worker, bound),
                        // The others accept what this one does not.
                        Err(finding) => warn!("{}", finding.message),
                    }
                }
                accepting(first, bound);
            }
        }
        // Where a configuration has no use for a socket, nobody waits behind it in vain.
        for address in self.inherited.close() {
            warn!(%address, "a socket was handed over for which there is no listener; it is closed");
        }
    }

    /// Closes all of them.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }

    /// The same sockets once more, and as the configuration has their addresses.
    pub(super) fn share(&self) -> std::io::Result<Vec<(SocketAddr, TcpListener)>> {
        self.open.iter().map(|open| Ok((open.written, open.spare.try_clone()?))).collect()
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|open| open.address).collect()
    }

    pub(super) fn names_and_addresses(&self) -> Vec<(String, SocketAddr)> {
        self.open.iter().map(|open| (open.front.borrow().door.name.to_string(), open.address)).collect()
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
    (workers, worker): (Workers, Arc<Worker>),
    bound: Bound,
    fronts: watch::Receiver<Front>,
    phase: watch::Receiver<Phase>,
    alive: mpsc::Sender<Infallible>,
) {
    let on_error = |error: &std::io::Error| {
        let front = fronts.borrow();
        front.state.metrics.accept_error();
        warn!(listener = %front.door.name, %error, "accept failed; waiting a moment");
    };
    let serve = |tcp: TcpStream, peer: SocketAddr| {
        let Front { state, door } = fronts.borrow().clone();
        if !state.memory.admits(state.admission.sessions()) {
            state.metrics.limited(Limit::Memory);
            return;
        }
        let Ok(entry) = state.admission.enter() else {
            state.metrics.limited(Limit::Sessions);
            return;
        };
        let Ok(local) = tcp.local_addr() else { return };
        let origin = Origin::new(peer, local);
        let (phase, alive) = (phase.clone(), alive.clone());
        workers.seat(&worker).take(&worker, tcp, move |tcp, seat| {
            Session::new(state, door, origin, phase).run(tcp, entry, (seat, alive))
        });
    };
    let mut closed = fronts.clone();
    tokio::select! {
        () = bound.run(phase.clone(), on_error, serve) => {}
        // An error: the door is gone. Connections that are taken are sessions of their own by now.
        _ = closed.wait_for(|_| false) => {}
    }
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
