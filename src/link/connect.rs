//! Opening a link: name, TCP, PROXY header, TLS, greeting, capabilities, ID. The only place that dials IMAP servers.
//! Not here: logging in, retries; the same step by step (`examine.rs`).

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::wire::{Answer, Aside, Keep, Wire, capabilities_in};
use super::{Caller, Dialling, Greeted, Link, LinkError, id};
use crate::backend::{Backend, Place};
use crate::config::{BackendTls, ProxyVersion};
use crate::imap::response::{self, Response, Status};
use crate::imap::{Capabilities, escape};
use crate::metrics::BackendError;
use crate::outcome::Refusal;
use crate::proxy_header;
use crate::tls::Stream;

/// A dead peer is noticed within 120 + 4 x 30 s although nobody writes, and within 5 minutes where somebody does.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBES: u32 = 4;
const USER_TIMEOUT: Duration = Duration::from_mins(5);

impl Link<Greeted> {
    /// Opens a link: TCP, PROXY header, TLS, greeting, capabilities and ID, all of it within `connect_timeout`. A backend
    /// that turns out to be one of our own listeners is refused. Without a caller mailmux speaks for itself.
    ///
    /// # Errors
    /// [`LinkError`], the connection is closed then.
    pub async fn open(
        backend: &Arc<Backend>,
        dialling: &Dialling,
        caller: Option<&Caller<'_>>,
        connect_timeout: Duration,
    ) -> Result<Self, LinkError> {
        let _connecting = backend.metrics.connecting();
        let began = Instant::now();
        let link = Self::opened(backend, dialling, caller, began + connect_timeout).await;
        match &link {
            Ok(_) => backend.metrics.connected(began.elapsed()),
            Err(_) => backend.metrics.not_connected(),
        }
        link
    }

    async fn opened(
        backend: &Arc<Backend>,
        dialling: &Dialling,
        caller: Option<&Caller<'_>>,
        deadline: Instant,
    ) -> Result<Self, LinkError> {
        let (tcp, reached) = Box::pin(dial(backend, dialling, deadline)).await?;
        // A backend that accepts and stays silent is as good as down.
        let link = timeout_at(deadline, Box::pin(set_up(tcp, backend, caller))).await;
        let link = link.unwrap_or_else(|_| Err(LinkError::down(Some(BackendError::Timeout), "no greeting in time")));
        link.map_err(|error| LinkError { detail: format!("{reached}: {}", error.detail), ..error })
    }
}

/// What happens on a fresh TCP connection.
async fn set_up(
    mut tcp: TcpStream,
    backend: &Backend,
    caller: Option<&Caller<'_>>,
) -> Result<Link<Greeted>, LinkError> {
    // Before everything else, TLS too.
    if let Some(version) = backend.config.proxy_protocol {
        let header = proxy_header(version, caller);
        tcp.write_all(&header).await.map_err(|error| LinkError::closed(format!("while sending PROXY: {error}")))?;
    }
    let mut aside = Aside::default();
    let (wire, capabilities) = match backend.config.tls {
        BackendTls::None => greeted(Stream::Plain(tcp), &mut aside).await?,
        BackendTls::Implicit(_) => greeted(encrypt(tcp, backend).await?, &mut aside).await?,
        BackendTls::StartTls(_) => {
            let tcp = start_tls(tcp).await?;
            // A new wire, and nothing of what was said in clear: session fixation, stripped capabilities.
            let mut wire = Wire::new(encrypt(tcp, backend).await?);
            let capabilities = wire.capabilities(Keep::Alerts, &mut aside).await?;
            (wire, capabilities)
        }
    };
    let mut link = Link { wire, capabilities, aside, place: Place::default(), told: None, state: Greeted(()) };
    if let Some(caller) = caller {
        link.announce(caller, backend.config.forward_id);
    }
    Ok(link)
}

pub(super) fn proxy_header(version: ProxyVersion, caller: Option<&Caller<'_>>) -> Vec<u8> {
    let Some(caller) = caller else { return proxy_header::encode_local(version == ProxyVersion::V2) };
    match version {
        ProxyVersion::V1 => proxy_header::encode_v1(caller.client, caller.local),
        ProxyVersion::V2 => {
            let name = caller.server_name.filter(|_| caller.secure);
            proxy_header::encode_v2(caller.client, caller.local, caller.secure, name)
        }
    }
}

