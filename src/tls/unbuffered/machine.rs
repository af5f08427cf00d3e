//! Ciphertext in, plaintext out, and the other way round: [`Machine`]. It knows no socket. Not here: the handshake's settings.
//!
//! What it owns is bounded by what one poll brings: of what was received one record (64 KiB in a handshake, whose
//! messages may be as long), of what was decrypted what one read of a small buffer brings, of what was encrypted one write.

use std::io;
use std::mem;
use std::task::Poll;

use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, ProtocolVersion};
use tokio::io::ReadBuf;

use super::side::Side;
use super::waiting::Waiting;

/// The plaintext of a record at most (RFC 8446 5.1).
const PLAIN_MAX: usize = 16 * 1024;
/// A record at most, as rustls takes it: with its header, and with what padding and old ciphers add (RFC 5246 6.2.3).
pub(super) const RECORD_MAX: usize = 5 + PLAIN_MAX + 2048;
/// A message of a handshake at most, as rustls takes it, and so what may have to be kept until it is whole.
const HANDSHAKE_MAX: usize = 0xffff;
/// How much is encrypted at once: full records, as many as the thread's buffer has room for.
const WRITE_MAX: usize = 4 * PLAIN_MAX;
/// So much of rustls' own words goes out together with what is written next.
const ALONG_MAX: usize = 4 * 1024;

/// A connection between its plaintext and its ciphertext.
pub(super) struct Machine<S> {
    connection: S,
    /// Received, but not whole yet. Fragments of a handshake's message are decrypted in place already, and rustls knows where:
    /// it must be given exactly these bytes again.
    partial: Vec<u8>,
    /// Decrypted, but not read yet.
    plain: Waiting,
    /// Encrypted, but not sent yet.
    unsent: Waiting,
    /// The socket has taken less than it was given.
    stalled: bool,
    /// Nothing will be encrypted any more.
    closed: bool,
    reading: Reading,
}

/// What is to be expected of the peer.
enum Reading {
    Open,
    /// Nothing: it has said `close_notify`.
    Ended,
    /// Nothing that could be trusted.
    Failed(Option<io::Error>),
}

/// The same, for whoever has read all that was decrypted.
pub(super) enum Inbound {
    Open,
    Ended,
    Failed(io::Error),
}

impl<S: Side> Machine<S> {
    /// Has its first words ready, if it speaks first.
    pub(super) fn new(connection: S) -> Self {
        let mut machine = Self {
            connection,
            partial: Vec::new(),
            plain: Waiting::default(),
            unsent: Waiting::default(),
            stalled: false,
            closed: false,
            reading: Reading::Open,
        };
        machine.receive(&mut [], &mut ReadBuf::new(&mut []));
        machine
    }

    pub(super) fn agreed(&self) -> &CommonState {
        &self.connection
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The handshake is over, and the peer need not hear anything more of it first. Tickets of TLS 1.3 can go out with what is
    /// written next.
    pub(super) fn is_done_shaking(&self) -> bool {
        let heard_last = S::HEARS_LAST && self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        !self.is_handshaking() && (heard_last || !self.unsent.is_waiting())
    }

    pub(super) fn inbound(&mut self) -> Inbound {
        match &mut self.reading {
            Reading::Open => Inbound::Open,
            Reading::Ended => Inbound::Ended,
            Reading::Failed(error) => {
                Inbound::Failed(error.take().unwrap_or_else(|| io::ErrorKind::InvalidData.into()))
            }
        }
    }

    /// Hands over what was decrypted before; false: there is nothing.
    pub(super) fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let n = self.plain.rest().len().min(buf.remaining());
        buf.put_slice(&self.plain.rest()[..n]);
        if n > 0 {
            self.plain.take(n);
        }
        n > 0
    }

