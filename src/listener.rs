//! Listening sockets: bind, accept, survive what goes wrong in accepting, and read the PROXY header byte-exactly. Not
//! here: whom to serve (`admission.rs`), TLS, any IMAP.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{self, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::config::{self, Finding};
use crate::process::Phase;
use crate::proxy_header::{self, Parsed, Proxied};

/// Connections the kernel holds for us when everybody reconnects at once (it takes the less of this and `somaxconn`).
const BACKLOG: i32 = 4096;
/// A dead peer is noticed long before `relay_idle`, and a NAT on the way keeps its entry.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_mins(2)).with_interval(Duration::from_secs(30)).with_retries(4);
/// How long written bytes may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_mins(5);
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// A listener whose socket is open.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddr,
    socket: TcpListener,
}

/// Sockets that somebody else has opened for us: systemd, or the process that was here before.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(SocketAddr, TcpListener)>);

impl Inherited {
    /// One more, for the listener whose address is written so. Without that, its own address is what counts.
    ///
    /// # Errors
    /// It is no socket that listens on an IP address.
    pub fn add(&mut self, written: Option<SocketAddr>, socket: TcpListener) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let address = match written {
            Some(written) => written,
            None => socket.local_addr()?,
        };
        self.0.push((address, socket));
        Ok(())
    }

    fn take(&mut self, written: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|(address, _)| *address == written)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Closes what nobody has taken, and says where it was.
    pub fn close(&mut self) -> Vec<SocketAddr> {
        self.0.drain(..).map(|(address, _)| address).collect()
    }
}

impl Bound {
    /// Opens the socket, unless one was inherited for its address; `[::]` takes IPv4 too.
    ///
    /// # Errors
    /// A finding that names the address, the reason and a remedy.
    pub fn bind(config: &config::Listener, inherited: &mut Inherited) -> Result<Self, Finding> {
        let written = config.address.value;
        let mut bind = || {
            let socket = match inherited.take(written) {
                Some(socket) => socket,
                None => open(written)?,
            };
            set_options(&socket)?;
            Ok(Self { address: socket.local_addr()?, socket })
        };
        bind().map_err(|error: io::Error| Finding {
            site: Some(config.address.site.clone()),
            message: format!("cannot listen on {written}: {error}{}", remedy(&error, written)),
        })
    }

    /// The same socket once more: it listens until all of them are closed.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn share(&self) -> Result<TcpListener, Finding> {
        let share = self.socket.try_clone();
        share.map_err(|error| Finding { site: None, message: format!("cannot share {}: {error}", self.address) })
    }

    /// One more who accepts here.
    ///
    /// # Errors
    /// As for [`Self::share`].
    pub fn also(&self) -> Result<Self, Finding> {
        Ok(Self { address: self.address, socket: self.share()? })
    }

    /// The address listened on, with the port the kernel chose if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `phase` leaves [`Phase::Running`], then closes the socket. `serve` gets each connection and the
    /// peer's address (an IPv4 one as such) and must return at once. Errors that pass by themselves are not reported;
    /// the others (out of descriptors, say) are, at most once a second, and make it wait, since trying again at once
    /// would spin.
    pub async fn run(
        self,
        phase: watch::Receiver<Phase>,
        on_error: impl Fn(&io::Error),
        serve: impl Fn(TcpStream, SocketAddr),
    ) {
        let listening = match net::TcpListener::from_std(self.socket) {
            Ok(listening) => listening,
            Err(error) => return on_error(&error),
        };
        let serve = |(tcp, peer): (TcpStream, SocketAddr)| {
            serve(tcp, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        };
        accept_all(|| listening.accept(), phase, on_error, serve).await;
    }
}

/// The loop, over anything that can be accepted.
async fn accept_all<T, F>(
    accept: impl Fn() -> F,
    mut phase: watch::Receiver<Phase>,
    on_error: impl Fn(&io::Error),
    serve: impl Fn(T),
) where
    F: Future<Output = io::Result<T>>,
{
    let mut wait = FIRST_WAIT;
    let mut reported: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut phase) => return,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok(connection) => {
                wait = FIRST_WAIT;
                serve(connection);
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                    on_error(&error);
                    reported = Some(Instant::now());
                }
                tokio::select! {
                    biased;
                    () = stopped(&mut phase) => return,
                    () = sleep(wait) => {}
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// Comes back when no more is to be accepted.
async fn stopped(phase: &mut watch::Receiver<Phase>) {
    // An error means that whoever could stop us is gone, and that is a stop too.
    let _ = phase.wait_for(|phase| *phase != Phase::Running).await;
}

/// The connection was gone before it could be accepted. The kernel has taken it off its queue, so this cannot spin.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Old connections in TIME_WAIT must not keep a restart from binding.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Once, on what listens: Linux gives what is accepted there the same options, which saves six calls for each connection.
fn set_options(listening: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listening);
    // We write whole answers; waiting for more would only add delay.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

fn remedy(error: &io::Error, address: SocketAddr) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop what listens there (`ss -ltnp` shows it) or choose another port",
        io::ErrorKind::AddrNotAvailable => "; give an address that this machine has, or [::] for all",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE (AmbientCapabilities= in a systemd unit)"
        }
        _ if address.is_ipv6() => "; if this machine has no IPv6, use 0.0.0.0 in place of [::]",
        _ => "",
    }
}

/// What came in place of a PROXY header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Something else.
    #[error("{0}")]
    Bad(&'static str),
    /// Nothing, or not all of it.
    #[error("no PROXY header: {0}")]
    Io(#[from] io::Error),
}

/// Reads a PROXY header and not one byte more, so that TLS or the dialogue begins with its own first byte. Waits as
/// long as the peer likes: put a deadline around it. What was read is lost when it is dropped.
///
/// # Errors
/// [`HeaderError`]; the connection is then to be closed without a word.
pub async fn read_proxy_header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Proxied, HeaderError> {
    let mut header = Vec::new();
    loop {
        match proxy_header::parse(&header) {
            Parsed::Done(proxied, _) => return Ok(proxied),
            Parsed::Bad(why) => return Err(HeaderError::Bad(why)),
            Parsed::Incomplete { missing } => {
                let have = header.len();
                // `parse` keeps this under its own bound of 4096 bytes.
                header.resize(have + missing, 0);
                let n = stream.read(&mut header[have..]).await?;
                if n == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                header.truncate(have + n);
            }
        }
    }
}

#[cfg(test)]
mod tests;