async fn encrypt(tcp: TcpStream, backend: &Backend) -> Result<Stream, LinkError> {
    let Some(connector) = &backend.connector else {
        return Err(LinkError::misconfigured(BackendError::Tls, "no TLS settings for this backend"));
    };
    let began = Instant::now();
    let stream = connector.connect(tcp).await.map_err(|error| {
        let detail = format!("TLS: {error}");
        match error.kind() {
            // A certificate that does not verify will not the next time either.
            io::ErrorKind::InvalidData => LinkError::misconfigured(BackendError::Tls, detail),
            _ => LinkError::down(Some(BackendError::Tls), detail),
        }
    })?;
    backend.metrics.encrypted(began.elapsed());
    Ok(stream)
}

/// Reads the greeting, and asks for the capabilities if it has none.
pub(super) async fn greeted<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    aside: &mut Aside,
) -> Result<(Wire<S>, Capabilities), LinkError> {
    let mut wire = Wire::new(stream);
    let capabilities = match capabilities_in(&greeting(&mut wire).await?) {
        Some(capabilities) => capabilities,
        None => wire.capabilities(Keep::Alerts, aside).await?,
    };
    Ok((wire, capabilities))
}

/// Reads the greeting, and gives what stands behind its OK. Only `* OK` will do: PREAUTH would make us somebody we never
/// asked to be, and STARTTLS impossible (CVE-2020-14093).
pub(super) async fn greeting<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Vec<u8>, LinkError> {
    let line = wire.next().await.map_err(|error| LinkError {
        kind: match error.kind {
            Some(BackendError::Protocol) => Some(BackendError::Greeting),
            other => other,
        },
        detail: format!("instead of a greeting: {}", error.detail),
        ..error
    })?;
    if let Response::Status { tag: None, status: Status::Ok, text } = response::read(&line) {
        return Ok(text.to_vec());
    }
    let shown = escape(line.get(..200).unwrap_or(&line).trim_ascii_end()).to_string();
    Err(LinkError::down(Some(BackendError::Greeting), format!("greeting: {shown}")))
}

/// Greeting and STARTTLS in clear. Never goes on without TLS; everything that was learnt is forgotten.
pub(super) async fn start_tls<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Result<S, LinkError> {
    let (wire, capabilities) = greeted(stream, &mut Aside::default()).await?;
    ask_for_tls(wire, &capabilities).await
}

/// STARTTLS, where it is offered; gives the stream for the handshake.
pub(super) async fn ask_for_tls<S: AsyncRead + AsyncWrite + Unpin>(
    mut wire: Wire<S>,
    capabilities: &Capabilities,
) -> Result<S, LinkError> {
    if !capabilities.has("STARTTLS") {
        return Err(LinkError::misconfigured(BackendError::StartTls, "it does not offer STARTTLS"));
    }
    // The answer must be the next thing said: what stands before it or behind it in clear may be an attacker's, put
    // there to be read as if it had come through TLS (CVE-2020-15685, CVE-2026-1642).
    if !wire.is_quiet() {
        return Err(LinkError::protocol("more bytes in clear before the answer to STARTTLS"));
    }
    match wire.ask(b"STARTTLS", Keep::Forbidden, &mut Aside::default()).await? {
        Answer::Ok(_) => wire.into_clear(),
        Answer::Refused(..) => Err(LinkError::misconfigured(BackendError::StartTls, "it refuses STARTTLS")),
        Answer::Continue(_) => Err(LinkError::protocol("a + for STARTTLS")),
    }
}

