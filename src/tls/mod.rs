//! TLS in both directions, and [`Stream`]: what a connection is from here on, encrypted or not. `certificates.rs` holds
//! the certificates clients meet, `accept.rs` does the handshake with clients, `connect.rs` the one with
//! backends, `examine.rs` one that only looks, `facts.rs` tells what one with a client gave, `unbuffered.rs` encrypts and
//! decrypts, `watch.rs` says when the files are to be read again. Not here: IMAP, deadlines (the caller's).

mod accept;
mod certificates;
mod connect;
mod examine;
mod facts;
#[cfg(test)]
pub(crate) mod testing;
mod unbuffered;
mod watch;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub use accept::{Acceptor, Handshake, HandshakeError, Shaken};
pub use certificates::{Certificates, SelfSignedError, ServedCertificate};
#[cfg(test)]
pub(crate) use connect::tests::Pki;
pub use connect::{Connector, client_config};
pub use examine::{Examiner, Flaw, Seen, Shown, Unshaken};
pub use facts::{ClientCertificate, Facts, Verified};
pub use unbuffered::{Side, TlsStream};
pub use watch::{Stamp, Watch};

/// A connection, to a client or to a backend.
#[derive(Debug)]
pub enum Stream {
    /// In clear.
    Plain(TcpStream),
    /// A client's, inside TLS. Boxed, so that a session in clear does not pay for it.
    Client(Box<TlsStream<TcpStream, UnbufferedServerConnection>>),
    /// A backend's, inside TLS.
    Backend(Box<TlsStream<TcpStream, UnbufferedClientConnection>>),
}

impl Stream {
    /// The socket below, for addresses and options.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Client(tls) => tls.get_ref(),
            Self::Backend(tls) => tls.get_ref(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Client(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Backend(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Client(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Backend(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Client(tls) => Pin::new(tls).poll_flush(cx),
            Self::Backend(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Client(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Backend(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