    /// Where to read into a scratch buffer, so that the plaintext of it fits into `plain` bytes where these are many, and a
    /// record is whole where they are few. [`Machine::receive`] fills the beginning.
    pub(super) fn room(&self, plain: usize, scratch: usize) -> (usize, usize) {
        // Header, kind, tag; and in TLS 1.2 a nonce.
        let extra = if self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) { 22 } else { 29 };
        let fitting = plain + plain / PLAIN_MAX * extra;
        let start = self.partial.len();
        (start, fitting.max(RECORD_MAX).max(start + PLAIN_MAX / 4).min(scratch))
    }

    /// Takes in what was received: `incoming`, but for the beginning, as [`Machine::room`] said. Plaintext goes into `buf` as
    /// far as there is room.
    pub(super) fn receive(&mut self, incoming: &mut [u8], buf: &mut ReadBuf<'_>) {
        incoming[..self.partial.len()].copy_from_slice(&self.partial);
        let (used, _) = self.advance(incoming, buf, |_, _| ());
        let rest = &incoming[used..];
        let most = if self.is_handshaking() { HANDSHAKE_MAX } else { RECORD_MAX };
        if !matches!(self.reading, Reading::Open) {
            // What follows on close_notify is to be ignored (RFC 8446 6.1).
            self.partial = Vec::new();
        } else if rest.len() >= most {
            self.fail(io::Error::new(io::ErrorKind::InvalidData, "a message of the handshake is too long"));
        } else {
            self.partial = rest.to_vec();
        }
    }

    /// Encrypts what can be sent at once, behind what waits to be sent. Says how much of `plain` that is, and how much stands
    /// in `scratch` now.
    pub(super) fn seal(&mut self, plain: &[u8], scratch: &mut [u8]) -> io::Result<(usize, usize)> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let plain = &plain[..plain.len().min(WRITE_MAX)];
        if plain.is_empty() {
            return Ok((0, 0));
        }
        let sealed = self.resume(|mut traffic, waiting| {
            scratch[..waiting.len()].copy_from_slice(waiting);
            let n = traffic.encrypt(plain, &mut scratch[waiting.len()..])?;
            Ok::<_, EncryptError>(waiting.len() + n)
        });
        match sealed {
            Some(Ok(end)) => {
                self.unsent.drop_all();
                Ok((plain.len(), end))
            }
            Some(Err(error)) => {
                // The keys are used up. TLS 1.2 cannot change them: rustls says close_notify.
                self.collect();
                self.closed = true;
                Err(io::Error::other(error))
            }
            None => {
                self.closed = true;
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    /// Keeps what was sealed and not sent.
    pub(super) fn keep(&mut self, sealed: &[u8]) {
        if !sealed.is_empty() && !self.closed {
            self.unsent.push(sealed);
            self.stalled = true;
        }
    }

    /// Whether [`Machine::seal`] may be called: not while the socket is full.
    pub(super) fn takes_more(&self) -> bool {
        self.closed || !self.stalled && self.unsent.rest().len() <= ALONG_MAX
    }

    /// Says `close_notify`, once.
    pub(super) fn close(&mut self) {
        if self.closed {
            return;
        }
        let mut alert = [0; 128];
        if let Some(Ok(n)) = self.resume(|mut traffic, _| traffic.queue_close_notify(&mut alert)) {
            self.unsent.push(&alert[..n]);
        }
        self.collect();
        self.closed = true;
    }

    /// What is to be sent.
    pub(super) fn unsent(&self) -> &[u8] {
        self.unsent.rest()
    }

    /// So much of it was sent.
    pub(super) fn sent(&mut self, n: usize) {
        self.unsent.take(n);
        self.stalled &= self.unsent.is_waiting();
    }

    /// Takes note of what became of a write: after an error nothing more can be sent, since something is missing.
    pub(super) fn judge(&mut self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let wrote = wrote.map(|wrote| match wrote {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            wrote => wrote,
        });
        match &wrote {
            Poll::Pending => self.stalled = true,
            Poll::Ready(Err(_)) => {
                self.closed = true;
                self.unsent.drop_all();
            }
            Poll::Ready(Ok(_)) => {}
        }
        wrote
    }

    /// The memory it owns besides rustls' connection.
    pub(super) fn owned(&self) -> usize {
        self.partial.capacity() + self.plain.owned() + self.unsent.owned()
    }

    /// Lets rustls go on without anything new, as far as to where it could encrypt.
    fn resume<R>(&mut self, then: impl FnOnce(WriteTraffic<'_, S::Data>, &[u8]) -> R) -> Option<R> {
        let mut partial = mem::take(&mut self.partial);
        let (used, result) = self.advance(&mut partial, &mut ReadBuf::new(&mut []), then);
        if matches!(self.reading, Reading::Open) {
            partial.drain(..used);
            self.partial = partial;
        }
        result
    }

    /// Lets rustls go on with `incoming` until it wants more of it; if it could encrypt then, `then` may, behind what it is
    /// given. Says how much of `incoming` is done with.
    fn advance<R>(
        &mut self,
        incoming: &mut [u8],
        buf: &mut ReadBuf<'_>,
        then: impl FnOnce(WriteTraffic<'_, S::Data>, &[u8]) -> R,
    ) -> (usize, Option<R>) {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process(&mut incoming[used..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(Ok(record)) = records.next_record() {
                        discard += record.discard;
                        hand_over(record.payload, buf, &mut self.plain);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(message)) => encode(message, &mut self.unsent),
                // Behind all that is sent before and in front of all that is sent later: that will do.
                Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
                Ok(ConnectionState::PeerClosed) => self.reading = Reading::Ended,
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    return (used + discard, Some(then(traffic, self.unsent.rest())));
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => return (used + discard, None),
                Ok(_) => {
                    self.fail(io::Error::other("data before the handshake, which no configuration of ours lets in"));
                    return (used + discard, None);
                }
                Err(error) => {
                    self.fail(io::Error::new(io::ErrorKind::InvalidData, error));
                    return (used + discard, None);
                }
            }
            used += discard;
        }
    }

    /// From now on rustls is not given anything more.
    fn fail(&mut self, error: io::Error) {
        self.collect();
        self.closed = true;
        self.partial = Vec::new();
        self.reading = Reading::Failed(Some(error));
    }

    /// Takes the alerts that rustls has ready. It hands them out before it looks at what was received.
    fn collect(&mut self) {
        while self.connection.wants_write() {
            match self.connection.process(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(message)) => encode(message, &mut self.unsent),
                _ => return,
            }
        }
    }
}

/// Puts it where it is to be read, in order.
fn hand_over(payload: &[u8], buf: &mut ReadBuf<'_>, plain: &mut Waiting) {
    let fitting = if plain.is_waiting() { 0 } else { payload.len().min(buf.remaining()) };
    let (now, later) = payload.split_at(fitting);
    buf.put_slice(now);
    if !later.is_empty() {
        plain.push(later);
    }
}

fn encode<D>(mut message: EncodeTlsData<'_, D>, unsent: &mut Waiting) {
    // It says how long it is only when there is no room.
    if let Err(EncodeError::InsufficientSize(wanted)) = message.encode(&mut []) {
        unsent.fill(wanted.required_size, |room| message.encode(room).unwrap_or(0));
    }
}