impl<State, S: AsyncRead + AsyncWrite + Unpin> Link<State, S> {
    /// Tells the backend about the client by ID, if it listens and there is something to tell that it has not been told on
    /// this link.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn identify(&mut self, caller: &Caller<'_>, forward: bool) -> Result<(), LinkError> {
        let Some(command) = self.introduction(caller, forward) else { return Ok(()) };
        id::heard(&self.wire.ask(&command, Keep::Alerts, &mut self.aside).await?)
    }

    /// The same in one write with what is said next, which is a login: that saves the user a round trip.
    pub fn announce(&mut self, caller: &Caller<'_>, forward: bool) {
        if let Some(command) = self.introduction(caller, forward) {
            self.wire.send_ahead(&command);
        }
    }

    /// What it has not been told yet.
    fn introduction(&mut self, caller: &Caller<'_>, forward: bool) -> Option<Vec<u8>> {
        let lasting = id::command(&caller.at_any_time(), forward, &self.capabilities);
        if self.told == lasting {
            return None;
        }
        self.told = lasting;
        // Of a client that says nothing the backend is not to think what the one before has said.
        Some(id::command(caller, forward, &self.capabilities).unwrap_or_else(|| b"ID NIL".to_vec()))
    }
}

/// Tries the addresses of the host in turn, each with its share of the time that is left. Says which one it was.
async fn dial(backend: &Backend, dialling: &Dialling, deadline: Instant) -> Result<(TcpStream, SocketAddr), LinkError> {
    let config = &backend.config;
    let connect = |detail: String| LinkError::down(Some(BackendError::Connect), detail);
    let names = dialling.names();
    let addresses = match timeout_at(deadline, names.addresses(&config.host, config.port)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return Err(connect(format!("DNS: {error}"))),
        Err(_) => {
            return Err(LinkError::down(
                Some(BackendError::Timeout),
                format!("DNS: {}: no answer in time", config.host),
            ));
        }
    };
    if let Some(address) = addresses.iter().find(|address| is_own(**address, &dialling.own())) {
        let detail = format!("{address} is one of our own listeners");
        return Err(LinkError::new(Some(BackendError::Connect), Refusal::Loop, detail));
    }
    let mut last = connect(format!("{}: has no address", config.host));
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(1);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        last = match timeout_at(Instant::now() + share, connect_to(backend.source(address.is_ipv6()), *address)).await {
            Ok(Ok(tcp)) => return Ok((tcp, *address)),
            // Another address does not help, and the backend is not to blame.
            Ok(Err(error)) if is_ours(&error) => {
                return Err(LinkError::down(Some(BackendError::Local), format!("connecting to {address}: {error}")));
            }
            Ok(Err(error)) => connect(format!("connecting to {address}: {error}")),
            Err(_) => {
                LinkError::down(Some(BackendError::Timeout), format!("connecting to {address}: no answer in time"))
            }
        };
        names.shun(*address);
    }
    Err(last)
}

pub(super) async fn connect_to(source: Option<IpAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    if let Some(source) = source {
        // The port is chosen at connect, when the destination is known: 64k ports per source and destination, not in all.
        // A kernel without this works too, with fewer ports.
        #[cfg(target_os = "linux")]
        nix::sys::socket::setsockopt(&socket.as_fd(), nix::sys::socket::sockopt::IpBindAddressNoPort, &true).ok();
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}

/// Whether it is this machine that is short of something: descriptors, memory, ports.
fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    const SHORT: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|error| SHORT.contains(&error))
}

/// Whether that address leads to one of our listeners. One that listens on all addresses is met on loopback and on every
/// address of this machine.
pub fn is_own(destination: SocketAddr, own: &[SocketAddr]) -> bool {
    let address = destination.ip().to_canonical();
    own.iter().filter(|listener| listener.port() == destination.port()).any(|listener| {
        let listening = listener.ip().to_canonical();
        if !listening.is_unspecified() {
            // Dialling 0.0.0.0 or [::] means loopback.
            return listening == address || (address.is_unspecified() && listening.is_loopback());
        }
        let family = listening.is_ipv6() || address.is_ipv4();
        family && (address.is_loopback() || address.is_unspecified() || is_local(address))
    })
}

/// Whether an address is one of this machine's: then the kernel speaks to it from itself. Connecting a UDP socket sends
/// nothing.
fn is_local(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv6() { [0_u16; 8].into() } else { [0_u8; 4].into() };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    source().is_ok_and(|source: SocketAddr| source.ip() == address)
}

#[cfg(test)]
mod tests;
