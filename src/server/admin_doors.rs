//! Where the admin port of a running server listens: an address, a socket in the file system, or both. Not here: what it
//! answers.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net;
use tokio::sync::{oneshot, watch};
use tracing::info;

use super::spawn;
use crate::admin::{self, Listener};
use crate::config::{self, Finding};
use crate::imap::Secret;
use crate::metrics::Metrics;
use crate::process::Phase;
use crate::steer::Steering;

/// Operators do not come by the hundred.
const BACKLOG: i32 = 64;

/// All of them, and the token that they ask for.
pub(super) struct AdminDoors {
    open: Vec<AdminDoor>,
    token: watch::Sender<Option<Arc<Secret>>>,
    names: watch::Sender<Arc<[String]>>,
    inherited: Vec<(AdminPlace, AdminSocket)>,
}

/// Where one is, as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AdminPlace {
    /// On the network.
    Address(SocketAddr),
    /// In the file system.
    Path(PathBuf),
}

/// A socket that listens, of either kind.
#[derive(Debug)]
pub(crate) enum AdminSocket {
    /// On the network.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

struct AdminDoor {
    place: AdminPlace,
    /// The same socket once more, for who comes after this process.
    spare: AdminSocket,
    /// Nobody answers here yet.
    bound: Option<AdminSocket>,
    /// Dropping it closes the door.
    open: Option<oneshot::Sender<()>>,
}

/// The places of a configuration, with the sockets that had to be opened.
pub(super) struct Fitted(Vec<(AdminPlace, Option<(AdminSocket, AdminSocket)>)>);

impl Default for AdminDoors {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            token: watch::channel(None).0,
            names: watch::channel(Arc::default()).0,
            inherited: Vec::new(),
        }
    }
}

impl AdminDoors {
    /// Doors that take these sockets before they open any.
    pub(super) fn inheriting(inherited: Vec<(AdminPlace, AdminSocket)>) -> Self {
        Self { inherited, ..Self::default() }
    }

    /// Opens what is not open yet. Nothing else changes until [`AdminDoors::adopt`].
    ///
    /// # Errors
    /// Everything that cannot be listened on.
    pub(super) fn fit(&mut self, admin: Option<&config::Admin>) -> Result<Fitted, Vec<Finding>> {
        let mut findings = Vec::new();
        let mut fitted = Vec::new();
        let address = admin.map(|admin| (AdminPlace::Address(admin.address.value), &admin.address.site));
        let path = admin.and_then(|admin| admin.socket.as_ref());
        let path = path.map(|path| (AdminPlace::Path(path.value.clone()), &path.site));
        for (place, site) in address.into_iter().chain(path) {
            if self.open.iter().any(|door| door.place == place) {
                fitted.push((place, None));
                continue;
            }
            let inherited = self.inherited.iter().position(|(at, _)| *at == place);
            let socket = match inherited {
                Some(at) => Ok(self.inherited.swap_remove(at).1),
                None => place.open(),
            };
            match socket.and_then(|socket| Ok((socket.share()?, socket))) {
                Ok(sockets) => fitted.push((place, Some(sockets))),
                Err(error) => {
                    let message = format!("cannot listen on {place}: {error}");
                    findings.push(Finding { site: Some(site.clone()), message });
                }
            }
        }
        if findings.is_empty() { Ok(Fitted(fitted)) } else { Err(findings) }
    }

    /// These are all from now on, and this is the token, and who is asked for.
    pub(super) fn adopt(&mut self, fitted: Fitted, token: Option<Arc<Secret>>, admin: Option<&config::Admin>) {
        self.token.send_replace(token);
        self.names.send_replace(admin.map_or_else(Arc::default, |admin| admin.names.clone().into()));
        let mut before = std::mem::take(&mut self.open);
        for (place, sockets) in fitted.0 {
            if let Some((spare, bound)) = sockets {
                self.open.push(AdminDoor { place, spare, bound: Some(bound), open: None });
            } else {
                let at = before.iter().position(|door| door.place == place);
                self.open.extend(at.map(|at| before.swap_remove(at)));
            }
        }
        for gone in before {
            info!(place = %gone.place, "no admin port there any more");
            gone.place.remove();
        }
    }

    /// Answers at those where nobody does yet.
    pub(super) fn begin(&mut self, phase: &watch::Receiver<Phase>, metrics: &Arc<Metrics>, steering: &Steering) {
        for door in &mut self.open {
            let Some(listener) = door.bound.take().and_then(|bound| bound.into_listener().ok()) else { continue };
            // The port that was asked for may have been 0.
            let address = door.address().map_or_else(|| door.place.clone(), AdminPlace::Address);
            info!(%address, "admin port listening");
            let (open, closed) = oneshot::channel();
            door.open = Some(open);
            let looked_at = steering.clone();
            let state = admin::State {
                metrics: Arc::clone(metrics),
                look: admin::Look(Arc::new(move || looked_at.look())),
                phase: phase.clone(),
                token: self.token.subscribe(),
                names: self.names.subscribe(),
                api: admin::api(steering.clone()),
            };
            spawn(admin::serve(listener, state, closed));
        }
    }

    /// The end, and nobody comes after this process: sockets in the file system are of no use any more.
    pub(super) fn leave(&mut self) {
        for door in self.open.drain(..) {
            door.place.remove();
        }
    }

    /// Closes all of them; the sockets in the file system stay where they are, for who comes after.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }

    /// The same sockets once more.
    pub(super) fn share(&self) -> io::Result<Vec<(AdminPlace, AdminSocket)>> {
        self.open.iter().map(|door| Ok((door.place.clone(), door.spare.share()?))).collect()
    }

    /// The address of the one on the network.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.open.iter().find_map(AdminDoor::address)
    }
}

impl AdminDoor {
    fn address(&self) -> Option<SocketAddr> {
        match &self.spare {
            AdminSocket::Tcp(tcp) => tcp.local_addr().ok(),
            AdminSocket::Unix(_) => None,
        }
    }
}

impl AdminPlace {
    fn open(&self) -> io::Result<AdminSocket> {
        match self {
            Self::Address(address) => {
                let tcp = TcpListener::bind(address)?;
                tcp.set_nonblocking(true)?;
                Ok(AdminSocket::Tcp(tcp))
            }
            Self::Path(path) => open_path(path).map(AdminSocket::Unix),
        }
    }
}

impl AdminPlace {
    /// Takes it out of the file system, where it is in one. If it stays, that is no harm.
    fn remove(&self) {
        if let Self::Path(path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

impl std::fmt::Display for AdminPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl AdminSocket {
    fn share(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(tcp) => Self::Tcp(tcp.try_clone()?),
            Self::Unix(unix) => Self::Unix(unix.try_clone()?),
        })
    }

    fn into_listener(self) -> io::Result<Listener> {
        Ok(match self {
            Self::Tcp(tcp) => Listener::Network(net::TcpListener::from_std(tcp)?),
            Self::Unix(unix) => Listener::Local(net::UnixListener::from_std(unix)?),
        })
    }
}

impl From<AdminSocket> for OwnedFd {
    fn from(socket: AdminSocket) -> Self {
        match socket {
            AdminSocket::Tcp(tcp) => tcp.into(),
            AdminSocket::Unix(unix) => unix.into(),
        }
    }
}

/// A socket that only its owner can open, from its first moment on: Linux gives the file the mode that the socket has when it
/// is bound. It is made beside and then put in its place, so that what a process that has crashed left behind is no hindrance.
fn open_path(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers there already; is mailmux running?"));
    }
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(&beside)?)?;
    socket.listen(BACKLOG)?;
    fs::rename(&beside, path)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}
