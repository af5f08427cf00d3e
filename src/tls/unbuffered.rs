//! A TLS connection on rustls' unbuffered API: rustls keeps the keys and the state, and every buffer is ours. One is lent by
//! the thread for each poll (`scratch.rs`); a connection owns bytes only while there are some that nobody has taken (`waiting.rs`),
//! so that one that idles owns none. `machine.rs` turns ciphertext into plaintext and back, `side.rs` tells the two ends
//! apart. Here: both with a socket below. Not here: whom to believe, deadlines, what the bytes mean.

mod machine;
mod scratch;
mod side;
mod waiting;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::CommonState;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use machine::{Inbound, Machine};
pub use side::Side;

/// How often one poll reads on when nothing that can be passed on has come: tickets and the like, or a record in crumbs. The
/// others get their turn then.
const TURNS: usize = 8;

/// The ciphertext of a connection goes through `io`; what is read and written here is the plaintext.
///
/// A peer that goes away without `close_notify` is an error of the kind [`io::ErrorKind::UnexpectedEof`]. After any other
/// error nothing can be read or written any more.
pub struct TlsStream<T, S> {
    io: T,
    machine: Machine<S>,
}

impl<T: AsyncRead + AsyncWrite + Unpin, S: Side> TlsStream<T, S> {
    /// Before the handshake, which is next.
    pub(super) fn new(io: T, connection: S) -> Self {
        Self { io, machine: Machine::new(connection) }
    }

    /// Does the handshake. What came behind it is read first afterwards.
    ///
    /// # Errors
    /// Those of `io`, its end among them ([`io::ErrorKind::UnexpectedEof`]), and [`io::ErrorKind::InvalidData`] around what
    /// rustls says; the peer has been sent an alert then.
    pub(super) async fn shake(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shake(cx)).await
    }

    /// One turn of [`TlsStream::shake`].
    pub(super) fn poll_shake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.machine.is_done_shaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_send(cx))?;
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            if !self.machine.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(scratch::lend(|scratch| self.poll_receive(cx, scratch, &mut ReadBuf::new(&mut []))))?;
            if let Inbound::Failed(error) = self.machine.inbound() {
                // The alert, if the socket takes it.
                let _ = self.poll_send(cx);
                return Poll::Ready(Err(error));
            }
        }
    }

    /// The socket below.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// What the handshake has agreed on.
    pub fn agreed(&self) -> &CommonState {
        self.machine.agreed()
    }

    /// The memory it owns besides rustls' connection: none while nothing is under way.
    pub fn owned(&self) -> usize {
        self.machine.owned()
    }

    /// Reads once, and puts what comes of it into `buf` or leaves it with the machine.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // In front of what comes there must be room for what the machine has of it already.
        let (start, end) = self.machine.room(buf.remaining(), scratch.len());
        let mut came = ReadBuf::new(&mut scratch[start..end]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut came))?;
        let end = start + came.filled().len();
        if end == start {
            let what = if self.machine.is_handshaking() {
                "the peer has gone in the middle of the handshake"
            } else {
                "the peer has gone without close_notify"
            };
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
        }
        self.machine.receive(&mut scratch[..end], buf);
        Poll::Ready(Ok(()))
    }

    /// Sends all that is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.machine.unsent().is_empty() {
            let wrote = Pin::new(&mut self.io).poll_write(cx, self.machine.unsent());
            let taken = ready!(self.machine.judge(wrote))?;
            self.machine.sent(taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, S: Side> AsyncRead for TlsStream<T, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 || this.machine.give(buf) {
            return Poll::Ready(Ok(()));
        }
        let (before, unsent) = (buf.filled().len(), this.machine.unsent().len());
        for _ in 0..TURNS {
            match this.machine.inbound() {
                Inbound::Open => ready!(scratch::lend(|scratch| this.poll_receive(cx, scratch, buf)))?,
                Inbound::Ended => return Poll::Ready(Ok(())),
                Inbound::Failed(error) => return Poll::Ready(Err(error)),
            }
            if this.machine.unsent().len() > unsent {
                // An alert. What goes wrong with it is seen by whoever writes next.
                let _ = this.poll_send(cx);
            }
            // One read, and no other one to learn that there is no more: there is an error or an end only the next time.
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, S: Side> AsyncWrite for TlsStream<T, S> {
    /// Encrypts and writes once. What the socket does not take of it is kept, and nothing else is taken before that is gone.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.machine.takes_more() {
            ready!(this.poll_send(cx))?;
        }
        scratch::lend(|scratch| {
            let (accepted, end) = this.machine.seal(buf, scratch)?;
            if end > 0 {
                let wrote = Pin::new(&mut this.io).poll_write(cx, &scratch[..end]);
                let taken = match this.machine.judge(wrote) {
                    Poll::Ready(taken) => taken?,
                    Poll::Pending => 0,
                };
                this.machine.keep(&scratch[taken..end]);
            }
            Poll::Ready(Ok(accepted))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.machine.close();
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // The peer has closed both ways already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            shut => Poll::Ready(shut),
        }
    }
}

impl<T: fmt::Debug, S> fmt::Debug for TlsStream<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("io", &self.io).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
